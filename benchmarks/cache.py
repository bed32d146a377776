"""The bottleneck cache against other ways to keep feature maps: size, speed, memory, a whole epoch.

Maps come from Lite0 with its ImageNet weights on solar cells, or from `--features FILE.npz` (an
array `features`, float32 (images, branches, height, width, channels)). Sizes are those of files on
disk, over the number of maps. Speeds of reading are of files in the page cache, one thread, to
dense float32, as bytes of that a second, beside `array.copy()` of the same batches by turns.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import cache_bounds, filling, real_cache, report
from benchmarks.cache_baselines import BASELINES, RawSparseRecords, TextFiles
from pipelines.storage.cache import FeatureCache, shard_of
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.plan import Plan

Rate = Callable[[], float]
_BATCH_SIZE = 16
_SPEED_IMAGES = 96
_NODES = ("top_activation", "block7a_expand_activation")
_SETTINGS = [*product(["parquet", "tfrecord"], ["float32", "float16", "uint8"])]
_SMALLER = {"float32": "at least 2.1", "float16": "at least 4", "uint8": "at least 6.5"}
_READ = {"float32": "at least 0.25", "float16": "at least 0.3", "uint8": "none"}
_COPY, _TWO = "array.copy() of the same batches", "two reader threads over one, parquet float16"


@dataclass(frozen=True)
class Maps:
    """Real feature maps of one node.

    Attributes:
        name: of the node or file.
        values: float32 (images, branches, height, width, channels).
    """

    name: str
    values: np.ndarray

    @property
    def num_maps(self) -> int:
        """Images times branches."""
        return int(np.prod(self.values.shape[:2]))


def main() -> None:
    """Measure and publish."""
    parser = report.parser("cache", "Measure the bottleneck cache.", repetitions=5)
    parser.add_argument("--features", type=Path, metavar="FILE.npz", help="maps of your own")
    parser.add_argument("--images", type=report.positive, default=48, help="solar cells to run")
    parser.add_argument(
        "--skip",
        nargs="*",
        default=[],
        choices=["baselines", "start", "memory", "epoch"],
        help="parts to leave out",
    )
    arguments = parser.parse_args()
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        every, forward_rate = _load_maps(arguments)
        for maps in every:
            rows += _of_maps(maps, Path(folder), arguments, forward_rate)
        rows += cache_bounds.noise(Path(folder), _SETTINGS)
        if not {"start", "memory"} <= set(arguments.skip):
            many = cache_bounds.many_shards(Path(folder) / "many")
        if "start" not in arguments.skip:
            rows.append(cache_bounds.random_start(many, arguments.repetitions))
            rows.append(cache_bounds.imagenet_start(arguments.repetitions))
        if "memory" not in arguments.skip:
            rows.append(cache_bounds.memory(many, arguments.repetitions))
        if "epoch" not in arguments.skip:
            rows.append(_epoch(Path(folder), arguments.repetitions))
    arguments.features = str(arguments.features or "")
    report.publish("cache", arguments, rows)


def _load_maps(arguments: argparse.Namespace) -> tuple[list[Maps], Rate | None]:
    """Return the maps to measure, and how fast their network runs, where it is here."""
    if arguments.features:
        values = np.load(arguments.features)["features"].astype(np.float32)
        return [Maps(arguments.features.stem, values)], None
    from benchmarks import lite0_maps

    found, rate = lite0_maps.run(_NODES, arguments.images, _BATCH_SIZE)
    return [Maps(name, values) for name, values in found.items()], rate


def _of_maps(
    maps: Maps, folder: Path, arguments: argparse.Namespace, forward_rate: Rate | None
) -> list[report.Row]:
    """Measure sizes and speeds on one node's maps."""
    density = np.count_nonzero(maps.values) / maps.values.size
    what = f"{maps.name} ({100 * density:.0f}% non-zero)"
    (folder / maps.name).mkdir()
    return [
        *_sizes(what, maps, folder / maps.name),
        *_speeds(what, maps, folder / maps.name, arguments),
        *_encoding(what, maps, forward_rate),
    ]


