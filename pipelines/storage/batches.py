"""Batches of feature maps, streamed from disk or from memory, in one order, read ahead in threads.

What is held: the cells of the window in use and of the next (`order.py`), and a bounded number of
batches that are ready. None of it grows with the cache.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from pipelines.errors import ConfigError, FeatureError, ShardError
from pipelines.storage import cells, formats
from pipelines.storage.buffers import Buffers
from pipelines.storage.groups import Group, Groups, count_rows, read_group
from pipelines.storage.held import Held, Piece
from pipelines.storage.layout import Layout
from pipelines.storage.order import Windows, batches, epoch_windows, plain_windows, starts
from pipelines.storage.rows import Rows

WINDOW_BYTES = 64 << 20  # of cells: what is shuffled together
_AHEAD = 3  # batches, ready or being made, beside the one in use
_AHEAD_BYTES = 128 << 20  # they take together at most, unless one alone takes more
BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Batch:
    """Some images with their feature maps.

    Attributes:
        features: (images, branches, *shape), unitless.
        labels: int32 (images,), class indices.
        ids: the images' names.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: list[str] | None = None


@dataclass(frozen=True)
class SparseBatch:
    """Some images with their feature maps still sparse, for expansion on the device.

    Attributes:
        masks: uint8 (images, branches, bytes), a bit a position of (channels, height, width), the
            lowest first.
        values: (nnz,) in the stored dtype, in the order of the masks' bits.
        labels: int32 (images,), class indices.
    """

    masks: np.ndarray
    values: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Settings:
    """How a reader reads.

    Attributes:
        branches: names, in the order of the branch axis.
        window_rows: images that are shuffled together, at least.
        num_threads: that read, check and expand.
    """

    branches: tuple[str, ...]
    window_rows: int
    num_threads: int


