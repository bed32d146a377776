"""Parquet files: whole or not there, hashed, checked page by page, damage named."""

from __future__ import annotations

import gc
import hashlib
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from disks import mounted

from pipelines.errors import ShardError
from pipelines.storage import parquet

SCHEMA = pa.schema([("id", pa.string()), ("label", pa.int32()), ("data", pa.binary())])


def make_columns(num_rows: int, seed: int = 0) -> list[pa.Array]:
    rng = np.random.default_rng(seed)
    ids = [f"{seed}/{i}.jpg" for i in range(num_rows)]
    data = [rng.bytes(int(size)) for size in rng.integers(0, 60, num_rows)]
    labels = rng.integers(0, 9, num_rows)
    return [pa.array(v, type=f.type) for v, f in zip([ids, labels, data], SCHEMA, strict=True)]


def write(path: Path, compression: str = "none", num_groups: int = 3) -> parquet.TableWriter:
    with parquet.table_writer(path, SCHEMA, compression) as writer:
        for seed in range(num_groups):
            writer.write(make_columns(20, seed))
    return writer


def footer_start(content: bytes) -> int:
    """Return where the footer begins: its length stands before the last four bytes."""
    return len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_table_writer_rows_come_back_in_order(tmp_path, compression):
    writer = write(tmp_path / "a.parquet", compression)
    table = parquet.read_table(tmp_path / "a.parquet")
    parts = [pa.Table.from_arrays(make_columns(20, seed), schema=SCHEMA) for seed in range(3)]
    assert table.equals(pa.concat_tables(parts))
    assert writer.num_rows == 60


def test_table_writer_each_write_is_a_row_group(tmp_path):
    write(tmp_path / "a.parquet")
    with parquet.open_file(tmp_path / "a.parquet") as file:
        assert parquet.group_rows(tmp_path / "a.parquet", file, 60) == [20, 20, 20]


def test_table_writer_size_and_hash_are_the_files(tmp_path):
    writer = write(tmp_path / "a.parquet", "zstd")
    content = (tmp_path / "a.parquet").read_bytes()
    assert writer.file.size_bytes == len(content)
    assert writer.file.sha256.hexdigest() == hashlib.sha256(content).hexdigest()


def test_table_writer_same_rows_give_same_bytes(tmp_path):
    write(tmp_path / "a.parquet", "zstd")
    write(tmp_path / "b.parquet", "zstd")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_table_writer_columns_have_no_dictionary_and_no_statistics(tmp_path):
    write(tmp_path / "a.parquet", "zstd")
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    for i in range(group.num_columns):
        column = group.column(i)
        assert not column.has_dictionary_page
        assert column.statistics is None
        assert column.compression == "ZSTD"


def test_table_writer_footers_hash_is_of_the_files_end(tmp_path):
    writer = write(tmp_path / "a.parquet", "zstd")
    content = (tmp_path / "a.parquet").read_bytes()
    assert writer.footer_sha256 == hashlib.sha256(content[footer_start(content) :]).hexdigest()


def test_table_writer_note_stands_in_the_footer(tmp_path):
    with parquet.table_writer(tmp_path / "a.parquet", SCHEMA, "none") as writer:
        writer.note("where", "hier ü")
        writer.write(make_columns(3))
    assert pq.read_metadata(tmp_path / "a.parquet").metadata[b"where"] == "hier ü".encode()


def test_table_writer_no_rows_is_a_whole_file(tmp_path):
    writer = write(tmp_path / "a.parquet", num_groups=0)
    assert writer.num_rows == 0
    assert parquet.read_table(tmp_path / "a.parquet").num_rows == 0


def test_table_writer_block_fails_leaves_nothing_and_no_late_words(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        parquet.table_writer(tmp_path / "a.parquet", SCHEMA, "none") as writer,
    ):
        writer.write(make_columns(20))
        raise ZeroDivisionError
    del writer
    gc.collect()  # pyarrow's writer writes its footer when it dies: that must not be heard of
    assert list(tmp_path.iterdir()) == []


