"""Batches of feature maps, streamed from disk or from memory, in one order, read ahead in threads.

At most about (t + 1) * (64 MiB + g) + (a + 2) * b + t * g is held, whatever the size of the cache
and of a batch: the cells of a window (`order.py`) a thread and of one more, the batch in use, the
one before it and `a` ahead, and a group for each of the `t` threads that reads one. A group has `g`
bytes as cells, a batch `b` as maps. Between passes up to 256 MiB of the batches' memory is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from pipelines.errors import ConfigError
from pipelines.storage import asked
from pipelines.storage.buffers import Buffers
from pipelines.storage.groups import Group, Groups, count_rows, read_group
from pipelines.storage.held import Held, Piece, Resident
from pipelines.storage.layout import Layout
from pipelines.storage.making import Batch, DenseMaker, Maker, Maps, SparseBatch, SparseMaker
from pipelines.storage.order import Windows, batches, epoch_windows, plain_windows, starts
from pipelines.storage.rows import Rows

WINDOW_BYTES = 64 << 20  # of cells: what is shuffled together
_AHEAD = 3  # batches, ready or being made, beside the one in use
_AHEAD_BYTES = 128 << 20  # they take together at most, unless one alone takes more
BatchT = TypeVar("BatchT")


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
        self._loaded: Rows | None = None
        self._starts = starts(self._group_rows)
        self.num_rows = int(self._group_rows.sum())
        self._maps = Maps(layout, settings.branches)
        self._buffers = Buffers()

    def load(self) -> None:
        """Read all images into memory, as cells; neither order nor numbers change.

        Raises:
            ShardError: a shard is damaged.
        """
        with ThreadPoolExecutor(self._settings.num_threads) as pool:
            self._loaded = Rows.gathered(self._read_in_order(pool))

    @property
    def is_loaded(self) -> bool:
        """Tell whether the images are in memory."""
        return self._loaded is not None

    def num_steps(self, batch_size: int) -> int:
        """Return the steps of one epoch; the last batch may be smaller."""
        asked.check_steps(batch_size)
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
            ConfigError: a number says no batch.
        """
        asked.check_steps(batch_size, first_step=first_step, epoch=epoch, seed=seed)
        windows = epoch_windows(self._group_rows, self._settings.window_rows, seed, epoch)
        return self._dense(windows, batch_size, first_step * batch_size, dtype)

    def sparse_epoch(
        self, batch_size: int, seed: int, epoch: int, first_step: int = 0
    ) -> Iterator[SparseBatch]:
        """Give the same batches as `epoch`, still sparse.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: the cache is dense, or a number says no batch.
        """
        asked.check_steps(batch_size, first_step=first_step, epoch=epoch, seed=seed)
        self.check_sparse()
        windows = epoch_windows(self._group_rows, self._settings.window_rows, seed, epoch)
        return self._sparse(windows, batch_size, first_step * batch_size)

    def in_order(self, batch_size: int, dtype: str = "float32") -> Iterator[Batch]:
        """Give all images once, in the plan's order, with their names.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: a number says no batch.
        """
        asked.check_steps(batch_size)
        return self._dense(plain_windows(self._group_rows), batch_size, 0, dtype)

    def sparse_in_order(self, batch_size: int) -> Iterator[SparseBatch]:
        """Give the same batches as `in_order`, still sparse.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: the cache is dense, or a number says no batch.
        """
        asked.check_steps(batch_size)
        self.check_sparse()
        return self._sparse(plain_windows(self._group_rows), batch_size, 0)

    def check_sparse(self) -> None:
        """Refuse a dense cache.

        Raises:
            ConfigError: the cache is dense.
        """
        if self.layout.encoding != "sparse":
            raise ConfigError("the cache's encoding is dense; read dense batches")

    def _dense(
        self, windows: Windows, batch_size: int, first_row: int, dtype: str
    ) -> Iterator[Batch]:
        self.layout.check_dtype(dtype)
        num_ahead = self._num_ahead(batch_size, dtype)
        self._buffers.limit_bytes = (num_ahead + 2) * self._batch_bytes(batch_size, dtype)
        maker = DenseMaker(self._maps, dtype, self._buffers)
        return self._batches(windows, batch_size, first_row, maker, num_ahead)

    def _sparse(self, windows: Windows, batch_size: int, first_row: int) -> Iterator[SparseBatch]:
        num_ahead = self._num_ahead(batch_size, self.layout.dtype)
        return self._batches(windows, batch_size, first_row, SparseMaker(self._maps), num_ahead)

    def _batches(
        self,
        windows: Windows,
        batch_size: int,
        first_row: int,
        maker: Maker[BatchT],
        num_ahead: int,
    ) -> Iterator[BatchT]:
        """Make batches in threads, a bounded number ahead, the next window's cells beside them.

        The pool takes up work in the order it is given. The pieces of a window are all given
        before anything of the window after the next is, so that each thread can hold up one
        window, and beside those only one in use and the next have cells.
        """
        ahead: deque[tuple[Any, list[Future[Any]]]] = deque()
        pool = ThreadPoolExecutor(self._settings.num_threads, thread_name_prefix="bottleneck")
        try:
            held: dict[int, Held | Resident] = {}
            for pieces in batches(windows, batch_size, first_row):
                made = maker.begin(sum(len(rows) for _, rows in pieces))
                work: list[Future[Any]] = []
                start = 0
                for number, rows in pieces:
                    for over in [n for n in held if n < number]:
                        del held[over]
                    if number not in held:
                        held[number] = self._hold(windows.groups(number), pool)
                    held[number].read_all()
                    work.append(pool.submit(maker.fill, made, start, Piece(held[number], rows)))
                    start += len(rows)
                self._begin_next(windows, held, number, batch_size, pool)
                ahead.append((made, work))
                if len(ahead) > num_ahead:
                    yield maker.finish(*ahead.popleft())
            held.clear()
            while ahead:
                yield maker.finish(*ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            maker.close()

    def _hold(self, numbers: np.ndarray, pool: ThreadPoolExecutor) -> Held | Resident:
        if self._loaded is not None:
            spans = [np.arange(self._starts[g], self._starts[g + 1]) for g in numbers]
            return Resident(self._loaded, np.concatenate(spans))
        reads = [partial(pool.submit, self._read, self._groups[g]) for g in numbers]
        return Held(reads, self._group_rows[numbers])

    def _begin_next(
        self,
        windows: Windows,
        held: dict[int, Held | Resident],
        last: int,
        size: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        """Start to read some of the next window: all of it over this window's batches."""
        if last + 1 == len(windows):
            return
        if last + 1 not in held:
            held[last + 1] = self._hold(windows.groups(last + 1), pool)
        share = len(windows.groups(last + 1)) * size / windows.num_rows(last)
        held[last + 1].read_more(int(share) + 1)

    def _num_ahead(self, batch_size: int, dtype: str) -> int:
        wanted = max(_AHEAD, self._settings.num_threads)
        batch_bytes = self._batch_bytes(batch_size, dtype)
        return max(1, min(wanted, _AHEAD_BYTES // max(1, batch_bytes)))

    def _batch_bytes(self, batch_size: int, dtype: str) -> int:
        num_maps = min(batch_size, self.num_rows) * len(self.branches)
        return num_maps * self.layout.num_values * np.dtype(dtype).itemsize

    def _read_in_order(self, pool: ThreadPoolExecutor) -> Iterator[Rows]:
        """Read group by group, one a thread ahead."""
        ahead: deque[Future[Rows]] = deque()
        for i in range(len(self._groups)):
            ahead.append(pool.submit(self._read, self._groups[i]))
            if len(ahead) > self._settings.num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, group: Group) -> Rows:
        return read_group(group, self.branches)
