"""One worker's process, from outside: started, listened to, ended; what it printed last is kept.

Processes are spawned, never forked: a fork copies the locks that other threads hold.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from typing import Any

from pipelines.errors import WorkerError
from pipelines.execution import worker
from pipelines.execution.engine import Job, Piece, Slot

_logger = logging.getLogger(__name__)
_EXIT_WITHIN_S = 1.0
_NUM_WORDS = 20  # lines kept of what a process prints
# Ended by these it was ended by somebody else: the system short of memory, a scheduler, a user.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Spawned:
    """A process and the pieces that it has in hand.

    Attributes:
        slot: its place.
        connection: to and from it.
        words: what it prints.
        hand: pieces it was given and has not done, by name.
        counted: what it has counted of each.
        is_begun: whether it has come as far as our own code.
        is_ready: whether it has opened the job.
        is_asking: whether it waits for a piece.
        is_lost: whether it has said that its device fails.
        heard_s: when it last gave a sign of life, by the monotonic clock.
        last_words: the end of what it printed, or what it said itself.
    """

    def __init__(self, job: Job, slot: Slot) -> None:
        self.slot = slot
        self.hand: dict[str, Piece] = {}
        self.counted: dict[str, int] = {}
        self.is_begun = self.is_ready = self.is_asking = False
        self.is_lost = self._was_hanging = False
        self.heard_s = time.monotonic()
        self.last_words = ""
        self._lines: deque[str] = deque(maxlen=_NUM_WORDS)
        self._rest = b""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.words, spoken = context.Pipe(duplex=False)
        level = logging.getLogger("pipelines").getEffectiveLevel()
        arguments = (theirs, spoken, os.getpid(), level, job)
        self._process = context.Process(target=worker.main, args=arguments, daemon=True)
        try:
            with uninterrupted(), _handed_down(slot.environment):
                self._process.start()
        except OSError as error:
            raise WorkerError(
                f"no worker process can be started: {error.strerror}; run with fewer workers"
            ) from error
        except BaseException:  # Ctrl-C: nobody else knows of the process yet
            self.kill()
            raise
        finally:
            theirs.close()  # now only the process holds it: its death ends the connection
            spoken.close()
        os.set_blocking(self.words.fileno(), False)

    @property
    def pid(self) -> int | None:
        """Return the process number."""
        return self._process.pid

    def give(self, piece: Piece) -> None:
        """Hand over a piece that it asked for."""
        self.hand[piece.name], self.counted[piece.name] = piece, 0
        self.is_asking = False
        self.heard_s = time.monotonic()
        with contextlib.suppress(OSError):  # it is dead, and `receive` will say so
            self.connection.send(piece)

    def receive(self) -> tuple[Any, ...] | None:
        """Return its next message; None when it is dead."""
        try:
            message: tuple[Any, ...] = self.connection.recv()
        except (EOFError, OSError):
            return None
        self.heard_s = time.monotonic()
        self.is_begun = True
        return message

    def listen(self) -> bool:
        """Log what it prints; tells whether it may print more."""
        try:
            found = os.read(self.words.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            found = b""
        *whole, self._rest = (self._rest + found).split(b"\n")
        for line in [*whole, *([self._rest] if not found else [])]:
            text = line.decode("utf-8", "replace").strip()
            if text:
                self._lines.append(text)
                _logger.info("%s: %s", self.slot.name, text)
        if not found:
            self._rest = b""
        return bool(found)

    def kill_hanging(self) -> None:
        """End it for its silence."""
        self._was_hanging = True
        self.kill()

    def kill(self) -> None:
        """End it, whatever it is at."""
        if self._process.pid is not None:
            self._process.kill()

    def bury(self) -> str:
        """Wait for its end and return in words how it came."""
        self._process.join(_EXIT_WITHIN_S)
        self._process.kill()
        self._process.join()
        while self.listen() and self.words.poll():
            pass
        self.connection.close()
        self.words.close()
        if not self.last_words and self._lines:
            fatal = [line for line in self._lines if line.startswith(("Fatal", "F tensorflow"))]
            self.last_words = (fatal or self._lines)[-1]
        if self.is_lost:
            return "with its device"
        if self._was_hanging:
            return "by its long silence"
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"with exit status {code}"
        return f"by {signal.Signals(-code).name}"

    @property
    def is_own_fault(self) -> bool:
        """Tell whether it ended by what it did, not by somebody else's hand."""
        code = self._process.exitcode
        return self._was_hanging or code is None or -code not in _FROM_OUTSIDE


@contextlib.contextmanager
def _handed_down(environment: Mapping[str, str]) -> Iterator[None]:
    """Set for a moment what a new process takes over from this one: environment, signals."""
    # Started with the first process otherwise, and it would unblock signals as it starts.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    before = {name: os.environ.get(name) for name in environment}
    try:
        # Ctrl-C reaches the whole group of processes, and is the parent's to act on.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.environ.update(environment)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Act on Ctrl-C and its like behind the block, in which processes are started or ended.

    One half started would cry for its job. To block the signals would not do, for any other thread
    may get them. Where an error has brought about the end, it is that which is told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    come: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: come.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if come and not isinstance(sys.exc_info()[1], Exception):
            signal.raise_signal(come[0])


def end_all(crew: list[Spawned]) -> None:
    """End processes, busy or not; what they were at can be done again."""
    with uninterrupted():
        for spawned in crew:
            spawned.kill()
        for spawned in crew:
            spawned.bury()
        crew.clear()
