"""The engine of one machine: a worker in a process of its own for each slot.

A worker that dies is noticed at once: what it had in hand goes to another, alone, so that the next
death tells which piece it was. Three deaths at a piece stop the run.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from pipelines.errors import WorkerError
from pipelines.execution import slots, spawning, trial
from pipelines.execution.engine import CrewSettings, Job, Piece, Slot, ignore
from pipelines.execution.spawning import Spawned

_logger = logging.getLogger(__name__)
_MAX_DEATHS = 3  # of workers at one piece: then it is the piece that kills them
_CRASHES = 2  # at a piece: then what it is made of is tried in parts
_MAX_OPENINGS = 3  # that end on their own, one after another, in one slot
_MAX_KILLED_OPENINGS = 10  # that somebody else ends: memory may be short for a while
_OPEN_S = 3600.0  # a network's weights may have to be downloaded


class Local:
    """Workers in processes; started when there is work for them."""

    def __init__(self, job: Job, settings: CrewSettings) -> None:
        self._job = job
        self._settings = settings
        self._slots = list(settings.slots)
        self._crew: list[Spawned] = []
        self._advance: Callable[[int], None] = ignore
        self._deaths: Counter[str] = Counter()
        self._crashes: Counter[str] = Counter()  # those of them that nobody else brought about
        self._openings: Counter[str] = Counter()

    def run(
        self, todo: deque[Piece], advance: Callable[[int], None] = ignore
    ) -> Generator[tuple[Piece, Any], None, None]:
        """Do what is in `todo`, also what is put there meanwhile; give results as they come.

        Raises:
            WorkerError: workers cannot start, or three of them died at one piece.
        """
        self._advance = advance
        while todo or any(spawned.hand for spawned in self._crew):
            self._hire(len(todo))
            self._hand_out(todo)
            for spawned in self._ready_to_tell():
                message = spawned.receive()
                if message is None:
                    self._bury(spawned, todo)
                elif message[0] == "done":
                    piece = spawned.hand.pop(message[1])
                    del self._deaths[piece.name], self._crashes[piece.name]
                    self._openings[spawned.slot.name] = 0
                    self._hand_out(todo)  # at once: what is done with a result takes time
                    yield piece, message[2]
                else:
                    self._hear(spawned, *message)

    def call(self, piece: Piece) -> Any:
        """Do one piece and return its result."""
        return next(result for _, result in self.run(deque([piece])))

    def move(self, slots: Sequence[Slot]) -> None:
        """Work in these slots from now on; workers end."""
        self.close()
        self._slots = list(slots)

    def renew(self, job: Job) -> None:
        """Open this job in workers that start from now on."""
        self._job = job

    def close(self) -> None:
        """End the workers, whatever they are at."""
        spawning.end_all(self._crew)

    def _hire(self, num_waiting: int) -> None:
        """Start workers in free slots while there is more to do than hands."""
        taken = {spawned.slot.name for spawned in self._crew}
        num_idle = sum(not spawned.hand for spawned in self._crew)
        for slot in self._slots:
            if num_idle < num_waiting and slot.name not in taken:
                self._crew.append(Spawned(self._job, slot))
                num_idle += 1

    def _hand_out(self, todo: deque[Piece]) -> None:
        """Give pieces to those who ask; one at which workers died is given alone."""
        for spawned in sorted(self._crew, key=lambda spawned: len(spawned.hand)):
            if todo and spawned.is_asking and self._may_have(spawned, todo[0]):
                spawned.give(todo.popleft())

    def _may_have(self, spawned: Spawned, piece: Piece) -> bool:
        is_suspect = any(self._deaths[name] for name in (piece.name, *spawned.hand))
        return not (spawned.hand and is_suspect)

    def _ready_to_tell(self) -> list[Spawned]:
        """Wait for messages; log what is printed, end who is silent for too long."""
        told = {spawned.connection: spawned for spawned in self._crew}
        printing = {spawned.words: spawned for spawned in self._crew}
        found = wait([*told, *printing], self._seconds_left())
        for words, spawned in printing.items():
            if words in found:
                spawned.listen()
        self._end_silent()
        return [spawned for connection, spawned in told.items() if connection in found]

    def _limit_s(self, spawned: Spawned) -> float | None:
        """Return for how long a worker may be silent now; None for any time."""
        if not spawned.is_ready:
            return _OPEN_S
        return self._settings.hang_s or None if spawned.hand else None

    def _seconds_left(self) -> float | None:
        now_s = time.monotonic()
        limits = [(spawned, self._limit_s(spawned)) for spawned in self._crew]
        left = [spawned.heard_s + limit - now_s for spawned, limit in limits if limit]
        return max(0.0, min(left)) if left else None

    def _end_silent(self) -> None:
        now_s = time.monotonic()
        for spawned in self._crew:
            limit = self._limit_s(spawned)
            if limit and now_s - spawned.heard_s > limit and not spawned.connection.poll():
                _logger.warning("%s: no sign of life for %.0f s", spawned.slot.name, limit)
                spawned.kill_hanging()

    def _hear(self, spawned: Spawned, kind: str, *values: Any) -> None:
        if kind == "want":
            spawned.is_asking = True
        elif kind == "ready":
            spawned.is_ready = True
            _logger.info("%s: ready, pid %s", spawned.slot.name, spawned.pid)
        elif kind == "counted":
            name, count = values
            spawned.counted[name] += count
            self._advance(count)
        elif kind == "log":
            level, name, text = values
            logging.getLogger(name).log(level, "%s: %s", spawned.slot.name, text)
        elif kind == "lost":
            spawned.is_lost, spawned.last_words = True, values[0]
        elif kind == "failed":
            error, text = values
            raise error from _TracebackError(text)

    def _bury(self, spawned: Spawned, todo: deque[Piece]) -> None:
        """Put back what a dead worker had in hand.

        Raises:
            WorkerError: too many died.
        """
        how = spawned.bury()
        self._crew.remove(spawned)
        names = ", ".join(spawned.hand)
        at = f"at {names}" if names else "without work" if spawned.is_ready else "as it began"
        _logger.warning("%s: ended %s %s", spawned.slot.name, how, at)
        if not spawned.is_ready:
            self._count_opening(spawned, how)
        for piece in reversed(spawned.hand.values()):
            self._advance(-spawned.counted[piece.name])
            self._deaths[piece.name] += 1
            is_crash = spawned.is_own_fault and not spawned.is_lost
            self._crashes[piece.name] += is_crash
            following = self._examined(spawned, piece) if is_crash else piece
            if following != piece:  # without what ended its workers
                del self._deaths[piece.name], self._crashes[piece.name]
            elif self._deaths[piece.name] >= _MAX_DEATHS:
                raise WorkerError(
                    f"{piece.name}: {_MAX_DEATHS} worker processes died at it, the last one {how}"
                    f"{_quoted(spawned)}; run again with fewer workers if memory is short: "
                    "what is whole is kept"
                )
            todo.appendleft(following)

    def _count_opening(self, spawned: Spawned, how: str) -> None:
        if not spawned.is_begun and spawned.is_own_fault:
            raise WorkerError(
                f"a worker process ended {how} before it began{_quoted(spawned)}; run with fewer "
                "workers if memory is short; a program that calls this must do so under "
                '`if __name__ == "__main__":`, for workers load its file'
            )
        name = spawned.slot.name
        self._openings[name] += 1
        most = _MAX_OPENINGS if spawned.is_own_fault else _MAX_KILLED_OPENINGS
        if self._openings[name] >= most:
            _logger.warning("%s: given up, it ended %s as it began", name, how)
            self._slots.remove(spawned.slot)
        if not self._slots:
            elsewhere = ", or with other --devices" if slots.are_gpus([spawned.slot]) else ""
            raise WorkerError(
                f"{name}: workers end {how} as they begin{_quoted(spawned)}; run with fewer "
                f"workers if memory is short{elsewhere}"
            )

    def _examined(self, spawned: Spawned, piece: Piece) -> Piece:
        """Return what is tried next in the place of a piece that a worker died at."""
        on_crash = self._settings.on_crash
        if on_crash is None or self._crashes[piece.name] != _CRASHES:
            return piece
        _logger.warning("%s: looking for what ends the workers", piece.name)
        tries = partial(trial.ending_of, self._job, spawned.slot, self._settings.hang_s)
        return on_crash(piece, tries)


class _TracebackError(Exception):
    """Shows where in a worker an exception came from."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _quoted(spawned: Spawned) -> str:
    return f" (its last words: {spawned.last_words})" if spawned.last_words else ""


@contextlib.contextmanager
def open_crew(job: Job, settings: CrewSettings) -> Iterator[Local]:
    """Work in processes of this machine; an `Engine`."""
    with contextlib.closing(Local(job, settings)) as crew:
        yield crew
