"""How the time of a training goes: at work on batches, or waiting for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Counts images and seconds while steps are taken; evaluations and checkpoints stand outside.

    So does the first step of a start, which compiles what the others do.

    Attributes:
        num_images: in the steps so far.
        train_s: seconds of these steps, with what they waited.
        wait_s: seconds of them spent waiting for a batch.
    """

    num_images: int
    train_s: float
    wait_s: float
    _resumed_s: float

    def __init__(self) -> None:
        self.restart()

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """Pass batches on, and count the time that each was waited for."""
        while True:
            asked_s = time.perf_counter()
            batch = next(batches, None)
            self.wait_s += time.perf_counter() - asked_s
            if batch is None:
                return
            yield batch

    def count(self, num_images: int) -> None:
        """Count the images of a step that is done."""
        self.num_images += num_images
        now_s = time.perf_counter()
        self.train_s, self._resumed_s = self.train_s + now_s - self._resumed_s, now_s

    def restart(self) -> None:
        """Forget what was counted so far."""
        self.num_images = 0
        self.train_s = self.wait_s = 0.0
        self.resume()

    def resume(self) -> None:
        """Go on behind something that is no step."""
        self._resumed_s = time.perf_counter()

    @property
    def images_per_s(self) -> float:
        """Images a second, waits included; 0 before the first step."""
        return self.num_images / self.train_s if self.train_s else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time that steps waited for batches, 0..1."""
        return min(1.0, self.wait_s / self.train_s) if self.train_s else 0.0
