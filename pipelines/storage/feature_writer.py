"""Writing a bottleneck cache: the choice of its layout, and one shard after another."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.storage import features, parquet
from pipelines.storage.features import Layout
from pipelines.storage.manifest import Receipt

_GROUP_BYTES = 8 << 20  # a row group, the unit of shuffled reading: some hundred per GB


def choose_layout(probe: np.ndarray, layout: Layout) -> tuple[Layout, dict[str, int]]:
    """Take the encoding that is smaller on the probe, and row groups of about 8 MiB.

    Args:
        probe: float32 (images, branches, *shape), feature maps of the first images.
        layout: shape, branches and dtype; its `rows_per_group` is the batch size that the chosen
            one is a multiple of.

    Returns:
        The layout, and the probe's bytes on disk in each encoding that is possible.
    """
    names = ["dense", "sparse"] if features.can_be_sparse(layout.shape) else ["dense"]
    layouts = {name: dataclasses.replace(layout, encoding=name) for name in names}
    sizes = {name: features.measure(probe, layouts[name]) for name in names}
    best = min(names, key=lambda name: sizes[name])
    batches = _GROUP_BYTES * len(probe) // max(1, sizes[best]) // layout.rows_per_group
    rows_per_group = max(1, batches) * layout.rows_per_group
    return dataclasses.replace(layouts[best], rows_per_group=rows_per_group), sizes


class FeatureWriter:
    """Gathers encoded batches into row groups."""

    def __init__(self, table: parquet.TableWriter, layout: Layout) -> None:
        self._table = table
        self._layout = layout
        self._batches: list[list[pa.Array]] = []
        self._num_rows = 0
        self._nnz = 0

    def add(self, ids: Sequence[str], labels: Sequence[int], encoded: features.EncodedRows) -> None:
        """Append some images; a row group is written when it is full."""
        fixed = [pa.array(ids, pa.string()), pa.array(labels, pa.int32())]
        self._batches.append([*fixed, *encoded.columns])
        self._num_rows += len(ids)
        self._nnz += encoded.nnz
        if self._num_rows >= self._layout.rows_per_group:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered as a row group."""
        if self._batches:
            self._table.write([pa.concat_arrays(c) for c in zip(*self._batches, strict=True)])
        self._batches, self._num_rows = [], 0

    def receipt(self, shard: str) -> Receipt:
        """Return the receipt of the shard, once it is durably there."""
        file, num_rows = self._table.file, self._table.num_rows
        num_values = num_rows * len(self._layout.branches) * self._layout.num_values
        stats = {"nnz": self._nnz, "num_values": num_values}
        return Receipt(shard, num_rows, file.size_bytes, file.sha256.hexdigest(), stats=stats)


@contextlib.contextmanager
def open_shard(path: Path, layout: Layout) -> Iterator[FeatureWriter]:
    """Write one feature shard atomically.

    Raises:
        ShardError: the disk refuses.
    """
    with parquet.table_writer(path, layout.schema(), features.COMPRESSION) as table:
        writer = FeatureWriter(table, layout)
        yield writer
        writer.flush()
