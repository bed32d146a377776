"""Memory for batches that is used again: fresh pages cost as much time as filling them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np


class Buffers:
    """Gives arrays out; an array's memory comes back when nobody holds it or a view of it.

    Attributes:
        limit: free pieces of memory that are kept; more are let go.
    """

    def __init__(self, limit: int = 1) -> None:
        """Begin without any memory."""
        self.limit = limit
        self._free: list[np.ndarray] = []

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Return an array of undefined content."""
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        memory = None
        while self._free and memory is None:
            found = self._free.pop()  # one step: safe among threads
            memory = found if len(found) == size_bytes else None
        if memory is None:
            memory = np.empty(size_bytes, np.uint8)
        # Not a view of `memory`, which views of it would hold instead of this array.
        array = np.frombuffer(memory.data, dtype)
        weakref.finalize(array, self._take_back, memory).atexit = False
        return array.reshape(shape)

    def close(self) -> None:
        """Let go of all free memory, and of what comes back later."""
        self.limit = 0
        self._free.clear()

    def _take_back(self, memory: np.ndarray) -> None:
        if len(self._free) < self.limit:
            self._free.append(memory)
