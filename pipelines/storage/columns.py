"""Binary cells of a column, cut apart and laid end to end; those of them that a batch takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cells:
    """Binary cells of one column, end to end.

    Attributes:
        data: uint8 (bytes,).
        offsets: int64 (cells + 1,), where each begins; the last is the end.
    """

    data: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        # One kind of array for the compiled loops, wherever the bytes came from.
        data = self.data.view()
        data.flags.writeable = False
        object.__setattr__(self, "data", data)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.data[self.offsets[index] : self.offsets[index + 1]]

    def part(self, start: int, stop: int) -> Cells:
        """Return cells `start` to `stop`, without a copy."""
        offsets = self.offsets[start : stop + 1]
        return Cells(self.data[offsets[0] : offsets[-1]], offsets - offsets[0])

    def taken(self, rows: np.ndarray) -> Cells:
        """Return some cells, copied."""
        data = np.concatenate([np.empty(0, np.uint8), *(self[row] for row in rows)])
        return Cells.of_sizes(data, np.diff(self.offsets)[rows])

    @classmethod
    def of_sizes(cls, data: np.ndarray, sizes: np.ndarray) -> Cells:
        """Cut bytes into cells of the given sizes."""
        return cls(data, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))

    @classmethod
    def joined(cls, parts: Sequence[Cells]) -> Cells:
        """Lay the cells of several columns end to end."""
        if len(parts) == 1:
            return parts[0]
        data = np.concatenate([part.data[part.offsets[0] : part.offsets[-1]] for part in parts])
        return cls.of_sizes(data, np.concatenate([np.diff(part.offsets) for part in parts]))


class GrowingCells:
    """Cells of one column that more are added to; memory is taken an eighth ahead, never twice."""

    def __init__(self) -> None:
        """Begin without any cell."""
        self._data = np.empty(0, np.uint8)
        self._size = 0
        self._sizes: list[np.ndarray] = []

    def add(self, cells: Cells) -> None:
        """Copy some cells behind those there are."""
        data = cells.data[cells.offsets[0] : cells.offsets[-1]]
        stop = self._size + len(data)
        if stop > len(self._data):  # the system moves large memory's pages, not its bytes
            self._data.resize(max(stop, len(self._data) * 9 // 8), refcheck=False)
        self._data[self._size : stop] = data
        self._size = stop
        self._sizes.append(np.diff(cells.offsets))

    def taken(self) -> Cells:
        """Return all cells; nothing can be added any more."""
        self._data.resize(self._size, refcheck=False)
        return Cells.of_sizes(self._data, np.concatenate([*self._sizes, np.empty(0, np.int64)]))


@dataclass(frozen=True)
class Part:
    """Some cells, and which images of a batch they are.

    Attributes:
        cells: by column.
        rows: int64 (images,), which cells of each column.
        places: int64 (images,), where those images are in the batch.
    """

    cells: Mapping[str, Cells]
    rows: np.ndarray
    places: np.ndarray
