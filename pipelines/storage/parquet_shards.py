"""Shards of a cache as Parquet: a row an image, a binary column a cell, a row group a group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import ShardError
from pipelines.storage import parquet, version1
from pipelines.storage.atomic import HashingFile
from pipelines.storage.cells import Cells
from pipelines.storage.layout import Layout
from pipelines.storage.rows import Rows, Shard

SUFFIX = "parquet"
_COMPRESSION = "zstd"
_PLACE = "bottleneck.place"
_MEND = "run `bottleneck verify --repair`, then `bottleneck extract` again"


class Writer:
    """A shard being written."""

    def __init__(self, table: parquet.TableWriter) -> None:
        self._table = table

    @property
    def file(self) -> HashingFile:
        """Counts and hashes what was written."""
        return self._table.file

    @property
    def footer_sha256(self) -> str | None:
        """Of the footer, once it is written."""
        return self._table.footer_sha256

    def write(self, rows: Rows) -> None:
        """Append a row group."""
        fixed = [pa.array(rows.ids, pa.string()), pa.array(rows.labels, pa.int32())]
        self._table.write([*fixed, *map(_to_arrow, rows.cells.values())])


@contextlib.contextmanager
def open_writer(shard: Shard) -> Iterator[Writer]:
    """Write a shard atomically.

    Raises:
        ShardError: the disk refuses.
    """
    layout = shard.layout
    schema = _schema(layout, layout.branches)
    with parquet.table_writer(shard.path, schema, _COMPRESSION) as table:
        table.note(_PLACE, shard.place)
        yield Writer(table)


def read_group(shard: Shard, group: int, branches: Sequence[str]) -> Rows:
    """Read one row group, only the columns that are asked for.

    Raises:
        ShardError: the shard is missing or damaged.
    """
    layout, num_rows = shard.layout, shard.group_rows(group)
    names = version1.columns(layout, branches) if layout.version == 1 else layout.columns(branches)
    columns = ["id", "label", *names]
    with _opened(shard, columns) as file:
        table = file.read_row_group(group, columns=columns, use_threads=False)
    if len(table) != num_rows:
        raise ShardError(f"{shard.path}: {len(table)} rows in group {group}, expected {num_rows}")
    stored = {name: _to_cells(table[name].combine_chunks()) for name in names}
    cells = version1.to_cells(stored, layout, branches) if layout.version == 1 else stored
    labels = table["label"].to_numpy().astype(np.int32, copy=False)
    return Rows(labels, cells, table["id"].to_pylist())


def read_ids(shard: Shard) -> list[str]:
    """Read the names of all images.

    Raises:
        ShardError: the shard is missing or damaged.
    """
    with _opened(shard, ["id"]) as file:
        names = file.read(columns=["id"], use_threads=False)["id"].to_pylist()
    if len(names) != shard.num_rows:  # a damaged header, of no checksum, can hide a page
        raise ShardError(f"{shard.path}: {len(names)} names, expected {shard.num_rows}; {_MEND}")
    return names


def check_names(shard: Shard) -> None:
    """Do nothing: `read_ids` checks the pages that it reads."""


def compressed_size(column: Cells) -> int:
    """Return the bytes that a column takes on disk."""
    if not column.data.size:
        return 0
    return len(pa.Codec(_COMPRESSION, compression_level=1).compress(column.data, asbytes=True))


@contextlib.contextmanager
def _opened(shard: Shard, columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """Open a shard whose footer is the one that was written, for reading some columns.

    Raises:
        ShardError: it is missing or damaged, or what the block reads is.
    """
    layout, path = shard.layout, shard.path
    known = version1.schema(layout) if layout.version == 1 else _schema(layout, layout.branches)
    expected = pa.schema([known.field(name) for name in columns])
    with parquet.open_file(path, expected, shard.footer_sha256) as file, parquet.reading(path):
        if layout.version > 1:
            found = (
                (file.metadata.metadata or {}).get(_PLACE.encode(), b"").decode("utf-8", "replace")
            )
            check_place(shard, found)
        if file.metadata.num_rows != shard.num_rows:
            raise ShardError(
                f"{path}: {file.metadata.num_rows} rows, its receipt says {shard.num_rows}; {_MEND}"
            )
        yield file


def check_place(shard: Shard, found: str) -> None:
    """Check that a file is where it was made for.

    Raises:
        ShardError: it belongs to another cache, or is another shard.
    """
    if found != shard.place:
        raise ShardError(
            f"{shard.path}: holds {found or 'no known shard'}, expected {shard.place}; {_MEND}"
        )


def _schema(layout: Layout, branches: Sequence[str]) -> pa.Schema:
    fixed = [("id", pa.string()), ("label", pa.int32())]
    return pa.schema([*fixed, *((name, pa.binary()) for name in layout.columns(branches))])


def _to_arrow(cells: Cells) -> pa.Array:
    size_bytes = int(cells.offsets[-1] - cells.offsets[0])
    if size_bytes > np.iinfo(np.int32).max:
        raise ShardError(
            f"a column of {size_bytes:,} bytes in one row group is more than readers take; these "
            "images are far denser than the first ones: extract again with --encoding dense"
        )
    offsets = (cells.offsets - cells.offsets[0]).astype(np.int32)
    data = cells.data[cells.offsets[0] : cells.offsets[-1]]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(cells), buffers)


def _to_cells(array: pa.Array) -> Cells:
    """View a binary column as cells, without a copy."""
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.empty(0, np.uint8)
    starts = offsets.astype(np.int64)
    return Cells(data[starts[0] : starts[-1]], starts - starts[0])
