"""The engine without processes: one worker, here, a piece at a time; for programs and debuggers.

What a job sets for its process stays set: TensorFlow's threads, and on a GPU its determinism.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from pipelines.execution.engine import CrewSettings, Job, Opened, Piece, Slot, ignore


class Inline:
    """A crew of this process.

    Attributes:
        opened: what works, once there was something to do.
    """

    def __init__(self, job: Job) -> None:
        self.opened: Opened | None = None
        self._job = job

    def run(
        self, todo: deque[Piece], advance: Callable[[int], None] = ignore
    ) -> Generator[tuple[Piece, Any], None, None]:
        """Do what is in `todo`, also what is put there meanwhile; give results as they come."""
        while todo:
            piece = todo.popleft()
            yield piece, self._do(piece, advance)

    def call(self, piece: Piece) -> Any:
        """Do one piece and return its result."""
        return self._do(piece, ignore)

    def move(self, slots: Sequence[Slot]) -> None:
        """Do nothing: there is no other place than here."""

    def renew(self, job: Job) -> None:
        """Open this job if none is open."""
        self._job = job

    def close(self) -> None:
        """Do nothing: what was begun has ended."""

    def _do(self, piece: Piece, advance: Callable[[int], None]) -> Any:
        if self.opened is None:
            self.opened = self._job.open()
        found = _Found(advance)
        self.opened.work(iter([piece]), found)
        return found.result


class _Found:
    """Keeps the result."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.result: Any = None
        self._advance = advance

    def advance(self, piece: Piece, count: int) -> None:
        self._advance(count)

    def done(self, piece: Piece, result: Any) -> None:
        self.result = result


@contextlib.contextmanager
def open_crew(job: Job, settings: CrewSettings) -> Iterator[Inline]:
    """Work in this process; an `Engine`."""
    yield Inline(job)
