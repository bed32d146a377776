"""Feature shards: maps to columns and back, the choice of the encoding, shards written whole."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from disks import mounted
from shards import LAYOUTS, make_maps, write_shard

from pipelines.errors import FeatureError, ShardError
from pipelines.storage import feature_writer, features, parquet
from pipelines.storage.features import Layout

SHAPES = [(2, 3, 8), (1, 1, 5), (17,), (1,)]
ALL = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def to_columns(maps: np.ndarray, layout: Layout) -> dict[str, pa.Array]:
    names = [name for branch in layout.branches for name in layout.columns(branch)]
    return dict(zip(names, features.encode(maps, layout).columns, strict=True))


def random_maps(layout: Layout, num_images: int) -> np.ndarray:
    """Draw maps of both signs with about half their numbers zero, float32."""
    rng = np.random.default_rng(num_images)
    shape = (num_images, len(layout.branches), *layout.shape)
    return (rng.normal(0, 2, shape) * rng.integers(0, 2, shape)).astype(np.float32)


@pytest.mark.parametrize("num_images", [0, 1, 9])
@pytest.mark.parametrize("shape", SHAPES)
@ALL
def test_decode_encoded_maps_are_what_the_dtype_keeps(layout, shape, num_images):
    layout = dataclasses.replace(layout, shape=shape)
    maps = random_maps(layout, num_images)
    back = features.decode(to_columns(maps, layout), layout, layout.branches)
    assert back.shape == maps.shape
    np.testing.assert_array_equal(back, maps.astype(layout.dtype))


@ALL
def test_decode_maps_of_zeros_are_zeros(layout):
    maps = np.zeros((3, 3, *layout.shape), np.float32)
    back = features.decode(to_columns(maps, layout), layout, layout.branches)
    np.testing.assert_array_equal(back, maps)


@ALL
def test_decode_some_branches_come_in_the_order_asked(layout):
    maps = make_maps(layout, 6)
    columns = to_columns(maps, layout)
    back = features.decode(columns, layout, ("q050", "original"))
    np.testing.assert_array_equal(back, maps[:, [2, 0]])


@ALL
def test_decode_slice_of_columns_is_those_images(layout):
    maps = make_maps(layout, 9)
    columns = {name: cells.slice(4, 3) for name, cells in to_columns(maps, layout).items()}
    np.testing.assert_array_equal(features.decode(columns, layout, layout.branches), maps[4:7])


@ALL
def test_decode_images_missing_in_one_column_is_an_error(layout):
    columns = to_columns(make_maps(layout, 4), layout)
    name = layout.columns("q050")[-1]
    columns[name] = columns[name].slice(1)
    with pytest.raises(FeatureError, match=r"branch q050: \d+ numbers, expected \d+; the shard"):
        features.decode(columns, layout, layout.branches)


@ALL
def test_decode_odd_number_of_bytes_is_an_error(layout):
    columns = to_columns(make_maps(layout, 2), layout)
    columns[layout.columns("original")[0]] = pa.array([b"abc", b"de"], pa.binary())
    with pytest.raises(FeatureError, match=f"5 bytes are no whole number of {layout.dtype}"):
        features.decode(columns, layout, layout.branches)


def test_decode_values_missing_is_an_error():
    layout = LAYOUTS["sparse-float16"]
    columns = to_columns(make_maps(layout, 4), layout)
    columns["q010.values"] = columns["q010.values"].slice(1)
    with pytest.raises(FeatureError, match="do not make maps of 8 channels; the shard is damaged"):
        features.decode(columns, layout, layout.branches)


def test_encode_sparse_cells_are_values_channels_counts_of_one_image():
    layout = Layout((1, 2, 4), ("original",), "float16", "sparse", 1)
    maps = np.zeros((2, 1, 1, 2, 4), np.float32)
    maps[0, 0, 0, 1, 2], maps[1, 0, 0, 0, 0], maps[1, 0, 0, 1, 3] = 1, 2, -3
    values, channels, counts = (c.to_pylist() for c in features.encode(maps, layout).columns)
    assert [np.frombuffer(cell, "<f2").tolist() for cell in values] == [[1], [2, -3]]
    assert [np.frombuffer(cell, "<u2").tolist() for cell in channels] == [[2], [0, 3]]
    assert [np.frombuffer(cell, "<u2").tolist() for cell in counts] == [[0, 1], [1, 1]]


def test_encode_dense_cells_are_one_image_row_major():
    layout = Layout((2, 1, 2), ("original", "q010"), "float32", "dense", 1)
    maps = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 1, 2)
    original, q010 = (c.to_pylist() for c in features.encode(maps, layout).columns)
    assert [np.frombuffer(cell, "<f4").tolist() for cell in original] == [
        [0, 1, 2, 3],
        [8, 9, 10, 11],
    ]
    assert np.frombuffer(q010[1], "<f4").tolist() == [12, 13, 14, 15]


@ALL
def test_encode_nnz_counts_all_branches(layout):
    maps = random_maps(layout, 5)
    assert features.encode(maps, layout).nnz == np.count_nonzero(maps)


@ALL
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_encode_not_finite_is_an_error(layout, value):
    maps = make_maps(layout, 3)
    maps[2, 1, 1, 2, 7] = value
    with pytest.raises(FeatureError, match="not a finite number"):
        features.encode(maps, layout)


@pytest.mark.parametrize("encoding", ["sparse", "dense"])
def test_encode_out_of_float16_is_an_error(encoding):
    layout = LAYOUTS[f"{encoding}-float16"]
    maps = make_maps(layout, 3)
    maps[1, 2, 0, 0, 0] = 123_456
    with pytest.raises(FeatureError, match=r"123456 is out of float16's range.*--dtype float32"):
        features.encode(maps, layout)


@ALL
def test_schema_names_the_columns_of_every_branch(layout):
    parts = [""] if layout.encoding == "dense" else [".values", ".channels", ".counts"]
    binary = [f"{branch}{part}" for branch in layout.branches for part in parts]
    assert layout.schema().names == ["id", "label", *binary]
    types = [pa.string(), pa.int32(), *[pa.binary()] * len(binary)]
    assert layout.schema().types == types


@ALL
def test_layout_through_json_is_the_same(layout):
    value = json.loads(json.dumps({**dataclasses.asdict(layout), "node": "avg_pool"}))
    assert Layout.from_json(value) == layout


@pytest.mark.parametrize(("channels", "expected"), [(1, True), (65_535, True), (65_536, False)])
def test_can_be_sparse_channel_index_of_16_bits(channels, expected):
    assert features.can_be_sparse((3, 3, channels)) is expected


@pytest.mark.parametrize(
    ("density", "expected"), [(0.0, "sparse"), (0.1, "sparse"), (0.95, "dense"), (1.0, "dense")]
)
def test_choose_layout_takes_the_smaller_by_measured_bytes(density, expected):
    rng = np.random.default_rng(0)
    shape = (8, 2, 4, 4, 32)
    probe = rng.normal(0, 1, shape).astype(np.float32) * (rng.random(shape) < density)
    asked = Layout(shape[2:], ("original", "q010"), "float16", "dense", 4)
    chosen, sizes = feature_writer.choose_layout(probe, asked)
    for encoding in ("sparse", "dense"):
        layout = dataclasses.replace(asked, encoding=encoding)
        assert sizes[encoding] == features.measure(probe, layout)
    assert chosen.encoding == expected == min(sizes, key=lambda name: sizes[name])
    assert dataclasses.replace(chosen, encoding="dense", rows_per_group=4) == asked


def test_choose_layout_too_many_channels_is_dense():
    asked = Layout((65_536,), ("original",), "float16", "dense", 4)
    chosen, sizes = feature_writer.choose_layout(np.zeros((2, 1, 65_536), np.float32), asked)
    assert (chosen.encoding, list(sizes)) == ("dense", ["dense"])


def test_choose_layout_row_groups_are_whole_batches_of_about_8_mib():
    probe = np.random.default_rng(0).normal(0, 1, (8, 1, 1000)).astype(np.float32)
    asked = Layout((1000,), ("original",), "float32", "dense", 100)
    chosen, sizes = feature_writer.choose_layout(probe, asked)
    row_bytes = sizes["dense"] / 8
    assert chosen.rows_per_group % 100 == 0
    assert chosen.rows_per_group * row_bytes <= 8 << 20 < (chosen.rows_per_group + 100) * row_bytes


def test_choose_layout_large_maps_have_at_least_a_batch_a_group(monkeypatch):
    monkeypatch.setattr(feature_writer, "_GROUP_BYTES", 10)
    asked = Layout((64,), ("original",), "float32", "dense", 32)
    probe = np.random.default_rng(0).normal(0, 1, (4, 1, 64)).astype(np.float32)
    assert feature_writer.choose_layout(probe, asked)[0].rows_per_group == 32


@pytest.mark.parametrize("encoding", ["sparse", "dense"])
def test_measure_is_close_to_the_shards_size(encoding, tmp_path):
    layout = Layout((7, 7, 64), ("original", "q010"), "float16", encoding, 16)
    maps = make_maps(layout, 16)  # few different numbers: what compresses them shows in the size
    receipt = write_shard(tmp_path / "a.parquet", layout, maps)
    assert features.measure(maps, layout) == pytest.approx(receipt.size_bytes, rel=0.05)


@ALL
def test_open_shard_maps_ids_and_labels_come_back(layout, tmp_path):
    maps = make_maps(layout, 10)
    write_shard(tmp_path / "a.parquet", layout, maps)
    table = parquet.read_table(tmp_path / "a.parquet").combine_chunks()
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    np.testing.assert_array_equal(features.decode(columns, layout, layout.branches), maps)
    assert table["id"].to_pylist() == [f"img-{i}" for i in range(10)]
    assert table["label"].to_pylist() == [i % 5 for i in range(10)]
    assert table.schema.equals(layout.schema())


def test_open_shard_batches_are_gathered_into_row_groups(tmp_path):
    layout = dataclasses.replace(LAYOUTS["sparse-float16"], rows_per_group=6)
    maps = make_maps(layout, 14)
    with feature_writer.open_shard(tmp_path / "a.parquet", layout) as writer:
        for i in range(0, 14, 2):
            writer.add(["x", "y"], [0, 1], features.encode(maps[i : i + 2], layout))
    with parquet.open_file(tmp_path / "a.parquet") as file:
        assert parquet.group_rows(tmp_path / "a.parquet", file, 14) == [6, 6, 2]


@ALL
def test_receipt_is_of_the_file_and_counts_its_numbers(layout, tmp_path):
    maps = make_maps(layout, 10)
    receipt = write_shard(tmp_path / "a.parquet", layout, maps)
    content = (tmp_path / "a.parquet").read_bytes()
    assert (receipt.shard, receipt.num_rows, receipt.size_bytes) == ("a.parquet", 10, len(content))
    assert receipt.sha256 == hashlib.sha256(content).hexdigest()
    assert receipt.stats == {"nnz": np.count_nonzero(maps), "num_values": maps.size}


def test_open_shard_block_fails_leaves_nothing(tmp_path):
    layout = LAYOUTS["dense-float16"]
    with (
        pytest.raises(ZeroDivisionError),
        feature_writer.open_shard(tmp_path / "a.parquet", layout) as writer,
    ):
        writer.add(["x"], [0], features.encode(make_maps(layout, 1), layout))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_open_shard_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    layout = Layout((1000,), ("original",), "float32", "dense", 4)
    maps = np.random.default_rng(0).normal(0, 1, (32, 1, 1000)).astype(np.float32)
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(ShardError, match=r"a\.parquet: cannot be written: No space left"):
            write_shard(disk / "a.parquet", layout, maps)
        gc.collect()
        assert list(disk.iterdir()) == []
