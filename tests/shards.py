"""Feature shards with known content, small enough to be read a hundred times in a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipelines.storage import feature_writer, features
from pipelines.storage.features import Layout
from pipelines.storage.manifest import Plan, Receipt, ShardFolder, split_into_tasks

ROWS = {"train": 37, "val": 10}
BRANCHES = ("original", "q010", "q050")
LAYOUTS = {
    f"{encoding}-{dtype}": Layout((2, 3, 8), BRANCHES, dtype, encoding, rows_per_group=4)
    for encoding in ("sparse", "dense")
    for dtype in ("float16", "float32")
}


def make_maps(layout: Layout, num_images: int, seed: int = 0) -> np.ndarray:
    """Draw feature maps with many zeros, float32 (images, branches, *shape), exact in float16."""
    rng = np.random.default_rng(seed)
    shape = (num_images, len(layout.branches), *layout.shape)
    return np.maximum(rng.integers(-12, 8, shape), 0).astype(np.float32) / 4


def write_shard(path: Path, layout: Layout, maps: np.ndarray, first: int = 0) -> Receipt:
    """Write maps as a shard, a row group at a time; image i is called img-i and has label i % 5."""
    with feature_writer.open_shard(path, layout) as writer:
        for start in range(0, len(maps), layout.rows_per_group):
            some = maps[start : start + layout.rows_per_group]
            numbers = range(first + start, first + start + len(some))
            ids, labels = [f"img-{i}" for i in numbers], [i % 5 for i in numbers]
            writer.add(ids, labels, features.encode(some, layout))
    return writer.receipt(path.name)


def write_cache(
    folder: Path, layout: Layout, rows: Mapping[str, int] = ROWS, num_shards: int = 5
) -> dict[str, np.ndarray]:
    """Write a whole cache; returns the maps of each split, whose images are counted from 0."""
    tasks = split_into_tasks(rows, num_shards, features.SUFFIX)
    details = {**dataclasses.asdict(layout), "node": folder.name, "classes": list("abcde")}
    plan = Plan("features", features.FORMAT_VERSION, {"seed": 0}, details, tasks)
    shards = ShardFolder(folder)
    shards.publish(plan)
    maps = {split: make_maps(layout, count, i) for i, (split, count) in enumerate(rows.items())}
    for task in tasks:
        part = maps[task.split][task.start : task.stop]
        shards.commit(write_shard(folder / task.shard, layout, part, task.start))
    shards.finish(plan, shards.receipts(plan))
    return maps


def flip_bit(content: bytes, bit: int) -> bytes:
    """Return a copy of a file's bytes with one bit the other way."""
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


def damage_column(path: Path, name: str) -> None:
    """Flip a bit in the first page of a column; the file keeps its size and its footer."""
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
    (chunk,) = [chunk for chunk in chunks if chunk.path_in_schema == name]
    last = chunk.data_page_offset + chunk.total_compressed_size - 1
    path.write_bytes(flip_bit(path.read_bytes(), 8 * last))
