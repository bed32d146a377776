"""A training step on streamed and on resident batches against the same step on ready tensors.

The real trainer runs its real loop: batches from the cache, losses checked, progress reported. Its
clock starts after the first step, which traces and compiles, and stops after the last one, so that
evaluations and checkpoints are outside and the starts of the later epochs are inside. The baseline
calls the trainer's own compiled step on tensors that are in memory already, all different.

The cache is synthetic: the decision layer's input for 1,000 classes, 11 branches.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report, synthetic_cache
from pipelines.execution import devices
from pipelines.networks import backbones, models, nodes
from pipelines.storage.batches import FeatureReader
from pipelines.storage.cache import FeatureCache
from pipelines.training import loop
from pipelines.training.history import History

_TARGETS = {"streamed": "at least 0.85", "resident": "at least 0.95"}
_NEVER = 10**9  # steps between evaluations: only those of the start and the end are left
_LEARNING_RATE = 0.01


@dataclass(frozen=True)
class _Setting:
    """What every measured training has in common."""

    backbone: backbones.Backbone
    cache: FeatureCache
    batch_size: int
    epochs: int

    @property
    def num_timed_steps(self) -> int:
        return self.epochs * -(-self.cache.num_rows("train") // self.batch_size) - 1

    def reader(self, is_resident: bool) -> FeatureReader:
        """Open the train split."""
        budget_bytes = 1 << 62 if is_resident else 0
        return self.cache.split("train", self.cache.layout.branches, budget_bytes)

    def trainer(self, train: FeatureReader, run_dir: Path, history: History) -> loop.Trainer:
        """Build a model as it starts, and its trainer."""
        branches = self.cache.layout.branches
        model = models.build(self.backbone, self.cache, branches, "original", "random", 0)
        settings = loop.Settings(
            self.epochs, self.batch_size, _LEARNING_RATE, _NEVER, self.epochs, seed=0
        )
        val = self.cache.split("val", branches, 0)
        paths = loop.Paths.of(run_dir, "topology")
        paths.last.parent.mkdir(parents=True)
        return loop.Trainer("topology", model, train, val, settings, paths, history)


def main() -> None:
    """Measure and publish."""
    parser = report.parser("train_step", "Measure a step of train-tail.", repetitions=5)
    parser.add_argument("--backbone", default="inception_v3", help="gives the shape of avg_pool")
    parser.add_argument("--images", type=report.positive, default=2000, help="in the train split")
    parser.add_argument("--classes", type=report.positive, default=1000, help="of the head")
    parser.add_argument("--batch-size", type=report.positive, default=100, help="images a step")
    parser.add_argument("--epochs", type=report.positive, default=3, help="of a repetition")
    parser.add_argument(
        "--density", type=float, default=0.75, help="share of activations that are not zero"
    )
    arguments = parser.parse_args()
    if arguments.epochs * -(-arguments.images // arguments.batch_size) < 2:
        parser.error("that is one step only, which is not timed; raise --images or --epochs")
    devices.configure()
    devices.make_deterministic()
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        setting = _prepare(Path(folder), arguments)
        rows = _measure(setting, Path(folder), arguments.repetitions)
    report.publish("train_step", arguments, rows)


def _prepare(folder: Path, arguments: Any) -> _Setting:
    """Write the cache; the backbone's weights are random, only its shapes matter."""
    backbone = backbones.load(arguments.backbone, backbones.NONE)
    node = nodes.list_nodes(backbone.name, backbone.model)[-1]
    contents = synthetic_cache.Contents(
        {"train": arguments.images, "val": arguments.batch_size},
        arguments.classes,
        arguments.density,
    )
    cache = synthetic_cache.write(folder / "features", node, contents)
    return _Setting(backbone, cache, arguments.batch_size, arguments.epochs)


def _measure(setting: _Setting, folder: Path, repetitions: int) -> list[report.Row]:
    readers = {"streamed": setting.reader(False), "resident": setting.reader(True)}
    step, batches = _ready(setting, readers["streamed"], folder / "ready")
    figures = report.take_turns(
        {
            **{
                name: partial(_rate_of_trainer, setting, reader, folder / "run")
                for name, reader in readers.items()
            },
            "ready": partial(_rate_of_step, step, batches, setting.num_timed_steps),
        },
        repetitions,
    )
    layout = setting.cache.layout
    what = f"{len(setting.cache.classes):,} classes, {len(layout.branches)} x {layout.shape}"
    return [
        report.compare(
            f"train step, {name}, {what} {layout.encoding} {layout.dtype}",
            "steps/s",
            figures[name],
            figures["ready"],
            "the same step on tensors in memory",
            target,
            {
                "MB of the train split as cells": setting.cache.resident_bytes("train", ("all",))
                / 1e6
            },
        )
        for name, target in _TARGETS.items()
    ]


def _ready(
    setting: _Setting, reader: FeatureReader, run_dir: Path
) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return a trainer's compiled step, and the batches of one epoch as tensors."""
    import tensorflow as tf

    batches = [
        (tf.constant(batch.features), tf.constant(batch.labels))
        for batch in reader.epoch(setting.batch_size, seed=0, epoch=0)
    ]
    trainer = setting.trainer(reader, run_dir, _history(run_dir))
    # Private, because nothing but the very function that the trainer calls will do.
    return trainer._step_function, batches


def _rate_of_trainer(setting: _Setting, train: FeatureReader, run_dir: Path) -> float:
    """Train from the start; steps/s between the end of the first step and of the last."""
    ends: list[float] = []
    with contextlib.closing(_history(run_dir)) as history:
        trainer = setting.trainer(train, run_dir, history)
        trainer.run(lambda step: None, lambda: ends.append(time.perf_counter()))
    shutil.rmtree(run_dir)
    return (len(ends) - 1) / (ends[-1] - ends[0])


def _history(run_dir: Path) -> History:
    return History(run_dir / "history.jsonl", run_dir / "tensorboard")


def _rate_of_step(step: Any, ready: list[tuple[Any, Any]], num_steps: int) -> float:
    """Call the compiled step on ready tensors; steps/s."""
    batches = itertools.cycle(ready)
    loss, _ = step(*next(batches))
    float(loss)
    started = time.perf_counter()
    for features, labels in itertools.islice(batches, num_steps):
        loss, _ = step(features, labels)
    float(loss)  # a GPU is done only when its last result is there
    return num_steps / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
