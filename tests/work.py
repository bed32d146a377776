"""Pieces of work for processes, which find these functions by name."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from pipelines.errors import ShardError

Advance = Callable[[int], None]


def square(number: int, advance: Advance) -> tuple[int, int]:
    """Return the square and who computed it."""
    for _ in range(number):
        advance(1)
    return number * number, os.getpid()


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


def die(path: Path, advance: Advance) -> str:
    """Kill this process as long as a number in a file is above 0, counting it down."""
    left = int(path.read_text())
    advance(1)
    if left:
        path.write_text(str(left - 1))
        time.sleep(0.15)  # longer than counts are held back
        advance(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die_or_sleep(path: Path, advance: Advance) -> str:
    """Sleep in the piece `busy`, die as often as it says in all others."""
    if path.name == "busy":
        sleep(path, advance)
    return die(path, advance)


def sleep(path: Path, advance: Advance) -> None:
    """Leave this process's number in a file, then work for a minute, counting."""
    path.write_text(str(os.getpid()))
    for _ in range(1200):
        time.sleep(0.05)
        advance(1)


def warn(_: int, advance: Advance) -> tuple[str, bool]:
    """Warn as libraries do; return the threads for NumPy and whether Ctrl-C is blocked."""
    warnings.warn("a library's warning", UserWarning, stacklevel=1)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    return os.environ["OPENBLAS_NUM_THREADS"], signal.SIGINT in blocked


def give_a_lock(_: int, advance: Advance) -> object:
    """Return what does not pickle."""
    return threading.Lock()


class Unpicklable(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("only one argument")
