"""How far a start has come, told to whoever watches it: the bar here, others through its locks."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipelines.progress import Progress
from pipelines.storage.locks import Lock


class Pace:
    """Counts what all workers of a start have done.

    Attributes:
        progress: told about every count.
    """

    def __init__(self, progress: Progress, held: Sequence[Lock], unit: str, total: int) -> None:
        """Begin to count.

        Args:
            progress: told about every count.
            held: the locks of the folders that are filled.
            unit: what is counted.
            total: what this start has to do.
        """
        self.progress, self._held = progress, held
        self._facts = {"unit": unit, "num_total": total}
        self._num_done = 0
        self._begun_s = time.monotonic()
        self.advance(0)

    def advance(self, count: int) -> None:
        """Count, negative where something is to be done again."""
        self._num_done += count
        rate = self._num_done / max(1e-3, time.monotonic() - self._begun_s)
        facts = {**self._facts, "num_done": self._num_done, "rate": round(rate, 3)}
        for lock in self._held:
            lock.note(facts)
        if count:
            self.progress.advance(count)
