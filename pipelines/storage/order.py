"""The order of training: a pure function of (seed, epoch), that can start at any step.

Row groups of all shards are shuffled; those that follow each other are gathered into windows of a
bounded number of rows, and the rows of a window are shuffled. A window is all that must be in
memory. Since the plan's own order is shuffled already, a window is a fair sample of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Rows that are shuffled together.

    Attributes:
        groups: (num_groups,) int64, row groups in the order they are laid end to end.
        rows: (num_rows,) int64, a permutation of the rows of those groups.
        start: position of the window's first row within the epoch.
    """

    groups: np.ndarray
    rows: np.ndarray
    start: int


@dataclass(frozen=True)
class Share:
    """The rows of every batch that fall to some of the devices which share it evenly.

    Attributes:
        first: the first of these devices, counted from 0.
        stop: behind the last of them.
        num: all devices.
    """

    first: int = 0
    stop: int = 1
    num: int = 1

    def cuts(self, num_rows: int) -> list[int]:
        """Return where the rows of each of these devices begin, and the end of the last."""
        size, more = divmod(num_rows, self.num)
        return [i * size + min(i, more) for i in range(self.first, self.stop + 1)]

    def of(self, pieces: list[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
        """Keep of a batch what is theirs."""
        if self.first == 0 and self.stop == self.num:
            return pieces
        cuts, at, kept = self.cuts(sum(len(rows) for _, rows in pieces)), 0, []
        for number, rows in pieces:
            some = rows[max(0, cuts[0] - at) : max(0, cuts[-1] - at)]
            kept.append((number, some))
            at += len(rows)
        return [piece for piece in kept if len(piece[1])] or kept[:1]


EVERY_ROW = Share()


class Windows:
    """The windows of an epoch, in order; the rows of each are drawn when it is asked for.

    Attributes:
        starts: int64 (windows + 1,), position of each one's first row within the epoch; the last
            is the epoch's end.
    """

    def __init__(
        self, order: np.ndarray, group_rows: np.ndarray, firsts: np.ndarray, key: tuple[int, ...]
    ) -> None:
        """Lay groups end to end, and cut them into windows.

        Args:
            order: int64 (groups,), row groups in the order they are laid end to end.
            group_rows: int64 (groups,), rows of each, in that order.
            firsts: int64 (windows + 1,), each window's first group, as a place in that order.
            key: seed and epoch; empty for rows that are not shuffled.
        """
        self._order = order
        self._firsts = firsts
        self._key = key
        self.starts = starts(group_rows)[firsts]

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, number: int) -> Window:
        number = range(len(self))[number]
        count = self.num_rows(number)
        rows = np.arange(count)
        if self._key:  # from 1, since a seed sequence takes (seed, epoch, 0) for (seed, epoch)
            rows = _generator(*self._key, 1 + number).permutation(count)
        return Window(self.groups(number), rows, int(self.starts[number]))

    def num_rows(self, number: int) -> int:
        """Return a window's rows."""
        return int(self.starts[number + 1] - self.starts[number])

    def groups(self, number: int) -> np.ndarray:
        """Return a window's row groups, int64 (num_groups,), as they are laid end to end."""
        return self._order[self._firsts[number] : self._firsts[number + 1]]


def epoch_windows(
    group_rows: Sequence[int] | np.ndarray, window_rows: int, seed: int, epoch: int
) -> Windows:
    """Return the windows of one epoch; together they hold every row once.

    Args:
        group_rows: rows of each row group of the split.
        window_rows: gather groups until a window has at least so many rows.
        seed: of the run.
        epoch: counted from 0.
    """
    order = _generator(seed, epoch).permutation(len(group_rows))
    sizes = np.asarray(group_rows, np.int64)[order]
    ends = starts(sizes)
    # For a window that began at any group, where the next would begin.
    following = np.searchsorted(ends, ends[:-1] + window_rows)
    jumps = np.minimum(following, len(order)).tolist()
    firsts = [0]
    while firsts[-1] < len(order):
        firsts.append(jumps[firsts[-1]])
    return Windows(order, sizes, np.array(firsts), (seed, epoch))


def plain_windows(group_rows: Sequence[int] | np.ndarray) -> Windows:
    """Return one window a row group, in the plan's order, for evaluation."""
    sizes = np.asarray(group_rows, np.int64)
    return Windows(np.arange(len(sizes)), sizes, np.arange(len(sizes) + 1), ())


def batches(
    windows: Windows, batch_size: int, first_row: int = 0
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Cut an epoch into batches, from a row on.

    Args:
        windows: of the epoch.
        batch_size: rows a batch; the last may have fewer.
        first_row: position within the epoch; windows that lie before are passed over, undrawn.

    Yields:
        For each batch its pieces: a window's number, and int64 rows of that window.
    """
    pieces: list[tuple[int, np.ndarray]] = []
    missing = batch_size
    first = int(np.searchsorted(windows.starts[1:], first_row, side="right"))
    for number in range(first, len(windows)):
        window = windows[number]
        rows = window.rows[max(0, first_row - window.start) :]
        while len(rows):
            pieces.append((number, rows[:missing]))
            missing -= len(pieces[-1][1])
            rows = rows[len(pieces[-1][1]) :]
            if not missing:
                yield pieces
                pieces, missing = [], batch_size
    if pieces:
        yield pieces


def starts(counts: np.ndarray) -> np.ndarray:
    """Return where each of some things laid end to end begins, and the end; int64 (things + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
