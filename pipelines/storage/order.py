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


def epoch_windows(
    group_rows: Sequence[int], window_rows: int, seed: int, epoch: int
) -> list[Window]:
    """Return the windows of one epoch; together they hold every row once.

    Args:
        group_rows: rows of each row group of the split.
        window_rows: gather groups until a window has at least so many rows.
        seed: of the run.
        epoch: counted from 0.
    """
    order = _generator(seed, epoch).permutation(len(group_rows))
    windows: list[Window] = []
    gathered: list[int] = []
    start = count = 0
    for position, group in enumerate(order):
        gathered.append(int(group))
        count += group_rows[group]
        if count >= window_rows or position == len(order) - 1:
            # From 1, since a seed sequence takes (seed, epoch, 0) for (seed, epoch).
            rows = _generator(seed, epoch, 1 + len(windows)).permutation(count)
            windows.append(Window(np.array(gathered), rows, start))
            start, count, gathered = start + count, 0, []
    return windows


def plain_windows(group_rows: Sequence[int]) -> list[Window]:
    """Return one window a row group, in the plan's order, for evaluation."""
    starts = np.concatenate([[0], np.cumsum(group_rows)])
    return [
        Window(np.array([i]), np.arange(count), int(starts[i]))
        for i, count in enumerate(group_rows)
    ]


def batches(
    windows: Sequence[Window], batch_size: int, first_row: int = 0
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Cut an epoch into batches, from a row on.

    Args:
        windows: of the epoch.
        batch_size: rows a batch; the last may have fewer.
        first_row: position within the epoch; windows that lie before are passed over.

    Yields:
        For each batch its pieces: a window's number, and int64 rows of that window.
    """
    pieces: list[tuple[int, np.ndarray]] = []
    missing = batch_size
    for number, window in enumerate(windows):
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


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
