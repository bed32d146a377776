"""Shards as Parquet: any reader of Parquet reads them, and damage is named by its column."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from shards import (
    LAYOUTS,
    as_written,
    damage_column,
    flip_bit,
    make_layout,
    make_maps,
    write_shard,
)

from pipelines.errors import ShardError
from pipelines.storage import cells, parquet
from pipelines.storage import parquet_shards as unit
from pipelines.storage.cells import Cells
from pipelines.storage.layout import Layout
from pipelines.storage.rows import Rows, Shard

LAYOUT = make_layout("float16", "sparse")
MEND = r"run `bottleneck verify --repair`, then"
NUM_IMAGES = 9


def written(folder: Path, layout: Layout = LAYOUT) -> Shard:
    """Write a shard of nine images, groups of four."""
    shard = Shard(folder / "a.parquet", "0123/a.parquet", layout)
    return as_written(shard, write_shard(shard, make_maps(layout, NUM_IMAGES)))


def read(shard: Shard, branches=LAYOUT.branches) -> list[Rows]:
    return [unit.read_group(shard, g, branches) for g in range(shard.num_groups)]


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "tfrecord" not in name])
def test_shard_columns_are_the_cells_for_any_reader_of_parquet(name, tmp_path):
    layout = LAYOUTS[name]
    shard = written(tmp_path, layout)
    expected = cells.encode(make_maps(layout, NUM_IMAGES), layout).cells
    table = pq.read_table(shard.path)
    assert table["id"].to_pylist() == [f"img-{i}" for i in range(NUM_IMAGES)]
    assert table["label"].to_pylist() == [i % 5 for i in range(NUM_IMAGES)]
    for name in layout.columns(layout.branches):
        assert table[name].to_pylist() == [bytes(cell) for cell in expected[name]]


def test_shard_footer_holds_its_place_and_groups(tmp_path):
    with pq.ParquetFile(written(tmp_path).path) as file:
        assert file.metadata.metadata[b"bottleneck.place"] == b"0123/a.parquet"
        counts = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    assert counts == [4, 4, 1]


@pytest.mark.parametrize("group", range(3))
def test_read_group_gives_its_rows(tmp_path, group):
    rows = unit.read_group(written(tmp_path), group, ("q010",))
    expected = list(range(9))[4 * group : 4 * group + 4]
    assert rows.ids == [f"img-{i}" for i in expected]
    assert rows.labels.tolist() == [i % 5 for i in expected]
    assert rows.labels.dtype == np.int32
    assert list(rows.cells) == ["q010.mask", "q010.byte0", "q010.byte1"]


def test_read_group_damaged_column_of_names_is_an_error(tmp_path):
    shard = written(tmp_path)
    damage_column(shard.path, "id")
    with pytest.raises(ShardError, match=r"a\.parquet: damaged"):
        unit.read_group(shard, 0, ("q010",))


@pytest.mark.parametrize("column", ["label", "q010.mask", "q010.byte1"])
def test_read_group_damaged_column_names_the_file(tmp_path, column):
    shard = written(tmp_path)
    damage_column(shard.path, column)
    with pytest.raises(ShardError, match=rf"a\.parquet: damaged: .*; {MEND}"):
        read(shard)


def test_read_ids_needs_no_other_column(tmp_path):
    shard = written(tmp_path)
    for column in ("label", *LAYOUT.columns(LAYOUT.branches)):
        damage_column(shard.path, column)
    assert unit.read_ids(shard) == [f"img-{i}" for i in range(NUM_IMAGES)]


def test_read_footer_changed_is_an_error(tmp_path):
    shard = written(tmp_path)
    content = shard.path.read_bytes()
    assert content.count(b"q010.mask") > 3
    shard.path.write_bytes(content.replace(b"q010.mask", b"q110.mask"))
    with pytest.raises(ShardError, match=rf"damaged: its footer is not what was written; {MEND}"):
        unit.read_group(shard, 0, ("original",))


def test_read_column_lost_from_a_footer_of_unknown_hash_is_an_error(tmp_path):
    shard = dataclasses.replace(written(tmp_path), footer_sha256=None)
    shard.path.write_bytes(shard.path.read_bytes().replace(b"q010.mask", b"q110.mask"))
    unit.read_group(shard, 0, ("original",))
    with pytest.raises(ShardError, match=r"damaged: no binary column q010\.mask; "):
        unit.read_group(shard, 0, ("q010",))


@pytest.mark.parametrize("how", [read, unit.read_ids])
def test_read_file_of_another_cache_is_an_error(tmp_path, how):
    shard = dataclasses.replace(written(tmp_path), place="4567/a.parquet")
    message = rf"holds 0123/a\.parquet, expected 4567/a\.parquet; {MEND}"
    with pytest.raises(ShardError, match=message):
        how(shard)


def test_read_file_that_names_no_place_is_an_error(tmp_path):
    shard = dataclasses.replace(written(tmp_path), footer_sha256=None)
    table = pq.read_table(shard.path).replace_schema_metadata(None)
    pq.write_table(table, shard.path, row_group_size=4)
    with pytest.raises(ShardError, match=r"holds no known shard, expected 0123/a\.parquet"):
        read(shard)


@pytest.mark.parametrize("how", [read, unit.read_ids])
@pytest.mark.parametrize("claimed", [8, 10, 100])
def test_read_other_rows_than_the_receipt_is_an_error(tmp_path, claimed, how):
    shard = dataclasses.replace(written(tmp_path), num_rows=claimed)
    with pytest.raises(ShardError, match=rf"a\.parquet: 9 rows, its receipt says {claimed}; "):
        how(shard)


def test_read_group_of_other_size_than_the_layouts_is_an_error(tmp_path):
    shard = written(tmp_path)
    other = dataclasses.replace(shard, layout=dataclasses.replace(LAYOUT, rows_per_group=3))
    with pytest.raises(ShardError, match=r"a\.parquet: 4 rows in group 0, expected 3"):
        unit.read_group(other, 0, ("q010",))


def test_read_ids_opens_the_file_once(tmp_path, monkeypatch):
    shard, opened = written(tmp_path), []
    open_file = parquet.open_file
    monkeypatch.setattr(parquet, "open_file", lambda *a: opened.append(a[0]) or open_file(*a))
    assert len(unit.read_ids(shard)) == NUM_IMAGES
    assert opened == [shard.path]


def test_read_ids_any_bit_of_the_names_pages_flipped_is_an_error_or_no_matter(tmp_path):
    shard = written(tmp_path)
    content, expected = shard.path.read_bytes(), unit.read_ids(shard)
    num_errors = num_bits = 0
    for group in range(shard.num_groups):
        column = pq.read_metadata(shard.path).row_group(group).column(0)
        first, size = 8 * column.data_page_offset, 8 * column.total_compressed_size
        for bit in range(first, first + size):
            shard.path.write_bytes(flip_bit(content, bit))
            num_bits += 1
            try:
                assert unit.read_ids(shard) == expected, bit
            except ShardError as error:
                assert str(error).startswith(f"{shard.path}: "), bit
                num_errors += 1
        shard.path.write_bytes(content)
    assert num_errors > 0.8 * num_bits


@pytest.mark.parametrize("how", [read, unit.read_ids])
def test_read_file_missing_is_an_error(tmp_path, how):
    shard = written(tmp_path)
    shard.path.unlink()
    with pytest.raises(ShardError, match=rf"a\.parquet: cannot be opened: .*; {MEND}"):
        how(shard)


def test_write_more_bytes_in_a_column_than_offsets_reach_is_an_error(tmp_path):
    layout = Layout((1,), ("a",), "uint8", "dense", "parquet", 1, (1.0,), (0,))
    shard = Shard(tmp_path / "a.parquet", "0123/a.parquet", layout)
    column = Cells(np.zeros(8, np.uint8), np.array([0, 2**31]))  # says so, and need not be so
    with (
        pytest.raises(ShardError, match=r"a column of 2,147,483,648 bytes in one row group is mor"),
        unit.open_writer(shard) as writer,
    ):
        writer.write(Rows(np.zeros(1, np.int32), {"a.byte0": column}, ["x"]))
    assert list(tmp_path.iterdir()) == []


def test_compressed_size_is_what_zstd_makes_of_the_column():
    numbers = np.random.default_rng(0).integers(0, 4, 20_000).astype(np.uint8)
    column = Cells.of_sizes(numbers, np.full(20, 1000))
    assert unit.compressed_size(column) < len(numbers) / 3
    assert unit.compressed_size(Cells.of_sizes(numbers[:0], np.zeros(3, int))) == 0
