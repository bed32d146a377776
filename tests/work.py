"""Jobs for workers in processes, which find these names by importing this file."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.errors import DeviceLostError, ShardError
from pipelines.execution.engine import Piece, Report

Advance = Callable[[int], None]
_logger = logging.getLogger("pipelines.work")


@dataclass(frozen=True)
class Doing:
    """Does pieces one after another.

    Attributes:
        function: of this file; makes a result of a piece's body.
    """

    function: Callable[[Any, Advance], Any]

    def open(self) -> Doing:
        return self

    def work(self, pieces: Iterator[Piece], report: Report) -> None:
        for piece in pieces:
            report.done(piece, self.function(piece.body, partial(report.advance, piece)))


@dataclass(frozen=True)
class Ahead(Doing):
    """Takes the next piece while it is at one, and notes in a file what it takes and has done."""

    notes: Path

    def work(self, pieces: Iterator[Piece], report: Report) -> None:
        waiting: queue.Queue[Piece] = queue.Queue()
        room = threading.Semaphore(2)

        def take() -> None:
            while room.acquire():
                piece = next(pieces)
                self._note("took", piece)
                waiting.put(piece)

        threading.Thread(target=take, daemon=True).start()
        while True:
            piece = waiting.get()
            result = self.function(piece.body, partial(report.advance, piece))
            self._note("did", piece)
            room.release()
            report.done(piece, result)

    def _note(self, what: str, piece: Piece) -> None:
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()} {what} {piece.name}\n")


@dataclass(frozen=True)
class Opening(Doing):
    """Does something with a body of its own as it opens.

    Attributes:
        body: of what is done then.
        at_open: a function of this file.
    """

    body: Any
    at_open: Callable[[Any, Advance], Any]

    def open(self) -> Doing:
        self.at_open(self.body, lambda count: None)
        return self


def square(number: int, advance: Advance) -> tuple[int, int]:
    """Return the square and who computed it."""
    for _ in range(number):
        advance(1)
    return number * number, os.getpid()


def negative(number: int, advance: Advance) -> tuple[int, int]:
    """Return the negative and who computed it."""
    return -number, os.getpid()


def wait_for(path: Path, advance: Advance) -> int:
    """Say that this process has begun, in a file, and wait for another's."""
    (path.parent / f"{path.name}.begun").touch()
    other = path.parent / ("b.begun" if path.name == "a" else "a.begun")
    deadline = time.monotonic() + 60
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(other.exists())


def fail(kind: str, advance: Advance) -> None:
    """Raise what a piece of work may raise."""
    if kind == "user":
        raise ShardError("a.parquet: damaged; delete it")
    if kind == "unpicklable":
        raise Unpicklable(1, 2)
    raise ZeroDivisionError("a bug")


def _is_due(path: Path) -> bool:
    """Tell whether a number in a file is above 0, and count it down."""
    left = int(path.read_text())
    if left:
        path.write_text(str(left - 1))
    return left > 0


def die(path: Path, advance: Advance) -> str:
    """Die by SIGKILL, as somebody else ends a process, as often as a file says."""
    advance(1)
    if _is_due(path):
        time.sleep(0.15)  # longer than counts are held back
        advance(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def crash(path: Path, advance: Advance) -> str:
    """Die by SIGSEGV, by one's own fault, as often as a file says."""
    if _is_due(path):
        os.kill(os.getpid(), signal.SIGSEGV)
    return "done"


def end_by(path: Path, advance: Advance) -> str:
    """Die by the signals whose numbers stand in a file, by one each time."""
    first, _, rest = path.read_text().partition(" ")
    if first:
        path.write_text(rest)
        os.kill(os.getpid(), int(first))
    return "done"


def leave(path: Path, advance: Advance) -> str:
    """Exit as a library may, with some last words, as often as a file says."""
    if _is_due(path):
        print("\nno more of this", flush=True)
        os._exit(3)
    return "done"


def hang(path: Path, advance: Advance) -> str:
    """Give no sign of life, as often as a file says."""
    if _is_due(path):
        path.with_name(f"{path.name}.pid").write_text(str(os.getpid()))
        time.sleep(600)
    return "done"


def lose(path: Path, advance: Advance) -> str:
    """Say that the device fails, as often as a file says."""
    if _is_due(path):
        raise DeviceLostError("the GPU has fallen off the bus")
    return "done"


def die_or_sleep(path: Path, advance: Advance) -> str:
    """Sleep in the piece `busy`, die as often as it says in all others."""
    if path.name == "busy":
        sleep(path, advance)
    return die(path, advance)


def linger(path: Path, advance: Advance) -> str:
    """Take a moment, then crash as often as it says."""
    time.sleep(0.3)
    return crash(path, advance)


def sleep(path: Path, advance: Advance) -> None:
    """Leave this process's number in a file, then work for a minute, counting."""
    path.write_text(str(os.getpid()))
    for _ in range(1200):
        time.sleep(0.05)
        advance(1)


def last(seconds: float, advance: Advance) -> str:
    """Work for so long, counting."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.05)
        advance(1)
    return "done"


def be_silent(seconds: float, advance: Advance) -> str:
    """Work for so long without a sign of life."""
    time.sleep(seconds)
    return "done"


def hold_on(_: Any, advance: Advance) -> None:
    """Take back that the system ends this process with its parent, as not every system does."""
    ctypes.CDLL(None).prctl(1, 0)


def nothing(_: Any, advance: Advance) -> None:
    """Do nothing."""


def crash_in_place(name: str, advance: Advance) -> None:
    """Die by SIGSEGV in the slot whose environment says so."""
    if os.environ["PLACE"] == name:
        os.kill(os.getpid(), signal.SIGSEGV)


def say(text: str, advance: Advance) -> None:
    """Say something in every way."""
    print(f"{text} by print")
    print(f"{text} on stderr", file=sys.stderr)
    os.write(1, f"{text} past Python\n".encode())
    _logger.warning("%s through the log", text)
    _logger.debug("%s for nobody", text)
    warnings.warn(f"{text} as a warning", UserWarning, stacklevel=1)


def environment(names: tuple[str, ...], advance: Advance) -> dict[str, str | None]:
    """Return variables that this process was started with, before any of our code ran."""
    lines = Path("/proc/self/environ").read_bytes().decode().split("\0")
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return {name: found.get(name) for name in names}


def is_interrupt_blocked(_: Any, advance: Advance) -> bool:
    """Tell whether Ctrl-C is blocked here."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def give_a_lock(_: int, advance: Advance) -> object:
    """Return what does not pickle."""
    return threading.Lock()


class Unpicklable(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("only one argument")


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False
