"""Real trainings in folders of their own, timed step by step; and their step without a reader."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import synthetic_cache
from benchmarks.synthetic_cache import Contents
from pipelines import fitting, run_folder, runs
from pipelines.config import TrainTailConfig
from pipelines.execution import devices, replicas
from pipelines.execution.replicas import Replicas
from pipelines.networks import backbones, models, nodes
from pipelines.networks.backbones import Backbone
from pipelines.progress import Silent
from pipelines.run_folder import Opened
from pipelines.storage.cache import FeatureCache
from pipelines.training import loop, step
from pipelines.training.feeds import Fed, Feed

STREAMED, RESIDENT = "0", "1000GB"  # memory in which no split is kept, or every one
_MODEL = "topology"
_NEVER = str(10**9)  # steps between evaluations: only those of the start and the end are left
_NUM_LAST = 8  # batches that are made ahead at most: in the last steps the reader rests


@dataclass(frozen=True)
class Bench:
    """What measured trainings have in common.

    Attributes:
        cache: that they read.
        backbone: whose tail they train.
        replicas: the devices.
    """

    cache: FeatureCache
    backbone: Backbone
    replicas: Replicas

    @property
    def what(self) -> str:
        """Say what is trained."""
        layout = self.cache.layout
        shape = " x ".join(f"{size:,}" for size in (len(layout.branches), *layout.shape))
        return f"{self.backbone.name} behind {self.cache.node} ({shape})"

    def num_steps(self, batch_size: int) -> int:
        """Return the steps of an epoch."""
        return -(-self.cache.num_rows("train") // batch_size)


def prepare(folder: Path, backbone_name: str, node_name: str, contents: Contents) -> Bench:
    """Set up TensorFlow as train-tail does, and write a cache of made-up maps.

    Args:
        folder: the cache goes to `features` in it.
        backbone_name: of the network; its weights are random, only its shapes matter.
        node_name: a node of it, or "" for the last.
        contents: of the cache.
    """
    configure()
    backbone = backbones.load(backbone_name, backbones.NONE)
    found = nodes.list_nodes(backbone.name, backbone.model)
    node = nodes.find_node(backbone.name, backbone.model, node_name or found[-1].name)
    cache = synthetic_cache.write(folder / "features", node, contents)
    return Bench(cache, backbone, replicas.open_replicas())


def open_again(cache_dir: Path, backbone_name: str, num_cpus: int) -> Bench:
    """Open what `prepare` made, in another process, with the CPU divided into logical devices."""
    configure(num_cpus)
    backbone = backbones.load(backbone_name, backbones.NONE)
    return Bench(FeatureCache(cache_dir), backbone, replicas.open_replicas(num_cpus))


def configure(num_cpus: int = 1) -> None:
    """Set up TensorFlow as train-tail does."""
    devices.configure(num_cpus=num_cpus)
    devices.make_deterministic()


def config_of(**settings: Any) -> TrainTailConfig:
    """Return settings with which nothing ends a training before its last epoch."""
    endless = {"eval_every": _NEVER, "patience": settings.get("epochs", 1)}
    return TrainTailConfig(**{**endless, **settings})


@dataclass(frozen=True)
class Moment:
    """When something ended.

    Attributes:
        clock_s: on one clock.
        cpu_s: of processors, used by this process so far, in all its threads.
    """

    clock_s: float
    cpu_s: float

    @classmethod
    def now(cls) -> Moment:
        """Return this one."""
        return cls(time.perf_counter(), time.process_time())


def train(bench: Bench, *configs: TrainTailConfig) -> list[Moment]:
    """Train topologies side by side from their start to their last epoch.

    Returns:
        When each step had ended.
    """
    folder = Path(tempfile.mkdtemp(prefix="bottleneck-runs-"))
    ends = _Ends()
    try:
        opened = [_open(bench, folder, f"run-{i}", config) for i, config in enumerate(configs)]
        with fitting.open_fits(
            folder, opened, bench.cache, bench.backbone, bench.replicas, ends
        ) as fits:
            fits.train(_MODEL, loop.never)
    finally:
        shutil.rmtree(folder)
    return ends.moments


@dataclass(frozen=True)
class Pace:
    """How steps went.

    Attributes:
        rate: steps/s.
        cpu_ms: of processors, a step.
    """

    rate: float
    cpu_ms: float

    @classmethod
    def between(cls, start: Moment, end: Moment, num_steps: int) -> Pace:
        """Return the pace of steps between two moments."""
        clock_s, cpu_s = end.clock_s - start.clock_s, end.cpu_s - start.cpu_s
        return cls(num_steps / clock_s, 1e3 * cpu_s / num_steps)


def pace(ends: Sequence[Moment]) -> Pace:
    """Return the pace from the end of the first step on.

    The first step compiles what the others do. Meanwhile batches are made ahead, so the clock
    stops some steps before the last, while as many are ahead again.
    """
    counted = ends[: len(ends) - min(_NUM_LAST, len(ends) // 4)]
    return Pace.between(counted[0], counted[-1], len(counted) - 1)


def epoch_s(bench: Bench, *configs: TrainTailConfig) -> float:
    """Train side by side; return the seconds of an epoch, the first left out, which compiles."""
    ends, num_steps = train(bench, *configs), bench.num_steps(configs[0].batch_size)
    num_epochs = len(ends) // num_steps - 1
    return (ends[-1].clock_s - ends[num_steps - 1].clock_s) / num_epochs


class ReadyStep:
    """The trainer's own compiled step, without trainer and reader."""

    def __init__(self, bench: Bench, config: TrainTailConfig) -> None:
        """Compile the step of a model as it starts."""
        folder = Path(tempfile.mkdtemp(prefix="bottleneck-runs-"))
        opened = _open(bench, folder, "ready", config)
        shutil.rmtree(folder)
        descent = step.Descent(config.momentum, config.weight_decay, config.label_smoothing)
        with bench.replicas.scope():
            topology = models.build(bench.backbone, bench.cache, opened.design(_MODEL), 0)
            optimizer = step.build_optimizer(descent, topology)
        optimizer.learning_rate = config.learning_rate
        reader = bench.cache.split("train", opened.described.branches, 0)
        self._feed = Feed(reader, len(bench.cache.classes), share=bench.replicas.share)
        self._batch_size = config.batch_size
        self.take = step.compile_step(topology, optimizer, self._feed, descent, bench.replicas)

    def batches(self) -> list[Fed]:
        """Return the batches of an epoch as tensors in memory, all different."""
        import tensorflow as tf

        ready = []
        for fed in self._feed.epoch(self._batch_size, 0, 0, 0):
            parts: Any = [tuple(tf.constant(array) for array in part) for part in fed.parts]
            ready.append(Fed(parts, fed.num_images, fed.ids, fed.labels))
        return ready

    def pace(self, batches: Sequence[Fed], num_steps: int) -> Pace:
        """Return the pace on batches in turn, the first step left out, which may compile."""
        in_turn = itertools.cycle(batches)
        self.take(next(in_turn)).numpy()
        start = Moment.now()
        for fed in itertools.islice(in_turn, num_steps):
            result = self.take(fed)
        result.numpy()  # a GPU is done only when its last result is there
        return Pace.between(start, Moment.now(), num_steps)


def batch_of(features: np.ndarray, labels: np.ndarray) -> Fed:
    """Return a batch for one device, of features float32 (images, branches, *shape)."""
    part = (features, labels.astype(np.int32), np.ones(len(labels), np.float32))
    return Fed([part], len(labels), [str(i) for i in range(len(labels))], labels)


class _Ends(Silent):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def advance(self, count: int) -> None:
        """Note the time."""
        self.moments.append(Moment.now())


def _open(bench: Bench, workspace_dir: Path, name: str, config: TrainTailConfig) -> Opened:
    """Describe a run that nobody else knows of."""
    path = runs.folder_of(workspace_dir, name)
    path.mkdir(parents=True)
    features_dir = bench.cache.path.parent
    described = run_folder.describe(workspace_dir, features_dir, bench.cache, name, config, 0)
    runs.write(workspace_dir, name, described)
    return Opened(name, path, described, config, lambda: None)