def test_table_writer_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        path = disk / "train-00000-of-00001.parquet"
        with pytest.raises(ShardError, match=r"00001\.parquet: cannot be written: No space left"):
            write(path, num_groups=200)
        gc.collect()
        assert list(disk.iterdir()) == []
        write(path, num_groups=3)
        assert parquet.read_table(path).num_rows == 60


def test_write_table_is_one_row_group(tmp_path):
    table = pa.Table.from_arrays(make_columns(20), schema=SCHEMA)
    chunked = pa.concat_tables([table.slice(0, 5), table.slice(5)])
    parquet.write_table(tmp_path / "a.parquet", chunked)
    with parquet.open_file(tmp_path / "a.parquet") as file:
        assert file.num_row_groups == 1
    assert parquet.read_table(tmp_path / "a.parquet").equals(table)


def test_read_table_some_columns_are_the_named_ones(tmp_path):
    write(tmp_path / "a.parquet")
    assert parquet.read_table(tmp_path / "a.parquet", ["label"]).column_names == ["label"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_read_table_bits_flipped_in_pages_never_give_wrong_rows(tmp_path, compression):
    path = tmp_path / "a.parquet"
    write(path, compression)
    content, expected = path.read_bytes(), parquet.read_table(path)
    rng = np.random.default_rng(1)
    num_errors = 0
    for bit in rng.integers(4 * 8, footer_start(content) * 8, 100):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            assert parquet.read_table(path).equals(expected)  # bits that mean nothing
        except ShardError as error:
            assert "a.parquet: damaged" in str(error)
            num_errors += 1
    assert num_errors > 80


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_open_file_cut_short_is_an_error(tmp_path, kept):
    path = tmp_path / "a.parquet"
    write(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ShardError, match=r"a\.parquet: cannot be opened: .*; run `bottleneck ver"):
        parquet.open_file(path)


def test_open_file_any_bit_of_the_footer_flipped_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    footer_sha256 = write(path).footer_sha256
    content = path.read_bytes()
    parquet.open_file(path, footer_sha256=footer_sha256).close()
    for bit in np.random.default_rng(2).integers(8 * footer_start(content), 8 * len(content), 100):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"a\.parquet: damaged: its footer is not what was"):
            parquet.open_file(path, footer_sha256=footer_sha256)


def test_open_file_missing_is_an_error(tmp_path):
    with pytest.raises(ShardError, match=r"a\.parquet: cannot be opened"):
        parquet.open_file(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (pa.schema([("other", pa.binary())]), "no binary column other"),
        (pa.schema([("label", pa.int64())]), "no int64 column label"),
        (pa.schema([("id", pa.string(), False)]), "no string column id"),
    ],
)
def test_open_file_other_columns_are_an_error(tmp_path, expected, words):
    write(tmp_path / "a.parquet")
    with pytest.raises(ShardError, match=rf"a\.parquet: damaged: {words}"):
        parquet.open_file(tmp_path / "a.parquet", expected)


def test_open_file_column_twice_is_an_error(tmp_path):
    twice = pa.schema([("q010", pa.binary()), ("q010", pa.binary())])
    with parquet.table_writer(tmp_path / "a.parquet", twice, "none") as writer:
        writer.write([pa.array([b"a"]), pa.array([b"b"])])
    with pytest.raises(ShardError, match="no binary column q010"):
        parquet.open_file(tmp_path / "a.parquet", pa.schema([("q010", pa.binary())]))


def test_open_file_some_of_its_columns_expected_opens(tmp_path):
    write(tmp_path / "a.parquet")
    with parquet.open_file(tmp_path / "a.parquet", pa.schema([SCHEMA.field("data")])) as file:
        assert file.metadata.num_rows == 60


def test_group_rows_other_than_the_receipt_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    write(path)
    with (
        parquet.open_file(path) as file,
        pytest.raises(ShardError, match=r"a\.parquet: 60 rows, its receipt says 61; run `bott"),
    ):
        parquet.group_rows(path, file, 61)
