"""Writing a bottleneck cache, one shard after another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.storage import formats
from pipelines.storage.cells import EncodedRows
from pipelines.storage.plan import Receipt
from pipelines.storage.rows import Rows, Shard


class FeatureWriter:
    """Gathers encoded batches into groups."""

    def __init__(self, writer: formats.Writer, shard: Shard) -> None:
        self._writer = writer
        self._shard = shard
        self._waiting: list[Rows] = []
        self._num_waiting = 0
        self._num_rows = 0
        self._nnz = np.zeros(len(shard.layout.branches), np.int64)
        self._num_clipped = 0

    def add(self, ids: Sequence[str], labels: Sequence[int], encoded: EncodedRows) -> None:
        """Append some images; a group is written when it is full."""
        self._waiting.append(Rows(np.asarray(labels, np.int32), encoded.cells, ids))
        self._num_waiting += len(ids)
        self._num_rows += len(ids)
        self._nnz += encoded.nnz
        self._num_clipped += encoded.num_clipped
        if self._num_waiting >= self._shard.layout.rows_per_group:
            self._write(self._shard.layout.rows_per_group)

    def finish(self) -> None:
        """Write what is left."""
        if self._num_waiting:
            self._write(1)

    def _write(self, at_least: int) -> None:
        """Write groups while there are so many rows."""
        rows, size = Rows.joined(self._waiting), self._shard.layout.rows_per_group
        start = 0
        while len(rows) - start >= at_least:
            self._writer.write(rows.part(start, min(start + size, len(rows))))
            start = min(start + size, len(rows))
        self._waiting = [rows.part(start, len(rows))] if start < len(rows) else []
        self._num_waiting = len(rows) - start

    def receipt(self) -> Receipt:
        """Return the receipt of the shard, once it is durably there."""
        layout, file = self._shard.layout, self._writer.file
        return Receipt(
            self._shard.path.name,
            self._num_rows,
            file.size_bytes,
            file.sha256.hexdigest(),
            stats={
                "num_values": self._num_rows * len(layout.branches) * layout.num_values,
                "nnz": int(self._nnz.sum()),
                "nnz_by_branch": self._nnz.tolist(),
                "num_clipped": self._num_clipped,
            },
            footer_sha256=self._writer.footer_sha256,
        )


@contextlib.contextmanager
def open_shard(shard: Shard) -> Iterator[FeatureWriter]:
    """Write one shard of a cache atomically, in the format that its layout says.

    Raises:
        ShardError: the disk refuses.
    """
    with formats.of(shard.layout).open_writer(shard) as file:
        writer = FeatureWriter(file, shard)
        yield writer
        writer.finish()
