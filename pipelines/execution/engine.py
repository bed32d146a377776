"""What an engine is: it opens a job in workers, hands out pieces of work, gives back results.

    Engine(job, crew settings)  ->  Crew        a context; leaving it ends the workers
    Crew.run(todo)              ->  results     as they come; a piece may be done twice

A job and its pieces are pickled and small: workers read and write files themselves. `local` has
workers in processes of this machine, `inline` has one in this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        name: for messages; no other piece of the same run has it.
        body: what the job makes of it; pickled.
    """

    name: str
    body: Any


class Report(Protocol):
    """What a worker tells; each method may be called in any thread."""

    def advance(self, piece: Piece, count: int) -> None:
        """Count `count` more units of a piece as done; also a sign of life."""

    def done(self, piece: Piece, result: Any) -> None:
        """Give a piece's result; what it has written is durably there."""


class Opened(Protocol):
    """A job made ready in a worker: libraries loaded, networks built."""

    def work(self, pieces: Iterator[Piece], report: Report) -> None:
        """Do pieces until there are no more; may take the next ones before one is done.

        An exception ends the whole run, but for `DeviceLostError`, which ends this worker.
        """


class Job(Protocol):
    """What all workers of a crew do; pickled."""

    def open(self) -> Opened:
        """Make it ready, once in each worker."""


@dataclass(frozen=True)
class Slot:
    """A place for one worker.

    Attributes:
        name: of the worker, such as "worker 1" or "gpu:0"; no other slot has it.
        environment: variables that its process starts with.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Try(Protocol):
    """Tries a piece in a process of its own."""

    def __call__(self, piece: Piece, is_alone: bool) -> str | None:
        """Return how the process ended at it, None where it did not.

        Args:
            piece: writes nothing that stays.
            is_alone: whether it is of one item, which may take as long as any piece.
        """


@dataclass(frozen=True)
class CrewSettings:
    """How a crew works.

    Attributes:
        slots: a worker each, at most.
        hang_s: seconds without a sign of life after which a worker is taken for dead; 0 for never.
        on_crash: called with a piece at which two workers died on their own, and with what tries
            one in a process of its own; returns the piece that is tried next.
    """

    slots: Sequence[Slot]
    hang_s: float = 0.0
    on_crash: Callable[[Piece, Try], Piece] | None = None


def ignore(count: int) -> None:
    """Count nothing."""


class Crew(Protocol):
    """Workers that open one job."""

    def run(
        self, todo: deque[Piece], advance: Callable[[int], None] = ignore
    ) -> Generator[tuple[Piece, Any], None, None]:
        """Do what is in `todo`, also what is put there meanwhile; give results as they come.

        Args:
            todo: is emptied.
            advance: called with what is counted, negative where it is to be done again.

        Raises:
            WorkerError: workers cannot start, or die again and again.
        """

    def call(self, piece: Piece) -> Any:
        """Do one piece and return its result."""

    def move(self, slots: Sequence[Slot]) -> None:
        """Work in these slots from now on; those at work elsewhere end."""

    def renew(self, job: Job) -> None:
        """Open this job in workers that start from now on; those at work keep what they have."""

    def close(self) -> None:
        """End the workers, whatever they are at; what is not done stays undone."""


Engine = Callable[[Job, CrewSettings], AbstractContextManager[Crew]]
