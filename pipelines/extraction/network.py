"""Extract's job: the frozen network, loaded and cut in a worker, beside what it reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ConfigError, DeviceLostError, FeatureError, ManifestError
from pipelines.execution import devices
from pipelines.execution.threads import num_cores
from pipelines.extraction import reading
from pipelines.extraction.device import Network
from pipelines.extraction.extractor import Extractor
from pipelines.extraction.feeding import Ahead
from pipelines.extraction.inputs import CachedNode, Origin, Source
from pipelines.images import preprocess
from pipelines.networks import backbones, blocks, forward, nodes
from pipelines.storage.fingerprint import check_same

_MOST_IMAGES = 64  # tried at once on a GPU
_CPU_IMAGES = 8
_MEMORY_SHARE = 8  # of the machine's, that a batch may take on the CPU: one in so many
_ON_GPU_AT_ONCE = 2  # one is copied while the other is computed


@dataclass(frozen=True)
class NodeFacts:
    """What a plan says of a node.

    Attributes:
        name: as Keras spells it.
        shape: of its map.
        blocks: behind it.
        feeds_decision: whether the decision layer reads it.
    """

    name: str
    shape: tuple[int, ...]
    blocks: tuple[str, ...]
    feeds_decision: bool


@dataclass(frozen=True)
class Facts:
    """What a worker finds out about itself.

    Attributes:
        profile: that its numbers depend on.
        has_gpu: whether it runs on one.
        is_built_with_gpu: whether its TensorFlow could.
        weights_sha256: of the backbone.
        protocol: of the preprocessing.
        nodes: that are cut at.
        batch_size: images at once.
    """

    profile: Mapping[str, Any]
    has_gpu: bool
    is_built_with_gpu: bool
    weights_sha256: str
    protocol: preprocess.Protocol
    nodes: tuple[NodeFacts, ...]
    batch_size: int


@dataclass(frozen=True)
class Job:
    """The network and how it runs.

    Attributes:
        backbone: its name.
        weights: "imagenet", "none" or a path.
        weights_seed: of random ones.
        nodes: to cut at, by any spelling; none for the one that the decision layer reads.
        origin: of the inputs.
        batch_size: images at once; 0 for as many as fit.
        precision: "float32", "mixed_float16" or "mixed_bfloat16".
        threads: of TensorFlow.
        num_workers: that share this machine's cores.
        expected: what all workers must find; None for the first one.
    """

    backbone: str
    weights: str
    weights_seed: int
    nodes: tuple[str, ...]
    origin: Origin
    batch_size: int
    precision: str
    threads: int
    num_workers: int = 1
    expected: Facts | None = None

    def open(self) -> Extractor:
        """Load the network, cut it, compile its parts.

        Raises:
            ConfigError: an unknown backbone, or TensorFlow runs with other threads here already.
            NodeError: a node is no valid cut, or does not lie behind the one to start from.
            WeightsError: the weights are missing or do not fit.
            ManifestError: the cache to start from has other weights, or this worker's numbers
                would not be those of the others.
            FeatureError: a batch does not fit the device.
        """
        profile = devices.configure(self.threads, self.precision)
        if profile["threads"] != self.threads:
            raise ConfigError(
                f"threads {self.threads}: TensorFlow has begun with {profile['threads']} in this "
                "process; ask for so many, or have the work done in processes of their own"
            )
        # As train-tail will load it: a seed that the fingerprint lacks must not decide any weight.
        backbone = backbones.load(self.backbone, self.weights, self.weights_seed)
        cut = _Cut(self, backbone)
        has_gpu = devices.has_gpu()
        if has_gpu:
            devices.make_deterministic()
        network = self._fitting(cut, has_gpu)
        facts = Facts(
            profile,
            has_gpu,
            devices.is_built_with_gpu(),
            backbone.weights_sha256,
            cut.protocol,
            cut.facts(),
            network.batch_size,
        )
        if self.expected is not None:
            mend = "leave this device out with --devices, or extract into another --features-dir"
            asked, found = _comparable(self.expected), _comparable(facts)
            place = f"worker with CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
            check_same(asked, found, Path(place), mend)
        batch_bytes = int(np.prod(cut.batch(network.batch_size).full_shape))
        batch_bytes *= np.dtype(cut.batch(1).dtype).itemsize
        return Extractor(cut.source, network, Ahead(self._threads(has_gpu), batch_bytes), facts)

    def _threads(self, has_gpu: bool) -> int:
        """Choose how many threads decode: a worker of one core does everything in turn."""
        if has_gpu:
            return max(1, num_cores() // self.num_workers)
        return self.threads if self.threads > 1 else 0

    def _fitting(self, cut: _Cut, has_gpu: bool) -> Network:
        """Build at the wanted batch size, or at the largest that fits the device."""
        if self.batch_size or not has_gpu:
            network = cut.network(self.batch_size or cut.cpu_batch_size(), has_gpu)
            if has_gpu:
                cut.warm_up(network)
            return network
        batch_size = _MOST_IMAGES
        while True:
            try:
                network = cut.network(batch_size, has_gpu)
                cut.warm_up(network)
                return network
            except (BatchTooLargeError, DeviceLostError):  # a library short of memory may just fail
                if batch_size == 1:
                    raise
                batch_size //= 2


class BatchTooLargeError(FeatureError):
    """A batch does not fit the device's memory."""