class FeatureReader:
    """Batches of some images of a cache, in training order or in the plan's.

    Attributes:
        num_rows: images.
        layout: of the cache.
        branches: names, in the order of the branch axis.
    """

    def __init__(
        self, layout: Layout, groups: Sequence[Group] | Groups, settings: Settings
    ) -> None:
        self.layout = layout
        self.branches = settings.branches
        self._groups = groups
        self._settings = settings
        self._group_rows = count_rows(groups)
        self._starts = starts(self._group_rows)
        self._loaded: Rows | None = None
        self._buffers = Buffers()
        self.num_rows = int(self._starts[-1])

    def load(self) -> None:
        """Read all images into memory, as cells; neither order nor numbers change."""
        with ThreadPoolExecutor(self._settings.num_threads) as pool:
            self._loaded = Rows.joined(list(pool.map(self._read, self._groups)))

    @property
    def is_loaded(self) -> bool:
        """Tell whether the images are in memory."""
        return self._loaded is not None

    def num_steps(self, batch_size: int) -> int:
        """Return the steps of one epoch; the last batch may be smaller."""
        return -(-self.num_rows // batch_size)

    def epoch(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        first_step: int = 0,
        dtype: str = "float32",
    ) -> Iterator[Batch]:
        """Give an epoch's batches from `first_step` on; a pure function of (seed, epoch).

        Args:
            batch_size: images a batch.
            seed: of the order.
            epoch: counted from 0.
            first_step: the batches before it are neither given nor read.
            dtype: "float32" or the stored one.

        Raises:
            ShardError: a shard is damaged.
        """
        windows = epoch_windows(self._group_rows, self._settings.window_rows, seed, epoch)
        return self._dense(windows, batch_size, first_step * batch_size, dtype)

    def sparse_epoch(
        self, batch_size: int, seed: int, epoch: int, first_step: int = 0
    ) -> Iterator[SparseBatch]:
        """Give the same batches as `epoch`, still sparse.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: the cache is dense.
        """
        self.check_sparse()
        windows = epoch_windows(self._group_rows, self._settings.window_rows, seed, epoch)
        first = first_step * batch_size
        return self._batches(
            windows,
            batch_size,
            first,
            self._to_sparse_batch,
            self._num_ahead(batch_size, self.layout.dtype),
        )

    def in_order(self, batch_size: int, dtype: str = "float32") -> Iterator[Batch]:
        """Give all images once, in the plan's order, with their names.

        Raises:
            ShardError: a shard is damaged.
        """
        return self._dense(plain_windows(self._group_rows), batch_size, 0, dtype)

    def sparse_in_order(self, batch_size: int) -> Iterator[SparseBatch]:
        """Give the same batches as `in_order`, still sparse.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: the cache is dense.
        """
        self.check_sparse()
        windows = plain_windows(self._group_rows)
        return self._batches(
            windows,
            batch_size,
            0,
            self._to_sparse_batch,
            self._num_ahead(batch_size, self.layout.dtype),
        )

    def check_sparse(self) -> None:
        """Refuse a dense cache.

        Raises:
            ConfigError: the cache is dense.
        """
        if self.layout.encoding != "sparse":
            raise ConfigError("the cache's encoding is dense; read dense batches")

    def _batches(
        self,
        windows: Windows,
        batch_size: int,
        first_row: int,
        make: Callable[[Sequence[Piece]], BatchT],
        num_ahead: int,
    ) -> Iterator[BatchT]:
        """Make batches in threads, a bounded number ahead, the next window's cells beside them."""
        ahead: deque[Future[BatchT]] = deque()
        pool = ThreadPoolExecutor(self._settings.num_threads, thread_name_prefix="bottleneck")
        try:
            held: dict[int, Held] = {}
            for pieces in batches(windows, batch_size, first_row):
                last = pieces[-1][0]
                for number in (*(number for number, _ in pieces), last + 1):
                    if number not in held and number < len(windows):
                        held[number] = self._hold(windows.groups(number), pool)
                for number, _ in pieces:
                    held[number].read_all()
                if last + 1 in held:  # spread over this window's batches
                    share = len(windows.groups(last + 1)) * batch_size / windows.num_rows(last)
                    held[last + 1].read_more(int(share) + 1)
                ahead.append(
                    pool.submit(make, [Piece(held[number], rows) for number, rows in pieces])
                )
                for number in [n for n in held if n < last]:
                    del held[number]
                if len(ahead) > num_ahead:
                    yield ahead.popleft().result()
            held.clear()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _hold(self, numbers: np.ndarray, pool: ThreadPoolExecutor) -> Held:
        if self._loaded is not None:
            spans = [np.arange(self._starts[g], self._starts[g + 1]) for g in numbers]
            return Held([], self._loaded, np.concatenate(spans))
        return Held([partial(pool.submit, self._read, self._groups[g]) for g in numbers])

    def _dense(
        self, windows: Windows, batch_size: int, first_row: int, dtype: str
    ) -> Iterator[Batch]:
        self.layout.check_dtype(dtype)
        num_ahead = self._num_ahead(batch_size, dtype)
        self._buffers.limit = num_ahead + 1
        make = partial(self._to_batch, dtype)
        return self._batches(windows, batch_size, first_row, make, num_ahead)

    def _num_ahead(self, batch_size: int, dtype: str) -> int:
        itemsize = np.dtype(dtype).itemsize
        num_maps = min(batch_size, self.num_rows) * len(self.branches)
        batch_bytes = num_maps * self.layout.num_values * itemsize
        wanted = max(_AHEAD, self._settings.num_threads)
        return max(1, min(wanted, _AHEAD_BYTES // max(1, batch_bytes)))

    def _read(self, group: Group) -> Rows:
        return read_group(group, self.branches)

    def _to_batch(self, dtype: str, pieces: Sequence[Piece]) -> Batch:
        num_images = sum(len(piece.rows) for piece in pieces)
        maps = self._buffers.empty((num_images, len(self.branches), *self.layout.shape), dtype)
        labels, ids = np.empty(num_images, np.int32), []
        start = 0
        for piece in pieces:
            held, rows = piece.content()
            part = slice(start, start + len(rows))
            self._decode(held, rows, maps[part])
            labels[part] = held.labels[rows]
            ids += [held.ids[row] for row in rows] if held.ids is not None else []
            start += len(rows)
        return Batch(maps, labels, ids)

    def _decode(self, held: Rows, rows: np.ndarray, out: np.ndarray) -> None:
        with self._naming():
            cells.decode_into(out, held.cells, self.layout, self.branches, rows)

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Say in an error about cells in which cache they are."""
        try:
            yield
        except FeatureError as error:
            folder = self._groups[0].shard.path.parent
            raise ShardError(f"{folder}: {error}; {formats.MEND}") from error

    def _to_sparse_batch(self, pieces: Sequence[Piece]) -> SparseBatch:
        masks, values, labels = [], [], []
        for piece in pieces:
            held, rows = piece.content()
            with self._naming():
                found = cells.take_sparse(held.cells, self.layout, self.branches, rows)
            masks.append(found.masks)
            values.append(found.values)
            labels.append(held.labels[rows])
        return SparseBatch(np.concatenate(masks), np.concatenate(values), np.concatenate(labels))
