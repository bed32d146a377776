"""Feature shards with known content, small enough to be read a hundred times in a test."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipelines.storage import cells, feature_writer, formats
from pipelines.storage.cache import shard_of
from pipelines.storage.layout import DTYPES, ENCODINGS, FORMAT_VERSION, Layout
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, split_into_tasks
from pipelines.storage.rows import Shard

ROWS = {"train": 37, "val": 10}
BRANCHES = ("original", "q010", "q050")
SHAPE = (2, 3, 8)
# A step of a quarter holds `make_maps` exactly; zero points differ, so that none is forgotten.
QUARTERS = {"scales": (0.25,) * 8, "zero_points": (0, 128, 5, 100, 0, 1, 255 - 7, 3)}


def make_layout(
    dtype: str, encoding: str, format: str = "parquet", shape: tuple[int, ...] = SHAPE
) -> Layout:
    """Return a layout of three branches and groups of four."""
    scaled = {key: values[: shape[-1]] for key, values in QUARTERS.items()}
    more = scaled if dtype == "uint8" else {}
    return Layout(shape, BRANCHES, dtype, encoding, format, rows_per_group=4, **more)


# "sparse-float16" is in Parquet, "sparse-float16-tfrecord" is not.
LAYOUTS = {
    f"{encoding}-{dtype}{'' if format == 'parquet' else '-' + format}": make_layout(
        dtype, encoding, format
    )
    for format in formats.FORMATS
    for encoding in ENCODINGS
    for dtype in DTYPES
}


def make_maps(layout: Layout, num_images: int, seed: int = 0) -> np.ndarray:
    """Draw feature maps with many zeros, float32 (images, branches, *shape), exact in any dtype."""
    rng = np.random.default_rng(seed)
    shape = (num_images, len(layout.branches), *layout.shape)
    return np.maximum(rng.integers(-12, 8, shape), 0).astype(np.float32) / 4


def kept(maps: np.ndarray, layout: Layout) -> np.ndarray:
    """Compute what the stored dtype leaves of some maps, float32."""
    if layout.dtype == "uint8":
        scales, zero_points = np.array(layout.scales, np.float32), np.array(layout.zero_points)
        steps = np.clip(np.rint(maps / scales) + zero_points, 0, 255) - zero_points
        return steps.astype(int).astype(np.float32) * scales
    stored = maps.astype(layout.dtype).astype(np.float32)
    return stored + np.float32(0) if layout.dtype == "float16" else stored  # -0.0 + 0 is +0


def write_shard(
    shard: Shard, maps: np.ndarray, first: int = 0, name_of: Callable[[int], str] = "img-{}".format
) -> Receipt:
    """Write maps as a shard, a group at a time; image i is called img-i and has label i % 5."""
    size = shard.layout.rows_per_group
    with feature_writer.open_shard(shard) as writer:
        for start in range(0, len(maps), size):
            some = maps[start : start + size]
            numbers = range(first + start, first + start + len(some))
            ids, labels = [name_of(i) for i in numbers], [i % 5 for i in numbers]
            writer.add(ids, labels, cells.encode(some, shard.layout, ids))
    return writer.receipt()


def as_written(shard: Shard, receipt: Receipt) -> Shard:
    """Return a shard as its receipt describes it, for reading."""
    return dataclasses.replace(
        shard, num_rows=receipt.num_rows, footer_sha256=receipt.footer_sha256
    )


def write_cache(
    folder: Path,
    layout: Layout,
    rows: Mapping[str, int] = ROWS,
    num_shards: int = 5,
    maps: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    name_of: Callable[[int], str] = "img-{}".format,
) -> dict[str, np.ndarray]:
    """Write a whole cache; returns the maps of each split; names count on from split to split.

    Another `seed` is another fingerprint and changes no map.
    """
    tasks = split_into_tasks(rows, num_shards, formats.of(layout).SUFFIX)
    details = {**layout.to_json(), "node": folder.name, "classes": list("abcde")}
    plan = Plan("features", FORMAT_VERSION, {"seed": seed}, details, tasks)
    shards = ShardFolder(folder)
    shards.publish(plan)
    drawn = {split: make_maps(layout, count, i) for i, (split, count) in enumerate(rows.items())}
    found = dict(maps or drawn)
    firsts = dict(zip(rows, itertools.accumulate(rows.values(), initial=0), strict=False))
    for task in tasks:
        names = [name_of(firsts[task.split] + i) for i in range(rows[task.split])]
        part = found[task.split][task.start : task.stop]
        shard = shard_of(folder, plan, task.shard)
        shards.commit(plan, write_shard(shard, part, task.start, names.__getitem__))
    shards.finish(plan, shards.receipts(plan))
    return found


def flip_bit(content: bytes, bit: int) -> bytes:
    """Return a copy of a file's bytes with one bit the other way."""
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


def damage_column(path: Path, name: str) -> None:
    """Flip a bit in the first page of a Parquet column; size and footer stay as they are."""
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
    (chunk,) = [chunk for chunk in chunks if chunk.path_in_schema == name]
    last = chunk.data_page_offset + chunk.total_compressed_size - 1
    path.write_bytes(flip_bit(path.read_bytes(), 8 * last))