def _comparable(facts: Facts) -> dict[str, Any]:
    return {"profile": dict(facts.profile), "weights_sha256": facts.weights_sha256}


class _Cut:
    """A backbone cut at the nodes, and what is to run through it."""

    def __init__(self, job: Job, backbone: backbones.Backbone) -> None:
        self._backbone = backbone
        model = backbone.model
        self.nodes = _choose_nodes(backbone, job.nodes)
        self.protocol = preprocess.for_backbone(backbone.protocol, backbone.input_size)
        self._num_branches = len(job.origin.branches)
        self.source, start = _open_origin(job, backbone, self.protocol)
        if start is None:
            self._part, self._whole = nodes.front(model, self.nodes), nodes.to_decision(model)
            self._shape: tuple[int, ...] = (self.protocol.size, self.protocol.size, 3)
            self._scaled: preprocess.Protocol | None = self.protocol
        else:
            self._part = nodes.between(model, start, self.nodes)
            self._whole = nodes.to_decision(model, start)
            self._shape, self._scaled = start.shape, None

    def batch(self, batch_size: int) -> forward.Batch:
        """Return the shape of what runs forward at once."""
        return forward.Batch(batch_size, self._num_branches, self._shape, self._scaled)

    def network(self, batch_size: int, has_gpu: bool) -> Network:
        """Compile the parts for one batch size."""
        batch, model = self.batch(batch_size), self._backbone.model
        classifier = nodes.classifier(model)
        names = [node.name for node in self.nodes]
        guard = partial(_guarded, batch, has_gpu)
        return Network(
            names,
            guard(forward.build(self._part, names, batch)),
            guard(forward.build_scores(self._whole, *classifier, batch)),
            [
                guard(
                    forward.build_scores(
                        nodes.to_decision(model, node),
                        *classifier,
                        forward.Batch(batch_size, self._num_branches, node.shape, None),
                    )
                )
                for node in self.nodes
            ],
            batch_size,
            _ON_GPU_AT_ONCE if has_gpu else 1,
        )

    def warm_up(self, network: Network) -> None:
        """Run as many batches at once as will be on the device."""
        batch = self.batch(network.batch_size)
        inputs = np.zeros(batch.full_shape, batch.dtype)
        with ThreadPoolExecutor(network.in_flight) as pool:
            for future in [
                pool.submit(network.run_forward, inputs) for _ in range(network.in_flight)
            ]:
                future.result()

    def cpu_batch_size(self) -> int:
        """Choose 8 images, or fewer where their maps would fill the machine's memory."""
        limit = devices.memory_bytes() // _MEMORY_SHARE
        image_bytes = self._num_branches * forward.working_bytes(self._part)
        batch_size = _CPU_IMAGES
        while batch_size > 1 and batch_size * image_bytes > limit:
            batch_size //= 2
        return batch_size

    def facts(self) -> tuple[NodeFacts, ...]:
        """Say what plans publish of the nodes."""
        name, model = self._backbone.name, self._backbone.model
        default = _default_node(self._backbone)
        return tuple(
            NodeFacts(
                node.name,
                node.shape,
                tuple(blocks.blocks_behind(name, model, node)),
                node.name == default,
            )
            for node in self.nodes
        )


def _open_origin(
    job: Job, backbone: backbones.Backbone, protocol: preprocess.Protocol
) -> tuple[Source, nodes.Node | None]:
    """Open what is read; gives the node in front where it is a cache."""
    source = reading.open_source(job.origin, protocol)
    if not isinstance(source, CachedNode):
        return source, None
    cache = source.cache
    if backbone.weights_sha256 != cache.fingerprint["weights_sha256"]:
        raise ManifestError(
            f"{cache.path}: made with other weights than {job.weights} has now; "
            "start from a cache of the same weights"
        )
    return source, nodes.find_node(backbone.name, backbone.model, cache.node)


def _guarded(batch: forward.Batch, has_gpu: bool, run: Callable[..., Any]) -> Callable[..., Any]:
    """Tell a batch that is too large, and a device that fails, from a bug."""
    import tensorflow as tf

    broken = (tf.errors.InternalError, tf.errors.UnavailableError, tf.errors.UnknownError)

    def call(inputs: np.ndarray) -> Any:
        try:
            return run(inputs)
        except tf.errors.ResourceExhaustedError as error:
            raise BatchTooLargeError(
                f"a batch of {batch.num_images} images in {batch.num_branches} versions does not "
                "fit the device's memory; end what else uses it, or extract with a smaller "
                "--batch-size (and --overwrite, for it is part of the cache's settings)"
            ) from error
        except broken as error:
            if has_gpu:
                raise DeviceLostError(str(error).splitlines()[0]) from error
            raise

    return call


def _default_node(backbone: backbones.Backbone) -> str:
    """Return the node that the decision layer reads, where the thesis's first run starts."""
    return str(blocks.list_blocks(backbone.name, backbone.model)[-1].input_node)


def _choose_nodes(backbone: backbones.Backbone, asked: Sequence[str]) -> list[nodes.Node]:
    if not asked:
        asked = [_default_node(backbone)]
    found = [nodes.find_node(backbone.name, backbone.model, name) for name in asked]
    return list({node.name: node for node in found}.values())
