"""Batches of dense feature maps of one split, streamed from disk or from memory, in one order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import FeatureError, ShardError
from pipelines.storage import features, parquet
from pipelines.storage.order import Window, epoch_windows, plain_windows

_AHEAD = 3  # batches, ready or being read, beside the one in use
_AHEAD_BYTES = 128 << 20  # they take together at most, unless one alone takes more


@dataclass(frozen=True)
class Batch:
    """Some images with their feature maps.

    Attributes:
        features: (images, branches, *shape) float16 or float32, unitless.
        labels: (images,) int32, class indices.
        ids: (images,) the images' names; None in training, where nobody asks.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: list[str] | None = None


@dataclass(frozen=True)
class Group:
    """One row group of a shard."""

    path: Path
    index: int
    num_rows: int


class SplitReader:
    """Batches of one split, in training order or in the plan's.

    Attributes:
        num_rows: images.
        decoded_bytes: what the split takes in memory in the stored dtype.
    """

    def __init__(
        self,
        layout: features.Layout,
        branches: tuple[str, ...],
        groups: list[Group],
        window_rows: int,
    ) -> None:
        self._layout = layout
        self._branches = branches
        self._groups = groups
        self._window_rows = window_rows
        self._group_rows = [group.num_rows for group in groups]
        self._loaded: tuple[np.ndarray, np.ndarray] | None = None
        self.num_rows = sum(self._group_rows)
        itemsize = np.dtype(layout.dtype).itemsize
        self.decoded_bytes = self.num_rows * len(branches) * layout.num_values * itemsize

    def load(self) -> None:
        """Decode the whole split into memory, in the stored dtype; the order does not change."""
        shape = (self.num_rows, len(self._branches), *self._layout.shape)
        maps, labels = np.empty(shape, self._layout.dtype), np.empty(self.num_rows, np.int32)
        first = 0
        for group in self._groups:
            table = self._read([group], with_ids=False)
            last = first + group.num_rows
            maps[first:last], labels[first:last] = self._decode(table), table["label"].to_numpy()
            first = last
        self._loaded = (maps, labels)

    @property
    def is_loaded(self) -> bool:
        """Tell whether the split is in memory."""
        return self._loaded is not None

    @property
    def dtype(self) -> str:
        """Dtype of the batches' features; in memory maps keep the dtype they are stored in."""
        return self._layout.dtype if self.is_loaded else self._layout.decoded_dtype

    def num_steps(self, batch_size: int) -> int:
        """Return the steps of one epoch; the last batch may be smaller."""
        return -(-self.num_rows // batch_size)

    def epoch(self, batch_size: int, seed: int, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Give an epoch's batches from `first_step` on; a pure function of (seed, epoch).

        Raises:
            ShardError: a shard is damaged.
        """
        windows = epoch_windows(self._group_rows, self._window_rows, seed, epoch)
        first = first_step * batch_size
        if self._loaded is not None:
            batches = self._from_memory(windows, batch_size, first)
        else:
            batches = self._from_disk(windows, batch_size, first, with_ids=False)
        return _ahead(batches, self._num_ahead(batch_size))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Give all images once, in the plan's order, with their ids where read from disk.

        Raises:
            ShardError: a shard is damaged.
        """
        windows = plain_windows(self._group_rows)
        if self._loaded is not None:
            return self._from_memory(windows, batch_size, 0)
        batches = self._from_disk(windows, batch_size, 0, with_ids=True)
        return _ahead(batches, self._num_ahead(batch_size))

    def _num_ahead(self, batch_size: int) -> int:
        itemsize = np.dtype(self.dtype).itemsize
        batch_bytes = batch_size * len(self._branches) * self._layout.num_values * itemsize
        return max(1, min(_AHEAD, _AHEAD_BYTES // batch_bytes))

    def _from_memory(self, windows: list[Window], batch_size: int, first: int) -> Iterator[Batch]:
        assert self._loaded is not None
        maps, labels = self._loaded
        starts = np.concatenate([[0], np.cumsum(self._group_rows)])
        parts = []
        for window in windows:
            spans = [np.arange(starts[g], starts[g + 1]) for g in window.groups]
            parts.append(np.concatenate(spans)[window.rows])
        order = np.concatenate(parts)
        for start in range(first, self.num_rows, batch_size):
            rows = order[start : start + batch_size]
            yield Batch(maps[rows], labels[rows])

    def _from_disk(
        self, windows: list[Window], batch_size: int, first: int, with_ids: bool
    ) -> Iterator[Batch]:
        pieces: list[pa.Table] = []
        waiting = 0
        for window in windows:
            skip = max(0, first - window.start)
            if skip >= len(window.rows):
                continue
            table = self._read([self._groups[g] for g in window.groups], with_ids)
            rows = window.rows[skip:]
            used = 0
            while used < len(rows):
                taken = rows[used : used + batch_size - waiting]
                pieces.append(table.take(pa.array(taken)))
                used, waiting = used + len(taken), waiting + len(taken)
                if waiting == batch_size:
                    yield self._to_batch(pieces, with_ids)
                    pieces, waiting = [], 0
        if waiting:
            yield self._to_batch(pieces, with_ids)

    def _read(self, groups: Sequence[Group], with_ids: bool) -> pa.Table:
        columns = [name for branch in self._branches for name in self._layout.columns(branch)]
        wanted = [*(["id"] if with_ids else []), "label", *columns]
        schema = self._layout.schema()
        expected = pa.schema([schema.field(name) for name in wanted])
        tables = []
        for group in groups:
            with parquet.reading(group.path), parquet.open_file(group.path, expected) as file:
                tables.append(file.read_row_group(group.index, columns=wanted, use_threads=False))
        # One chunk a column: take would lay the chunks end to end anew for every batch.
        return pa.concat_tables(tables).combine_chunks()

    def _decode(self, table: pa.Table) -> np.ndarray:
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        try:
            return features.decode(columns, self._layout, self._branches)
        except FeatureError as error:
            raise ShardError(f"{self._groups[0].path.parent}: {error}") from error

    def _to_batch(self, pieces: list[pa.Table], with_ids: bool) -> Batch:
        table = pa.concat_tables(pieces)
        ids = table["id"].to_pylist() if with_ids else None
        return Batch(self._decode(table), table["label"].to_numpy().astype(np.int32), ids)


def _ahead(batches: Iterator[Batch], num_ahead: int) -> Iterator[Batch]:
    """Read in a thread of its own, at most `num_ahead` batches ahead of the one in use."""
    ready: queue.Queue[Any] = queue.Queue()
    free = threading.Semaphore(num_ahead)
    stopped = threading.Event()

    def work() -> None:
        try:
            while free.acquire() and not stopped.is_set():
                batch = next(batches, None)
                ready.put(batch)
                if batch is None:
                    return
                del batch  # this thread holds none while it waits
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, name="bottleneck-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            free.release()
            yield item
    finally:
        stopped.set()
        free.release()
        thread.join()
