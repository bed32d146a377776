"""An epoch of training the head from `top_activation`: from the cache, and from text files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import fits, report
from benchmarks.cache_baselines import TextFiles
from benchmarks.fits import STREAMED, ReadyStep
from benchmarks.synthetic_cache import Contents

_NUM_IMAGES = 600
_DENSITY = 0.09  # of Lite0's top_activation on solar cells
_TEXT_IMAGES = 20  # are written as text and read; a whole epoch is that, multiplied
_EPOCHS = 2  # the first is not counted


def compare(folder: Path, repetitions: int) -> report.Row:
    """Measure one epoch each, after tracing; images a second."""
    contents = Contents({"train": _NUM_IMAGES, "val": 20}, 2, _DENSITY)
    bench = fits.prepare(folder, "efficientnet_lite0", "top_activation", contents)
    config = fits.config_of(epochs=_EPOCHS, cache_memory=STREAMED)
    step = ReadyStep(bench, config)
    text_dir = folder / "text"
    text_dir.mkdir()
    some = next(bench.cache.reader("train").in_order(_TEXT_IMAGES))
    TextFiles().write(some.features, text_dir)

    def from_text() -> float:
        started = time.perf_counter()
        for maps in _text_batches(text_dir, some.features.shape):
            step.take(fits.batch_of(maps, some.labels)).numpy()
        return _TEXT_IMAGES / (time.perf_counter() - started)

    figures = report.take_turns(
        {"cache": lambda: _NUM_IMAGES / fits.epoch_s(bench, config)}, repetitions
    )
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
