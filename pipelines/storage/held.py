"""A window's cells, read group by group in threads, beside the batches that are made of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from pipelines.storage.rows import Rows


class Held:
    """A window's cells, read group by group when they are asked for."""

    def __init__(
        self,
        groups: Sequence[Callable[[], Future[Rows]]],
        rows: Rows | None = None,
        index: np.ndarray | None = None,
    ) -> None:
        self._waiting = deque(groups)
        self._started: list[Future[Rows]] = []
        self._rows = rows
        self._index = index
        self._lock = threading.Lock()

    def read_more(self, num_groups: int) -> None:
        """Start to read some more groups."""
        for _ in range(min(num_groups, len(self._waiting))):
            self._started.append(self._waiting.popleft()())

    def read_all(self) -> None:
        """Start to read what is left."""
        self.read_more(len(self._waiting))

    def content(self, rows: np.ndarray) -> tuple[Rows, np.ndarray]:
        """Return all cells, once they are there, and where the window's rows are in them."""
        with self._lock:
            if self._rows is None:
                self._rows = Rows.joined([future.result() for future in self._started])
                self._started = []
        return self._rows, rows if self._index is None else self._index[rows]


@dataclass(frozen=True)
class Piece:
    """Some rows of a window.

    Attributes:
        held: the window.
        rows: int64, of the window.
    """

    held: Held
    rows: np.ndarray

    def content(self) -> tuple[Rows, np.ndarray]:
        """Return all cells of the window, and where the rows are in them."""
        return self.held.content(self.rows)
