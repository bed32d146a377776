"""Batches of feature maps, streamed from disk or from memory, in one order, read ahead in threads.

At most about (t + 1) * (64 MiB + g) + (a + 2) * b + t * g is held, whatever the size of the cache
and of a batch: the cells of a window (`order.py`) a thread and of one more, the batch in use, the
one before it and `a` ahead, and a group for each of the `t` threads that reads one. A group has `g`
bytes as cells, a batch `b` as maps. Between passes up to 256 MiB of the batches' memory is kept.
"""

from __future__ import annotations

import contextlib
import os
import threading
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
from pipelines.storage.decoded import Decoded
from pipelines.storage.groups import Group, Groups, count_rows, read_group
from pipelines.storage.held import Held, Piece, Resident
from pipelines.storage.layout import Layout
from pipelines.storage.making import (
    Batch,
    DenseMaker,
    Maker,
    Maps,
    SparseBatch,
    SparseMaker,
)
from pipelines.storage.order import (
    EVERY_ROW,
    Share,
    Windows,
    batches,
    epoch_windows,
    plain_windows,
    starts,
)
from pipelines.storage.rows import Rows

WINDOW_BYTES = 64 << 20  # of cells: what is shuffled together
_DECODED_ROWS = 64  # at once, when all are decoded
_AHEAD = 3  # batches, ready or being made, beside the one in use
_AHEAD_BYTES = 128 << 20  # they take together at most, unless one alone takes more
_NICE = 10  # of 19; see sched(7)
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
        self._decoded: Decoded | None = None
        self._starts = starts(self._group_rows)
        self.num_rows = int(self._group_rows.sum())
        self._maps = Maps(layout, settings.branches)
        self._buffers = Buffers()
        self._gives_way = False

    def give_way(self) -> None:
        """Read where others leave a core idle; for steps that are computed on the same cores.

        An operation is split over all cores and waits for its last part: a thread that takes one
        of them away for a while holds up the others, too.
        """
        self._gives_way = True

    def load(self) -> None:
        """Read all images into memory, as cells; neither order nor numbers change.

        Raises:
            ShardError: a shard is damaged.
        """
        with ThreadPoolExecutor(self._settings.num_threads) as pool:
            self._loaded = Rows.gathered(self._read_in_order(pool))

    def decode(self) -> None:
        """Read all images into memory as float32 maps; neither order nor numbers change.

        Raises:
            ShardError: a shard is damaged.
        """
        shape = (self.num_rows, len(self.branches), *self.layout.shape)
        self._decoded = Decoded.gathered(self.in_order(_DECODED_ROWS), shape)

    @property
    def is_loaded(self) -> bool:
        """Tell whether the images are in memory."""
        return self._loaded is not None or self._decoded is not None

    @property
    def held_bytes(self) -> int:
        """What the images take in memory; 0 where they are read from disk."""
        if self._decoded is not None:
            return self._decoded.features.nbytes
        columns = self._loaded.cells.values() if self._loaded is not None else ()
        return sum(len(column.data) for column in columns)

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
        share: Share = EVERY_ROW,
    ) -> Iterator[Batch]:
        """Give an epoch's batches from `first_step` on; a pure function of (seed, epoch).

        Args:
            batch_size: images a batch.
            seed: of the order.
            epoch: counted from 0.
            first_step: the batches before it are neither given nor read.
            dtype: "float32" or the stored one.
            share: which rows of each batch are given.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: a number says no batch.
        """
        asked.check_steps(batch_size, first_step=first_step, epoch=epoch, seed=seed)
        windows = epoch_windows(self._group_rows, self._settings.window_rows, seed, epoch)
        return self._dense(windows, batch_size, first_step * batch_size, dtype, share)

    def sparse_epoch(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        first_step: int = 0,
        share: Share = EVERY_ROW,
    ) -> Iterator[SparseBatch]:
        """Give the same batches as `epoch`, still sparse.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: the cache is dense, or a number says no batch.
        """
        asked.check_steps(batch_size, first_step=first_step, epoch=epoch, seed=seed)
        self.check_sparse()
        windows = epoch_windows(self._group_rows, self._settings.window_rows, seed, epoch)
        return self._sparse(windows, batch_size, first_step * batch_size, share)

    def in_order(
        self, batch_size: int, dtype: str = "float32", share: Share = EVERY_ROW
    ) -> Iterator[Batch]:
        """Give all images once, in the plan's order; of each batch the rows of `share`.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: a number says no batch.
        """
        asked.check_steps(batch_size)
        return self._dense(plain_windows(self._group_rows), batch_size, 0, dtype, share)

    def sparse_in_order(self, batch_size: int, share: Share = EVERY_ROW) -> Iterator[SparseBatch]:
        """Give the same batches as `in_order`, still sparse.

        Raises:
            ShardError: a shard is damaged.
            ConfigError: the cache is dense, or a number says no batch.
        """
        asked.check_steps(batch_size)
        self.check_sparse()
        return self._sparse(plain_windows(self._group_rows), batch_size, 0, share)

    def check_sparse(self) -> None:
        """Refuse a dense cache.

        Raises:
            ConfigError: the cache is dense.
        """
        if self.layout.encoding != "sparse":
            raise ConfigError("the cache's encoding is dense; read dense batches")

    def _dense(
        self, windows: Windows, batch_size: int, first_row: int, dtype: str, share: Share
    ) -> Iterator[Batch]:
        self.layout.check_dtype(dtype)
        num_ahead = self._num_ahead(batch_size, dtype)
        self._buffers.limit_bytes = (num_ahead + 2) * self._batch_bytes(batch_size, dtype)
        wanted = (share.of(pieces) for pieces in batches(windows, batch_size, first_row))
        if self._decoded is not None and dtype == "float32":
            return self._decoded.batches(
                wanted, lambda number: self._places(windows.groups(number)), self._buffers
            )
        maker = DenseMaker(self._maps, dtype, self._buffers)
        return self._batches(windows, batch_size, wanted, maker, num_ahead)

    def _sparse(
        self, windows: Windows, batch_size: int, first_row: int, share: Share
    ) -> Iterator[SparseBatch]:
        num_ahead = self._num_ahead(batch_size, self.layout.dtype)
        wanted = (share.of(pieces) for pieces in batches(windows, batch_size, first_row))
        return self._batches(windows, batch_size, wanted, SparseMaker(self._maps), num_ahead)

    def _batches(
        self,
        windows: Windows,
        batch_size: int,
        wanted: Iterator[list[tuple[int, np.ndarray]]],
        maker: Maker[BatchT],
        num_ahead: int,
    ) -> Iterator[BatchT]:
        """Make batches in threads, a bounded number ahead, the next window's cells beside them.

        The pool takes up work in the order it is given. The pieces of a window are all given
        before anything of the window after the next is, so that each thread can hold up one
        window, and beside those only one in use and the next have cells.
        """
        ahead: deque[tuple[Any, list[Future[Any]]]] = deque()
        pool = ThreadPoolExecutor(
            self._settings.num_threads,
            thread_name_prefix="bottleneck",
            initializer=_give_way if self._gives_way else None,
        )
        try:
            held: dict[int, Held | Resident] = {}
            for pieces in wanted:
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

    def _places(self, groups: np.ndarray) -> np.ndarray:
        """Return which of all images those of some groups are."""
        return np.concatenate([np.arange(self._starts[g], self._starts[g + 1]) for g in groups])

    def _hold(self, numbers: np.ndarray, pool: ThreadPoolExecutor) -> Held | Resident:
        if self._loaded is not None:
            return Resident(self._loaded, self._places(numbers))
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


def _give_way() -> None:
    """Let this thread run where others leave a core idle, if the system knows that of threads."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
