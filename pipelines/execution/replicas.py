"""The devices that share every batch: one, those of this host, or those of several hosts.

Each holds the same weights (a replica), works on an even part of the batch, and adds its gradient
to the others'. Hosts find each other through TF_CONFIG, as TensorFlow's own do; each of them runs
the same command on the same files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import ConfigError, TrainingError
from pipelines.execution.tensors import to_tensor
from pipelines.storage.order import Share

_TF_CONFIG = "TF_CONFIG"
# What TensorFlow says where a host no longer answers.
_GONE = ("UnavailableError", "AbortedError", "DeadlineExceededError", "CancelledError")


@dataclass(frozen=True)
class Hosts:
    """The processes that train together.

    Attributes:
        num: of them.
        index: which this one is; the first writes what is written.
    """

    num: int = 1
    index: int = 0


def hosts() -> Hosts:
    """Read TF_CONFIG.

    Raises:
        ConfigError: it cannot be read, or does not say which of the hosts this is.
    """
    text = os.environ.get(_TF_CONFIG, "")
    if not text.strip():
        return Hosts()
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        chiefs, workers = len(cluster.get("chief", ())), len(cluster.get("worker", ()))
        index = int(task["index"]) + (chiefs if task["type"] == "worker" else 0)
        is_known = task["type"] in ("chief", "worker") and 0 <= index < chiefs + workers
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{_TF_CONFIG}: cannot be read: {error!r}; see docs/training.md"
        ) from error
    if not is_known:
        raise ConfigError(
            f"{_TF_CONFIG}: {task} is none of the {chiefs} chief and {workers} worker hosts that "
            "it lists; only these take part"
        )
    return Hosts(chiefs + workers, index)


class Replicas:
    """Devices at work on one batch.

    Attributes:
        hosts: the processes, and which this one is.
        share: the rows of a batch that fall to this host's devices.
    """

    def __init__(self, strategy: Any = None, hosts: Hosts = Hosts()) -> None:
        """Wrap a tf.distribute strategy; None for the one device that TensorFlow takes."""
        self._strategy = strategy
        self.hosts = hosts
        num = strategy.num_replicas_in_sync if strategy else 1
        num_here = num // hosts.num
        self.share = Share(hosts.index * num_here, (hosts.index + 1) * num_here, num)
        self._total: Callable[..., Any] | None = None

    @property
    def num_here(self) -> int:
        """Devices of this host."""
        return self.share.stop - self.share.first

    @property
    def is_first(self) -> bool:
        """Tell whether this host writes what is written."""
        return self.hosts.index == 0

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Let variables be made on every device; the hosts agree on their values."""
        with (
            self._losses_told(),
            self._strategy.scope() if self._strategy else contextlib.nullcontext(),
        ):
            yield

    def compile_sum(
        self, function: Callable[..., Any], signature: Sequence[Any]
    ) -> Callable[..., Any]:
        """Compile what every device does to its part; the results are added up over all.

        Args:
            function: of one device: tensors of `signature`, then the batch's images as a float32
                scalar, to one tensor.
            signature: tensor specs of one device's part.

        Returns:
            A function of the parts, a tuple of arrays a device of this host, and of the number of
            images in the whole batch.
        """
        return self._compile(function, signature, self._added)

    def compile_each(
        self, function: Callable[..., Any], signature: Sequence[Any]
    ) -> Callable[..., Any]:
        """Compile what every device does to its part; gives a list, a result a device here.

        See `compile_sum` for the arguments.
        """
        return self._compile(function, signature, self._listed)

    def share_overflow(self, gradients: Sequence[Any]) -> list[Any]:
        """Spoil the gradients on every device where they are not finite on one; inside a step.

        Keras's LossScaleOptimizer skips such a step, but lets one device decide for all of them,
        before it adds their gradients up.
        """
        import tensorflow as tf

        if self._strategy is None:
            return list(gradients)
        is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(some)) for some in gradients])
        num_spoilt = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, tf.cast(~is_finite, tf.float32)
        )
        added = tf.where(num_spoilt > 0, np.float32("nan"), np.float32(0))
        return [some + tf.cast(added, some.dtype) for some in gradients]

    def total(self, values: np.ndarray) -> np.ndarray:
        """Add up float64 numbers of all hosts; each has to call this, which waits for all."""
        import tensorflow as tf

        if self.hosts.num == 1:
            return values
        if self._total is None:
            spec = tf.TensorSpec((None,), tf.float64)
            self._total = self.compile_sum(lambda part, _: part, [spec])
        nothing = np.zeros_like(values)
        parts = [(values if i == 0 else nothing,) for i in range(self.num_here)]
        return np.array(self._total(parts, 0))

    def _compile(
        self,
        function: Callable[..., Any],
        signature: Sequence[Any],
        gathered: Callable[[Any], Any],
    ) -> Callable[..., Any]:
        import tensorflow as tf

        width = len(signature)
        specs = [*list(signature) * self.num_here, tf.TensorSpec((), tf.float32)]

        @tf.function(input_signature=specs, autograph=False)
        def run(*tensors: Any) -> Any:
            num_images = tensors[-1]
            if self._strategy is None:
                return gathered(function(*tensors[:width], num_images))
            columns = [self._spread(tensors[i:-1:width]) for i in range(width)]
            return gathered(self._strategy.run(function, args=(*columns, num_images)))

        # Traced at the first call. What it gives is called in half the time of `run` itself, which
        # would look anew for the trace that fits.
        traced: list[Callable[..., Any]] = []

        def call(parts: Sequence[tuple[Any, ...]], num_images: int) -> Any:
            tensors = [to_tensor(array) for part in parts for array in part]
            with self._losses_told():
                if not traced:
                    traced.append(run.get_concrete_function())
                return traced[0](*tensors, tf.constant(num_images, tf.float32))

        return call

    def _spread(self, tensors: Sequence[Any]) -> Any:
        """Give each device of this host its tensor."""
        first = self.share.first
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tensors[context.replica_id_in_sync_group - first]
        )

    def _added(self, results: Any) -> Any:
        return self._strategy.reduce("SUM", results, axis=None) if self._strategy else results

    def _listed(self, results: Any) -> list[Any]:
        strategy = self._strategy
        return list(strategy.experimental_local_results(results)) if strategy else [results]

    @contextlib.contextmanager
    def _losses_told(self) -> Iterator[None]:
        """Say in words that another host is gone."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            if self.hosts.num == 1 or type(error).__name__ not in _GONE:
                raise
            raise TrainingError(
                f"another of the {self.hosts.num} hosts in {_TF_CONFIG} no longer answers; start "
                "all of them again, they go on from the last checkpoint"
            ) from error


def open_replicas(num_cpus: int = 1) -> Replicas:
    """Take all devices that TensorFlow sees, and the hosts of TF_CONFIG; waits for these.

    Args:
        num_cpus: logical CPU devices to share the work where there is no GPU.

    Raises:
        TrainingError: TensorFlow runs in this process already, on fewer of them.
    """
    import tensorflow as tf

    found = hosts()
    if found.num > 1:
        return Replicas(tf.distribute.MultiWorkerMirroredStrategy(), found)
    gpus = tf.config.list_logical_devices("GPU")
    names = gpus or tf.config.list_logical_devices("CPU")[:num_cpus]
    if not gpus and len(names) < num_cpus:
        raise TrainingError(
            f"devices cpu:{num_cpus}: TensorFlow runs in this process already, with "
            f"{len(names)} of them; use a new process"
        )
    if len(names) == 1:
        return Replicas()
    return Replicas(tf.distribute.MirroredStrategy([device.name for device in names]))
