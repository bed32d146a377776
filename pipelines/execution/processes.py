"""Pieces of work in processes of their own, one a core: no interpreter lock is shared.

Processes are spawned, never forked: a fork copies the locks that other threads hold. A worker gets
one piece at a time and little passes between it and its parent (rows of text there, a receipt
back), for it reads and writes files itself. It ends with its parent, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from pipelines.errors import WorkerError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Advance = Callable[[int], None]

_MAX_DEATHS = 3  # of workers at one piece: then it is the piece that kills them
_COUNT_EVERY_S = 0.1
_EXIT_WITHIN_S = 1.0
# A process a core, a thread a process: NumPy's libraries start one a core as they are loaded.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def run_pieces(
    function: Callable[[ItemT, Advance], ResultT],
    pieces: Iterable[tuple[str, ItemT]],
    workers: int,
    advance: Advance,
) -> Generator[tuple[str, ResultT], None, None]:
    """Call `function` on every piece of work, several at a time; give results as they come.

    Closing the generator, or an exception in it, ends the processes at once, so that what they were
    at stays undone. A piece whose worker died goes to a new one.

    Args:
        function: called with an item and a callable that counts; both must pickle, and it must be
            able to run twice without harm. Its exception is raised here.
        pieces: name and item of each; read when a worker is free for it.
        workers: processes; a single one does without and works here.
        advance: called here with what is counted there, ten times a second.

    Raises:
        WorkerError: three workers died at one piece.
    """
    if workers <= 1:
        for name, item in pieces:
            yield name, function(item, advance)
        return
    left = iter(pieces)
    crew: list[_Worker] = []
    try:
        for piece in islice(left, workers):
            crew.append(_Worker(function, piece))
        busy = {worker.connection: worker for worker in crew}
        while busy:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                kind, value = worker.receive()
                if kind == "counted":
                    advance(value)
                elif kind == "failed":
                    error, text = value
                    raise error from _TracebackError(text)
                elif kind == "died":
                    advance(-worker.num_counted)
                    del busy[worker.connection]
                    crew.append(_Worker(function, worker.piece, worker.num_deaths + 1))
                    busy[crew[-1].connection] = crew[-1]
                else:
                    name, following = worker.piece[0], next(left, None)
                    if following is None:
                        del busy[worker.connection]
                    else:
                        worker.give(following)  # at once: what is done with a result takes time
                    yield name, value
    finally:
        _stop(crew)


class _TracebackError(Exception):
    """Shows where in a worker an exception came from."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Worker:
    """A process and the piece that it is at.

    Attributes:
        piece: name and item.
        num_deaths: of workers at this piece.
        num_counted: what this one has counted of it.
        connection: to and from the process.
        process: the process.
    """

    def __init__(
        self, function: Callable[..., Any], piece: tuple[str, Any], num_deaths: int = 0
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, function), daemon=True)
        self._is_ready = False
        try:
            with _handed_down():
                self.process.start()
            other.close()  # now only the process holds it: its death ends the connection
            self.give(piece, num_deaths)
        except OSError as error:
            raise WorkerError(
                f"no worker process can be started: {error.strerror}; run with fewer workers"
            ) from error
        except BaseException:  # Ctrl-C: nobody else knows of the process yet
            if self.process.pid is not None:
                self.process.kill()
            raise

    def give(self, piece: tuple[str, Any], num_deaths: int = 0) -> None:
        """Hand over the next piece."""
        self.piece = piece
        self.num_deaths = num_deaths
        self.num_counted = 0
        with contextlib.suppress(OSError):  # it is dead, and `receive` will say so
            self.connection.send(piece[1])

    def receive(self) -> tuple[str, Any]:
        """Return the next message, which may be that the process died.

        Raises:
            WorkerError: it died, and so did too many before it, or it never came to work.
        """
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_EXIT_WITHIN_S)
            self.process.kill()
            self.process.join()
        else:
            self._is_ready = True
            self.num_counted += value if kind == "counted" else 0
            return kind, value
        end = _how_it_ended(self.process.exitcode)
        if not self._is_ready and self.process.exitcode != -signal.SIGKILL:
            raise WorkerError(
                f"a worker process ended {end} before it began; a program that calls this must do "
                'so under `if __name__ == "__main__":`, for workers load its file'
            )
        if self.num_deaths + 1 < _MAX_DEATHS:
            return "died", None
        raise WorkerError(
            f"{self.piece[0]}: {_MAX_DEATHS} worker processes died at it, the last one {end}; "
            "run again with fewer workers if memory is short: what is whole is kept"
        )


@contextlib.contextmanager
def _handed_down() -> Iterator[None]:
    """Set for a moment what a new process takes over from this one: environment, signals."""
    # Started with the first process otherwise, and it would unblock signals as it starts.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    try:
        # Ctrl-C reaches the whole group of processes, and is the parent's to act on.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.environ.update(_ENVIRONMENT)
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"with exit status {exitcode}"
    return f"by {signal.Signals(-exitcode).name}"


def _stop(crew: Sequence[_Worker]) -> None:
    """End the processes, busy or not; what they were at can be done again."""
    for worker in crew:
        worker.process.kill()
    for worker in crew:
        worker.process.join()
        worker.connection.close()


class _Counter:
    """Counts for the parent, in few messages; ends the process when the parent is gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._count = 0
        self._sent = time.monotonic()

    def advance(self, count: int) -> None:
        """Count, and tell the parent now and then."""
        self._count += count
        if time.monotonic() - self._sent >= _COUNT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Tell the parent what it does not know yet."""
        _send(self._connection, ("counted", self._count))
        self._count, self._sent = 0, time.monotonic()


def _work(connection: Connection, function: Callable[..., Any]) -> None:
    """Do pieces until the parent hangs up; the body of a process."""
    warnings.simplefilter("ignore")  # of libraries, on stderr, through the parent's bar
    counter = _Counter(connection)
    counter.flush()  # the parent knows now that this process has begun
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            message = ("done", function(item, counter.advance))
            pickle.dumps(message)
        except Exception as error:
            message = ("failed", (_sendable(error), traceback.format_exc()))
        counter.flush()
        _send(connection, message)


def _send(connection: Connection, message: tuple[str, Any]) -> None:
    try:
        connection.send(message)
    except OSError:
        raise SystemExit(1) from None  # nobody is there to hear of it


def _sendable(error: Exception) -> Exception:
    """Return the exception, or one with its words where it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error
