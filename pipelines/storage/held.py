"""A window's cells, read group by group in threads, beside the batches that are made of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from pipelines.storage.columns import Part
from pipelines.storage.order import starts
from pipelines.storage.rows import Rows


class Held:
    """A window's groups, read when they are asked for, and never laid end to end."""

    def __init__(self, groups: Sequence[Callable[[], Future[Rows]]], num_rows: np.ndarray) -> None:
        """Begin without any group.

        Args:
            groups: what starts to read each.
            num_rows: int64, of each.
        """
        self._waiting = deque(groups)
        self._begun: list[Future[Rows]] = []
        self._starts = starts(num_rows)

    def read_more(self, num_groups: int) -> None:
        """Start to read some more groups."""
        for _ in range(min(num_groups, len(self._waiting))):
            self._begun.append(self._waiting.popleft()())

    def read_all(self) -> None:
        """Start to read what is left."""
        self.read_more(len(self._waiting))

    def of(self, rows: np.ndarray) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
        """Give each group that some rows of the window are in, once it is there.

        Args:
            rows: int64, of the window.

        Yields:
            A group; which of its rows; and the places of these among `rows`.
        """
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            yield self._begun[number].result(), rows[places] - self._starts[number], places


@dataclass(frozen=True)
class Resident:
    """A window of images that are in memory all the time, as one group.

    Attributes:
        every: all images of the reader.
        index: int64, which of them the window's rows are.
    """

    every: Rows
    index: np.ndarray

    def read_more(self, num_groups: int) -> None:
        """Have nothing to read."""

    def read_all(self) -> None:
        """Have nothing to read."""

    def of(self, rows: np.ndarray) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
        """Give all images, which of them some rows are, and the rows' own places."""
        yield self.every, self.index[rows], np.arange(len(rows))


@dataclass(frozen=True)
class Piece:
    """Some rows of a window, which follow each other in a batch.

    Attributes:
        held: the window.
        rows: int64, of the window.
    """

    held: Held | Resident
    rows: np.ndarray

    def parts(self) -> list[tuple[Rows, Part]]:
        """Return each group that has some of the rows, once it is there, and which these are.

        Places are counted from the first row.
        """
        return [
            (group, Part(group.cells, rows, places))
            for group, rows, places in self.held.of(self.rows)
        ]
