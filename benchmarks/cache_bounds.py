"""What holds for a cache of any size and contents: shards of noise, first batches, memory."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import real_cache, report
from pipelines.storage import order
from pipelines.storage.batches import FeatureReader, Settings
from pipelines.storage.cache import FeatureCache
from pipelines.storage.groups import Groups
from pipelines.storage.layout import Layout
from pipelines.storage.rows import Shard

_BATCH_SIZE = 16
_NOISE_BYTES = 8 << 20  # a shard's size, from which on nothing may be much larger than raw numbers
_NOISES = {  # (branches, *shape) and density
    "noise, 100% non-zero": ((2, 7, 7, 320), 1.0),
    "noise, 50% non-zero": ((2, 7, 7, 320), 0.5),
    "pooled noise": ((11, 1280), 1.0),
}

_BRANCHES = ("original", *(f"q{quality:03d}" for quality in range(10, 101, 10)))
_IMAGENET = 1_281_167  # images, of about 15 MB as cells: a group each
_SHARD_IMAGES, _WINDOW_IMAGES = 12, 4


def noise(folder: Path, settings: Iterable[tuple[str, str]]) -> list[report.Row]:
    """Write what does not compress: noise of every dtype, dense, half dense, and pooled."""
    generator, rows = np.random.default_rng(0), []
    for (file_format, dtype), (what, (shape, density)) in product(settings, _NOISES.items()):
        itemsize = np.dtype(dtype).itemsize
        size = (_NOISE_BYTES // (math.prod(shape) * itemsize) + 1, *shape)
        bits = generator.integers(0, 1 << 32, size, np.uint32)
        values = (bits.astype(np.float64) / 2**31 - 1).astype(np.float32)
        values[generator.random(size) > density] = 0
        path = folder / f"{what}-{file_format}-{dtype}"
        cache = real_cache.write(path, values, dtype, file_format)
        rows.append(
            report.compare(
                f"{what}, {file_format} {dtype}: a shard",
                "B",
                [sum(receipt.size_bytes for receipt in cache.receipts)],
                [values.size * itemsize],
                "its numbers alone, raw",
                "at most 1.02",
            )
        )
        shutil.rmtree(path)
    return rows


def many_shards(folder: Path) -> FeatureCache:
    """Write a cache of six windows, in many shards."""
    generator = np.random.default_rng(0)
    values = np.maximum(generator.standard_normal((64, 11, 7, 7, 64), np.float32), 0)
    return real_cache.write(folder, values, "float16", "parquet", copies=192)


def random_start(cache: FeatureCache, repetitions: int) -> report.Row:
    """Open a cache and take the first batch of an epoch at its start and near its end."""

    def first_batch(share: float) -> float:
        started = time.perf_counter()
        reader = FeatureCache(cache.path).reader("train")
        step = int(share * reader.num_steps(_BATCH_SIZE))
        batches = reader.epoch(_BATCH_SIZE, seed=1, epoch=2, first_step=step)
        next(iter(batches))
        elapsed = time.perf_counter() - started
        batches.close()  # type: ignore[attr-defined]
        return elapsed

    figures = report.take_turns(
        {share: partial(first_batch, float(share)) for share in ("0", "0.5", "0.99")},
        repetitions,
        warm_up=True,
    )
    return report.compare(
        "open and first batch at 99% of an epoch",
        "s",
        figures["0.99"],
        figures["0"],
        "at its start",
        "about 1, both under a second",
        {"at 50% of the epoch, s": figures["0.5"][0]},
    )


def imagenet_start(repetitions: int) -> report.Row:
    """Make a reader of as many images as ImageNet has, and draw an epoch's first batch.

    Nothing is on disk: the figure is what grows with the number of images.
    """
    layout = Layout((56, 56, 256), _BRANCHES, "float16", "sparse", "parquet", rows_per_group=1)
    sizes = [_SHARD_IMAGES] * (_IMAGENET // _SHARD_IMAGES) + [_IMAGENET % _SHARD_IMAGES]
    shards = [Shard(Path(f"{i}"), f"{i}", layout, size) for i, size in enumerate(sizes)]
    settings = Settings(layout.branches, _WINDOW_IMAGES, num_threads=2)

    def first_batch(share: float) -> float:
        started = time.perf_counter()
        groups = Groups(shards)
        first_row = int(share * FeatureReader(layout, groups, settings).num_rows)
        windows = order.epoch_windows(groups.num_rows, _WINDOW_IMAGES, seed=1, epoch=2)
        next(order.batches(windows, _BATCH_SIZE, first_row))
        return time.perf_counter() - started

    figures = report.take_turns(
        {share: partial(first_batch, float(share)) for share in ("0", "0.99")}, repetitions
    )
    return report.compare(
        f"reader and order of {_IMAGENET:,} images, 11 x 56 x 56 x 256, at 99% of an epoch",
        "s",
        figures["0.99"],
        figures["0"],
        "at its start",
        "about 1, both under a second",
    )


def memory(cache: FeatureCache, repetitions: int) -> report.Row:
    """Read a small and a larger cache in processes of their own; compare peaks."""

    def peak(share: str) -> float:
        command = [sys.executable, "-m", "benchmarks.cache_peak", str(cache.path), share]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    figures = report.take_turns(
        {share: partial(peak, share) for share in ("1", "0.5")}, repetitions
    )
    return report.compare(
        "peak memory, reading an epoch of the whole cache",
        "MB",
        figures["1"],
        figures["0.5"],
        "of half of it",
        "at most 1.1",
    )
