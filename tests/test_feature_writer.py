"""Shards of feature maps written whole, group by group, with the receipt that proves them."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from disks import mounted
from shards import LAYOUTS, as_written, make_layout, make_maps, write_shard

from pipelines.errors import ShardError
from pipelines.storage import cells, feature_writer, formats
from pipelines.storage.layout import Layout
from pipelines.storage.rows import Shard

ALL = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
FORMATS = pytest.mark.parametrize("format", formats.FORMATS)


def shard_in(folder: Path, layout: Layout) -> Shard:
    return Shard(folder / f"a.{formats.of(layout).SUFFIX}", "cache/a", layout)


def group_sizes(shard: Shard) -> list[int]:
    read = formats.of(shard.layout).read_group
    return [len(read(shard, g, ())) for g in range(shard.num_groups)]


@ALL
def test_open_shard_maps_ids_and_labels_come_back(layout, tmp_path):
    maps = make_maps(layout, 10)
    shard = shard_in(tmp_path, layout)
    shard = as_written(shard, write_shard(shard, maps))
    found, ids, labels = [], [], []
    for group in range(shard.num_groups):
        rows = formats.of(layout).read_group(shard, group, layout.branches)
        index = np.arange(len(rows))
        found.append(cells.decode(rows.cells, layout, layout.branches, index, "float32"))
        ids += rows.ids
        labels += rows.labels.tolist()
    np.testing.assert_array_equal(np.concatenate(found), maps)
    assert (ids, labels) == ([f"img-{i}" for i in range(10)], [i % 5 for i in range(10)])


def test_open_shard_parquet_columns_are_id_label_and_the_layouts(tmp_path):
    layout = LAYOUTS["sparse-float16"]
    shard = shard_in(tmp_path, layout)
    write_shard(shard, make_maps(layout, 5))
    schema = pq.read_schema(shard.path)
    columns = layout.columns(layout.branches)
    assert schema.names == ["id", "label", *columns]
    assert schema.types == [pa.string(), pa.int32(), *[pa.binary()] * len(columns)]


@FORMATS
@pytest.mark.parametrize(("batch_size", "num_rows"), [(2, 14), (14, 14), (5, 14), (1, 6), (6, 12)])
def test_open_shard_batches_of_any_size_make_groups_of_the_layouts(
    format, batch_size, num_rows, tmp_path
):
    layout = dataclasses.replace(make_layout("float16", "sparse", format), rows_per_group=6)
    maps, ids = make_maps(layout, num_rows), [f"img-{i}" for i in range(num_rows)]
    shard = shard_in(tmp_path, layout)
    with feature_writer.open_shard(shard) as writer:
        for i in range(0, num_rows, batch_size):
            some = slice(i, min(i + batch_size, num_rows))
            labels = [k % 5 for k in range(some.start, some.stop)]
            writer.add(ids[some], labels, cells.encode(maps[some], layout))
    expected = [6] * (num_rows // 6) + [num_rows % 6] * (num_rows % 6 > 0)
    assert group_sizes(as_written(shard, writer.receipt())) == expected
    other = Shard(tmp_path / f"b.{formats.of(layout).SUFFIX}", "cache/a", layout)
    write_shard(other, maps)
    assert shard.path.read_bytes() == other.path.read_bytes()


@FORMATS
def test_open_shard_without_images_is_a_whole_file_of_none(format, tmp_path):
    layout = make_layout("float32", "dense", format)
    shard = shard_in(tmp_path, layout)
    receipt = write_shard(shard, make_maps(layout, 0))
    assert (receipt.num_rows, receipt.size_bytes) == (0, shard.path.stat().st_size)
    assert formats.of(layout).read_ids(as_written(shard, receipt)) == []


@ALL
def test_receipt_is_of_the_file_and_counts_its_numbers(layout, tmp_path):
    maps = make_maps(layout, 10)
    shard = shard_in(tmp_path, layout)
    receipt = write_shard(shard, maps)
    content = shard.path.read_bytes()
    assert (receipt.shard, receipt.num_rows) == (shard.path.name, 10)
    assert receipt.size_bytes == len(content)
    assert receipt.sha256 == hashlib.sha256(content).hexdigest()
    by_branch = [int(np.count_nonzero(maps[:, i])) for i in range(3)]
    assert receipt.stats == {
        "num_values": maps.size,
        "nnz": sum(by_branch),
        "nnz_by_branch": by_branch,
        "num_clipped": 0,
    }


def test_receipt_of_parquet_has_the_footers_hash(tmp_path):
    shard = shard_in(tmp_path, LAYOUTS["sparse-float32"])
    receipt = write_shard(shard, make_maps(shard.layout, 10))
    content = shard.path.read_bytes()
    (size_bytes,) = struct.unpack("<I", content[-8:-4])
    assert receipt.footer_sha256 == hashlib.sha256(content[-8 - size_bytes :]).hexdigest()


def test_receipt_of_tfrecord_has_no_footer(tmp_path):
    shard = shard_in(tmp_path, LAYOUTS["sparse-float32-tfrecord"])
    assert write_shard(shard, make_maps(shard.layout, 10)).footer_sha256 is None


@FORMATS
def test_receipt_counts_what_was_beyond_its_channels_range(format, tmp_path):
    layout = make_layout("uint8", "dense", format)
    maps = make_maps(layout, 9)
    maps[[0, 5], 1, 0, 0, 0] = 64  # this channel ends at 63.75
    maps[8, 2, 1, 1, 4] = -0.25  # this one begins at 0
    receipt = write_shard(shard_in(tmp_path, layout), maps)
    assert receipt.stats["num_clipped"] == 3


@FORMATS
def test_open_shard_block_fails_leaves_nothing(format, tmp_path):
    layout = make_layout("float16", "dense", format)
    with (
        pytest.raises(ZeroDivisionError),
        feature_writer.open_shard(shard_in(tmp_path, layout)) as writer,
    ):
        writer.add(["x"], [0], cells.encode(make_maps(layout, 1), layout))
        raise ZeroDivisionError
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@FORMATS
def test_open_shard_full_disk_is_an_error_and_leaves_nothing(format, tmp_path):
    layout = Layout((1000,), ("original",), "float32", "dense", format, 4)
    maps = np.random.default_rng(0).normal(0, 1, (32, 1, 1000)).astype(np.float32)
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(ShardError, match=r"a\.\w+: cannot be written: No space left"):
            write_shard(shard_in(disk, layout), maps)
        gc.collect()
        assert list(disk.iterdir()) == []
