"""A worker's process, from inside: it opens the job, pulls pieces, tells what it does.

To the parent go ("begun",), ("ready",), ("want",), ("counted", name, count), ("done", name,
result), ("log", level, logger, text), ("lost", text) and ("failed", exception, traceback); from it
come pieces. When the parent is gone the process ends, whatever it is at.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from pipelines.errors import DeviceLostError
from pipelines.execution.engine import Job, Piece

_COUNT_EVERY_S = 0.1
_WATCH_EVERY_S = 0.5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(connection: Connection, words: Connection, parent: int, level: int, job: Job) -> None:
    """Do pieces until the parent hangs up; the body of the process.

    Args:
        connection: to and from the parent.
        words: where all that is printed goes.
        parent: its process number.
        level: of what is logged.
        job: what to do.
    """
    _end_with(parent)
    for descriptor in (1, 2):
        os.dup2(words.fileno(), descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # last words must not wait for more of them
    faulthandler.enable()
    warnings.simplefilter("ignore")  # of libraries, a line for each of a million images
    told = _Told(connection)
    _log_through(told, level)
    told.send("begun")
    try:
        opened = job.open()
        told.send("ready")
        opened.work(_pulled(connection, told), told)
    except DeviceLostError as error:
        told.send("lost", str(error))
    except Exception as error:
        told.send("failed", _sendable(error), traceback.format_exc())
    sys.stderr.flush()
    os._exit(0)  # no library has anything to tidy up that is worth a wait


class _Told:
    """Talks to the parent, from any thread; counts in few messages."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._sent_s = time.monotonic()

    def advance(self, piece: Piece, count: int) -> None:
        """Count, and tell the parent now and then."""
        with self._lock:
            self._counts[piece.name] = self._counts.get(piece.name, 0) + count
            if time.monotonic() - self._sent_s >= _COUNT_EVERY_S:
                self._flush()

    def done(self, piece: Piece, result: Any) -> None:
        """Give a result."""
        self.send("done", piece.name, result)

    def send(self, *message: Any) -> None:
        """Send a message, behind what was counted."""
        with self._lock:
            self._flush()
            self._put(message)

    def _flush(self) -> None:
        for name, count in self._counts.items():
            self._put(("counted", name, count))
        self._counts, self._sent_s = {}, time.monotonic()

    def _put(self, message: tuple[Any, ...]) -> None:
        try:
            self._connection.send(message)
        except OSError:
            os._exit(1)  # nobody is there to hear of it


def _pulled(connection: Connection, told: _Told) -> Iterator[Piece]:
    """Ask for pieces, one when it is wanted."""
    while True:
        told.send("want")
        try:
            yield connection.recv()
        except (EOFError, OSError):
            os._exit(1)


class _Handler(logging.Handler):
    def __init__(self, told: _Told) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.send("log", record.levelno, record.name, record.getMessage())


def _log_through(told: _Told, level: int) -> None:
    logger = logging.getLogger("pipelines")
    logger.handlers = [_Handler(told)]
    logger.propagate = False
    logger.setLevel(level)


def _end_with(parent: int) -> None:
    """End when the parent does: at once on Linux, within half a second elsewhere."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _sendable(error: Exception) -> Exception:
    """Return the exception, or one with its words where it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error
