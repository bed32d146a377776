"""Memory for batches that is used again: fresh pages cost as much time as filling them.

It begins where a tensor's may, so that TensorFlow takes batches as they lie (`tensors.to_tensor`).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes; what TensorFlow asks of a tensor's memory (its kAllocatorAlignment)


class Buffers:
    """Gives arrays out; an array's memory comes back when nobody holds it or a view of it.

    Attributes:
        limit_bytes: of free memory that is kept; more is let go.
    """

    def __init__(self, limit_bytes: int = 0) -> None:
        """Begin without any memory."""
        self.limit_bytes = limit_bytes
        self._free: list[np.ndarray] = []

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Return an array of undefined content."""
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        memory = None
        while self._free and memory is None:
            found = self._free.pop()  # one step: safe among threads
            memory = found if len(found) >= size_bytes else None
        if memory is None:
            memory = _aligned(size_bytes)
        # Not a view of `memory`, which views of it would hold instead of this array.
        array = np.frombuffer(memory.data, dtype, math.prod(shape))
        weakref.finalize(array, self._take_back, memory).atexit = False
        return array.reshape(shape)

    def rest(self, limit_bytes: int) -> None:
        """Keep no more than that of free memory, and of what comes back, until the next use."""
        self.limit_bytes = min(limit_bytes, self.limit_bytes)
        while self._free and sum(map(len, self._free)) > self.limit_bytes:
            self._free.pop()

    def _take_back(self, memory: np.ndarray) -> None:
        if sum(map(len, self._free)) + len(memory) <= self.limit_bytes:
            self._free.append(memory)


def _aligned(size_bytes: int) -> np.ndarray:
    """Return uint8 (size_bytes,) of undefined content whose address ALIGNMENT divides."""
    memory = np.empty(size_bytes + ALIGNMENT - 1, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size_bytes]
