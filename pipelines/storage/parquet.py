"""Parquet files as this project writes and reads them: no dictionary, page checksums, hashed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import ShardError
from pipelines.storage import atomic

_MEND = "run `bottleneck verify --repair`, then the stage that made it, it makes what is missing"


class TableWriter:
    """One Parquet file being written; see `table_writer`."""

    def __init__(self, file: atomic.HashingFile, schema: pa.Schema, compression: str) -> None:
        self.file = file
        self.num_rows = 0
        self.footer_sha256: str | None = None
        self._schema = schema
        self._writer = pq.ParquetWriter(
            file,
            schema,
            compression=compression,
            compression_level=1 if compression == "zstd" else None,
            use_dictionary=False,  # reads float16 about ten times slower, finds nothing in images
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,
        )

    def write(self, columns: Sequence[pa.Array]) -> None:
        """Append one row group; the arrays are in the schema's order."""
        table = pa.Table.from_arrays(list(columns), schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.num_rows += table.num_rows

    def note(self, key: str, value: str) -> None:
        """Put a pair of words into the footer."""
        self._writer.add_key_value_metadata({key: value})

    def close(self) -> None:
        """Write the footer."""
        footer = hashlib.sha256()
        self.file.also_into(footer)
        self._writer.close()
        self.footer_sha256 = footer.hexdigest()


@contextlib.contextmanager
def table_writer(path: Path, schema: pa.Schema, compression: str) -> Iterator[TableWriter]:
    """Write `path` atomically, one row group a `write` call.

    Args:
        path: the file to make.
        schema: its columns.
        compression: "none" or "zstd".

    Raises:
        ShardError: the file system refuses.
    """
    with atomic.atomic_file(path) as file:
        writer = TableWriter(file, schema, compression)
        try:
            yield writer
            writer.close()
        except BaseException:
            file.abandon()
            raise


def write_table(path: Path, table: pa.Table) -> None:
    """Write a small table as one compressed row group, atomically."""
    with table_writer(path, table.schema, "zstd") as writer:
        writer.write([column.combine_chunks() for column in table.columns])


def open_file(
    path: Path, expected: pa.Schema | None = None, footer_sha256: str | None = None
) -> pq.ParquetFile:
    """Open a shard with its page checksums verified on every read.

    The footer has no checksum of its own, and pyarrow passes over a column that is not there: a
    reader names the columns that it is going to take.

    Args:
        path: the file.
        expected: columns that must be in it, among others.
        footer_sha256: what the footer must be, where the writer kept its hash.

    Raises:
        ShardError: it is missing, no Parquet file, or has other columns.
    """
    try:
        if footer_sha256 not in (None, _hash_footer(path)):
            raise ShardError(f"{path}: damaged: its footer is not what was written; {_MEND}")
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
        found = file.schema_arrow
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardError(f"{path}: cannot be opened: {_first_line(error)}; {_MEND}") from error
    for column in expected or ():
        index = found.get_field_index(column.name)  # -1 where it is missing or there twice
        if index < 0 or not found.field(index).equals(column):
            file.close()
            raise ShardError(f"{path}: damaged: no {column.type} column {column.name}; {_MEND}")
    return file


def group_rows(path: Path, file: pq.ParquetFile, num_rows: int) -> list[int]:
    """Return the rows of each row group.

    Raises:
        ShardError: they are not `num_rows` together, which the receipt says.
    """
    counts = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    if sum(counts) != num_rows:
        raise ShardError(f"{path}: {sum(counts)} rows, its receipt says {num_rows}; {_MEND}")
    return counts


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn pyarrow's complaints about a damaged file into one that names it.

    Raises:
        ShardError: the block met a damaged page.
    """
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardError(f"{path}: damaged: {_first_line(error)}; {_MEND}") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole file, or some of its columns.

    Raises:
        ShardError: it is missing or damaged.
    """
    with reading(path), open_file(path) as file:
        return file.read(columns=list(columns) if columns is not None else None)


def _hash_footer(path: Path) -> str:
    """Hash a file's footer with its length and magic number, the last 8 bytes."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 8))
        size_bytes = int.from_bytes(file.read(4), "little") + 8
        file.seek(max(0, end - size_bytes))
        return hashlib.sha256(file.read(size_bytes)).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
