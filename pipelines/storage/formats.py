"""The file formats of a cache by name; each is a module with the same functions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Protocol

from pipelines.storage import parquet_shards, tfrecord_shards
from pipelines.storage.atomic import HashingFile
from pipelines.storage.cells import Cells
from pipelines.storage.layout import Layout
from pipelines.storage.rows import Rows, Shard

MEND = "run `bottleneck verify --repair`, then `bottleneck extract` again"


class Writer(Protocol):
    """A shard being written."""

    @property
    def file(self) -> HashingFile:
        """Counts and hashes what was written."""

    @property
    def footer_sha256(self) -> str | None:
        """Of what has no checksum of its own at the file's end, once the writer is closed."""

    def write(self, rows: Rows) -> None:
        """Append one group; all but the last of a shard have the layout's number of rows."""


class Format(Protocol):
    """What each module offers."""

    SUFFIX: str

    def open_writer(self, shard: Shard) -> AbstractContextManager[Writer]:
        """Write a shard atomically."""

    def read_group(self, shard: Shard, group: int, branches: Sequence[str]) -> Rows:
        """Read one group, only the cells of some branches."""

    def read_ids(self, shard: Shard) -> list[str]:
        """Read the names of all images of a shard."""

    def check_names(self, shard: Shard) -> None:
        """Check what `read_ids` leaves unchecked."""

    def compressed_size(self, column: Cells) -> int:
        """Return the bytes that a column takes on disk."""


FORMATS = MappingProxyType({"parquet": parquet_shards, "tfrecord": tfrecord_shards})


def of(layout: Layout) -> Format:
    """Return the format that a cache is written in."""
    return FORMATS[layout.format]