def _sizes(what: str, maps: Maps, folder: Path) -> list[report.Row]:
    """Measure bytes a map, beside the thesis's records."""
    sizes: dict[str, float] = {}
    for baseline in BASELINES:
        path = folder / f"size-{type(baseline).__name__}"
        path.mkdir()
        baseline.write(maps.values, path)
        sizes[baseline.name] = sum(f.stat().st_size for f in path.iterdir()) / maps.num_maps
        shutil.rmtree(path)
    for file_format, dtype in _SETTINGS:
        path = folder / f"size-{file_format}-{dtype}"
        cache = real_cache.write(path, maps.values, dtype, file_format)
        size_bytes = sum(receipt.size_bytes for receipt in cache.receipts)
        sizes[f"{file_format} {dtype}"] = size_bytes / maps.num_maps
        shutil.rmtree(path)
    return [
        report.compare(
            f"{what}, the thesis's records over {name}",
            "B a map",
            [sizes[RawSparseRecords.name]],
            [size],
            name,
            _SMALLER[name.split()[1]] if name.startswith("parquet ") else "none",
        )
        for name, size in sizes.items()
    ]


def _speeds(what: str, maps: Maps, folder: Path, arguments: argparse.Namespace) -> list[report.Row]:
    """Measure how fast files in the page cache become dense float32."""
    values = real_cache.vary(maps.values, _SPEED_IMAGES)
    measures: dict[str, Rate] = {}
    for file_format, dtype in _SETTINGS:
        name = f"{file_format} {dtype}"
        cache = real_cache.write(folder / name.replace(" ", "-"), values, dtype, file_format)
        measures[name] = partial(_rate, _reading(cache, 1), values.nbytes)
        if (file_format, dtype) == ("parquet", "float16"):
            measures[_TWO] = partial(_rate, _reading(cache, 2), values.nbytes)
    dense = [values[i : i + _BATCH_SIZE] for i in range(0, len(values), _BATCH_SIZE)]
    measures[_COPY] = lambda: _rate(lambda: (batch.copy() for batch in dense), values.nbytes)
    for baseline in () if "baselines" in arguments.skip else BASELINES:
        some = values[:2] if isinstance(baseline, TextFiles) else values
        path = folder / type(baseline).__name__
        path.mkdir()
        baseline.write(some, path)
        read = partial(baseline.read, path, some.shape, _BATCH_SIZE)
        measures[baseline.name] = partial(_rate, read, some.nbytes)
    figures = report.take_turns(measures, arguments.repetitions, warm_up=True)
    copies, twos = figures.pop(_COPY), figures.pop(_TWO)
    rows = [
        report.compare(
            f"{what}, {name}: read, check, expand",
            "GB/s",
            found,
            copies,
            _COPY,
            _READ[name.split()[1]] if name.startswith("parquet ") else "none",
        )
        for name, found in figures.items()
    ]
    one = figures["parquet float16"]
    return [*rows, report.compare(f"{what}, {_TWO}", "GB/s", twos, one, "one", "at least 1.6")]


def _encoding(what: str, maps: Maps, forward_rate: Rate | None) -> list[report.Row]:
    """Measure one thread that encodes, beside the network that it encodes for."""
    if forward_rate is None:
        return []
    layout = real_cache.choose_layout(maps.values, "float16", "parquet")
    figures = report.take_turns(
        {"encode": lambda: _encode_rate(layout, maps.values), "forward": forward_rate}, 3, True
    )
    return [
        report.compare(
            f"{what}, one thread encodes and writes float16",
            "maps/s",
            figures["encode"],
            figures["forward"],
            "the network's forward passes, all cores",
            "at least 10",
        )
    ]


def _reading(cache: FeatureCache, num_threads: int) -> Callable[[], Iterator[np.ndarray]]:
    reader = cache.reader("train", num_threads=num_threads)  # kept, as a training keeps it
    return lambda: (batch.features for batch in reader.in_order(_BATCH_SIZE))


def _rate(read: Callable[[], Iterator[np.ndarray]], size_bytes: int) -> float:
    """Read everything; GB of dense float32 a second."""
    started = time.perf_counter()
    for _ in read():
        pass
    return size_bytes / (time.perf_counter() - started) / 1e9


def _encode_rate(layout: Layout, values: np.ndarray) -> float:
    """Encode, compress and write a shard; maps a second of the thread's time, not the disk's."""
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        plan = Plan("features", FORMAT_VERSION, {}, {**layout.to_json(), "node": "a"}, ())
        shard = shard_of(Path(folder), plan, "a.parquet")
        started = time.thread_time()
        filling.fill_shard(shard, real_cache.batches(values))
        return values.shape[0] * values.shape[1] / (time.thread_time() - started)


def _epoch(folder: Path, repetitions: int) -> report.Row:
    """Train the head for one epoch from the cache, and from text files."""
    from benchmarks import cache_epoch

    return cache_epoch.compare(folder / "epoch", repetitions)


if __name__ == "__main__":
    main()
