"""Columns as the first release wrote them become today's cells; golden files are in test_golden."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import FeatureError
from pipelines.storage import cells, parquet, version1
from pipelines.storage.cache import FeatureCache
from pipelines.storage.cells import Cells
from pipelines.storage.layout import ENCODINGS, Layout
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task

BRANCHES = ("original", "q010", "q050")
LAYOUTS = {
    f"{encoding}-{dtype}": Layout((2, 3, 8), BRANCHES, dtype, encoding, "parquet", 4, version=1)
    for encoding in ENCODINGS
    for dtype in ("float16", "float32")
}
SHAPES = [(2, 3, 8), (1, 1, 5), (17,), (1,), (9, 7, 65), (2, 65_535)]
ALL = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
DAMAGED = r"values, channels and counts do not make maps; the shard is damaged"


def draw(layout: Layout, num_images: int, density: float = 0.4) -> np.ndarray:
    """Draw maps of both signs, float32, as exact as the dtype."""
    rng = np.random.default_rng(num_images)
    shape = (num_images, len(BRANCHES), *layout.shape)
    values = rng.normal(0, 2, shape) * (rng.random(shape) < density)
    return values.astype(layout.dtype).astype(np.float32)


def to_cells(arrays: list[np.ndarray]) -> Cells:
    data = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
    return Cells.of_sizes(data, np.array([array.nbytes for array in arrays], np.int64))


def old_columns(maps: np.ndarray, layout: Layout) -> dict[str, Cells]:
    """Write columns as the first release did, an image at a time."""
    columns: dict[str, Cells] = {}
    for i, branch in enumerate(layout.branches):
        images = [image.reshape(-1, layout.num_channels) for image in maps[:, i]]
        if layout.encoding == "dense":
            columns[branch] = to_cells([image.astype(layout.dtype) for image in images])
        else:
            values = [image[image != 0].astype(layout.dtype) for image in images]
            channels = [np.nonzero(image)[1].astype("<u2") for image in images]
            counts = [np.count_nonzero(image, axis=1).astype("<u2") for image in images]
            columns[f"{branch}.values"] = to_cells(values)
            columns[f"{branch}.channels"] = to_cells(channels)
            columns[f"{branch}.counts"] = to_cells(counts)
    return columns


def read(old: dict[str, Cells], layout: Layout, branches=BRANCHES) -> np.ndarray:
    new = version1.to_cells(old, layout, branches)
    cells.check_shape(new, layout, branches)
    num_images = len(new[layout.columns(branches)[0]])
    return cells.decode(new, layout, branches, np.arange(num_images), "float32")


def write_old(folder: Path, maps: np.ndarray, layout: Layout) -> None:
    """Write a cache of one shard and one group as the first release did."""
    task = Task("train-00000-of-00001.parquet", "train", 0, len(maps))
    details = {**layout.to_json(), "node": folder.name, "classes": ["ant", "bee"]}
    plan, shards = Plan("features", 1, {}, details, (task,)), ShardFolder(folder)
    shards.publish(plan)
    columns = old_columns(maps, layout)
    with parquet.table_writer(folder / task.shard, version1.schema(layout), "zstd") as writer:
        fixed = [pa.array([f"img-{i}" for i in range(len(maps))]), pa.array([0] * len(maps), "i4")]
        stored = [[bytes(cell) for cell in column] for column in columns.values()]
        writer.write([*fixed, *(pa.array(column, pa.binary()) for column in stored)])
    file, stats = writer.file, {"nnz": int(np.count_nonzero(maps)), "num_values": maps.size}
    sha256 = file.sha256.hexdigest()
    shards.commit(plan, Receipt(task.shard, len(maps), file.size_bytes, sha256, (), stats))
    shards.finish(plan, shards.receipts(plan))


@ALL
def test_dataset_of_old_columns_keeps_subnormal_numbers(layout, tmp_path):
    layout = dataclasses.replace(layout, rows_per_group=6)
    maps = draw(layout, 6)
    smallest = {"float16": 2.0**-24, "float32": 2.0**-149}[layout.dtype]
    maps[maps > 1] = 3 * smallest
    maps[maps < -1] = -smallest
    write_old(tmp_path, maps, layout)
    found = np.concatenate([f.numpy() for f, _ in FeatureCache(tmp_path).dataset("train", 4)])
    expected = maps if layout.encoding == "dense" else np.where(maps == 0, np.float32(0), maps)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("num_images", [0, 1, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@ALL
def test_to_cells_old_columns_hold_the_maps(layout, shape, num_images):
    layout = dataclasses.replace(layout, shape=shape)
    maps = draw(layout, num_images)
    np.testing.assert_array_equal(read(old_columns(maps, layout), layout), maps)


@pytest.mark.parametrize("density", [0, 1])
@ALL
def test_to_cells_maps_of_zeros_and_without_any_come_back(layout, density):
    maps = draw(layout, 3, density)
    np.testing.assert_array_equal(read(old_columns(maps, layout), layout), maps)


@ALL
def test_to_cells_some_branches_need_only_their_columns(layout):
    maps = draw(layout, 4)
    wanted = version1.columns(layout, ["q050", "original"])
    old = {name: old_columns(maps, layout)[name] for name in wanted}
    np.testing.assert_array_equal(read(old, layout, ("q050", "original")), maps[:, [2, 0]])


@pytest.mark.parametrize("part", ["values", "channels", "counts"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_to_cells_numbers_missing_in_one_column_are_an_error(dtype, part):
    layout = LAYOUTS[f"sparse-{dtype}"]
    old = old_columns(draw(layout, 4), layout)
    old[f"q010.{part}"] = old[f"q010.{part}"].part(0, 3)
    with pytest.raises(FeatureError, match=DAMAGED):
        read(old, layout)
    read(old, layout, ("original", "q050"))


def test_to_cells_channel_that_is_none_is_an_error():
    layout = LAYOUTS["sparse-float32"]
    old = old_columns(draw(layout, 2), layout)
    data = old["original.channels"].data.copy()
    data[0] = layout.num_channels
    old["original.channels"] = Cells(data, old["original.channels"].offsets)
    with pytest.raises(FeatureError, match=DAMAGED):
        read(old, layout)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_to_cells_dense_numbers_missing_are_an_error(dtype):
    layout = LAYOUTS[f"dense-{dtype}"]
    old = old_columns(draw(layout, 2), layout)
    itemsize = np.dtype(dtype).itemsize
    old["q010"] = Cells.of_sizes(old["q010"].data[itemsize:], np.array([47, 48]) * itemsize)
    with pytest.raises(FeatureError, match="95 numbers, expected 96"):
        read(old, layout)


@ALL
def test_to_cells_odd_number_of_bytes_is_an_error(layout):
    old = old_columns(draw(layout, 2), layout)
    name = version1.columns(layout, ["original"])[0]
    old[name] = to_cells([np.frombuffer(b"abc", np.uint8), np.frombuffer(b"de", np.uint8)])
    with pytest.raises(FeatureError, match=f"5 bytes are no whole number of {layout.dtype}"):
        read(old, layout)


@pytest.mark.parametrize(
    ("encoding", "parts"), [("dense", [""]), ("sparse", [".values", ".channels", ".counts"])]
)
def test_schema_names_the_columns_of_every_branch(encoding, parts):
    schema = version1.schema(LAYOUTS[f"{encoding}-float16"])
    binary = [f"{branch}{part}" for branch in BRANCHES for part in parts]
    assert schema.names == ["id", "label", *binary]
    assert schema.types == [pa.string(), pa.int32(), *[pa.binary()] * len(binary)]
