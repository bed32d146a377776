"""What a device did while shards were made: at work, or waiting, and for what."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass
class Times:
    """Seconds of one device's thread; times of several add up.

    Attributes:
        total_s: of all.
        disk_s: no inputs had been read, or no shard been handed out; of a node in front, that they
            had not been expanded.
        decode_s: inputs had been read and were not ready.
        write_s: maps could not be handed on, as earlier ones were still encoded and written.
        variants_s: of processor time, in any thread: variants that are stored nowhere were made.
    """

    total_s: float = 0.0
    disk_s: float = 0.0
    decode_s: float = 0.0
    write_s: float = 0.0
    variants_s: float = 0.0

    def __add__(self, other: Times) -> Times:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Times(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def __sub__(self, other: Times) -> Times:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Times(*(a - b for a, b in zip(mine, theirs, strict=True)))

    def shares(self) -> dict[str, float] | None:
        """Return the shares of the time: busy, and waiting for decode, disk and write."""
        if not self.total_s:
            return None
        waits = {"decode": self.decode_s, "disk": self.disk_s, "write": self.write_s}
        busy_s = max(0.0, self.total_s - sum(waits.values()))
        shares = {f"wait_{name}": seconds / self.total_s for name, seconds in waits.items()}
        shares = {"busy": busy_s / self.total_s, **shares}
        return {name: round(share, 4) for name, share in shares.items()}

    @contextlib.contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Add the block's time to one of the seconds."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)


class Clock:
    """Cuts the times that run on into those of each shard, gaps between shards among them."""

    def __init__(self, times: Times, variants_s: Callable[[], float]) -> None:
        """Begin.

        Args:
            times: that run on, but for their total.
            variants_s: tells the processor time that variants have taken.
        """
        self._times, self._variants_s = times, variants_s
        self._before: Times | None = None

    def start(self) -> None:
        """Begin with a shard; what came before counts if that was one, too."""
        if self._before is None:
            self._before = self._now()

    def forget(self) -> None:
        """Leave out what comes before the next shard."""
        self._before = None

    def lap(self) -> Times:
        """Return what passed since the last shard."""
        before, self._before = self._before or self._now(), self._now()
        return self._before - before

    def _now(self) -> Times:
        return dataclasses.replace(
            self._times, total_s=time.perf_counter(), variants_s=self._variants_s()
        )
