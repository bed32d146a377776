"""An epoch of training the head from `top_activation`: from the cache, and from text files."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import report, synthetic_cache
from benchmarks.cache_baselines import TextFiles
from pipelines.networks import backbones, models, nodes
from pipelines.training import loop
from pipelines.training.history import History

_NUM_IMAGES = 600
_BATCH_SIZE = 100
_DENSITY = 0.09  # of Lite0's top_activation on solar cells
_TEXT_IMAGES = 20  # are written as text and read; a whole epoch is that, multiplied
_NEVER = 10**9


def compare(folder: Path, repetitions: int) -> report.Row:
    """Measure one epoch each, after tracing; images a second."""
    backbone = backbones.load("efficientnet_lite0")
    node = nodes.find_node(backbone.name, backbone.model, "top_activation")
    contents = synthetic_cache.Contents({"train": _NUM_IMAGES, "val": 20}, 2, _DENSITY)
    cache = synthetic_cache.write(folder / "features", node, contents)
    branches = cache.layout.branches
    model = models.build(backbone, cache, branches, "original", "random", 0)
    settings = loop.Settings(1, _BATCH_SIZE, 0.01, _NEVER, 1, 0)
    run_dir = folder / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    history = History(run_dir / "history.jsonl", run_dir / "tensorboard")
    train, val = (cache.split(name, branches, 0) for name in ("train", "val"))
    with contextlib.closing(history):
        trainer = loop.Trainer(
            "topology", model, train, val, settings, loop.Paths.of(run_dir, "topology"), history
        )
        step = trainer._step_function
        text_dir = folder / "text"
        text_dir.mkdir()
        some = next(train.in_order(_TEXT_IMAGES))
        TextFiles().write(some.features, text_dir)

        def from_cache() -> float:
            started = time.perf_counter()
            for batch in train.epoch(_BATCH_SIZE, seed=0, epoch=0):
                loss, _ = step(batch.features, batch.labels)
            float(loss)
            return _NUM_IMAGES / (time.perf_counter() - started)

        def from_text() -> float:
            started = time.perf_counter()
            for maps in _text_batches(text_dir, some.features.shape):
                loss, _ = step(maps, some.labels)
            float(loss)
            return _TEXT_IMAGES / (time.perf_counter() - started)

        figures = report.take_turns({"cache": from_cache}, repetitions, warm_up=True)
        from_text()
        texts = [from_text()] * repetitions
    shutil.rmtree(folder)
    return report.compare(
        f"an epoch of the head from top_activation, {_NUM_IMAGES} images",
        "images/s",
        figures["cache"],
        texts,
        f"from text files, one a map ({_TEXT_IMAGES} images of them)",
        "at least 30",
    )


def _text_batches(folder: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for maps in TextFiles().read(folder, shape, shape[0]):
        yield maps.astype(np.float32).reshape(shape)
