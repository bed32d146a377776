"""Between disk and device: inputs read and made ready ahead, maps taken away behind.

    read  →  make ready  →  forward  →  encode and write
    one      several        the         one thread
    thread   threads        caller

A device on the CPU of one thread does all of it in turn, so that it takes no more than a core. No
more is made ready ahead of the device than `Ahead` allows, and one more is read; behind it are the
maps of three batches at most: one is encoded, one waits, one is handed on.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from pipelines.extraction.inputs import Inputs
from pipelines.extraction.times import Times

ItemT = TypeVar("ItemT")
_LIMIT_BYTES = 512 << 20
_MAX_AHEAD = 4
_MAX_BEHIND = 1  # batches that wait for the one that is encoded


@dataclass(frozen=True)
class Ahead:
    """How far inputs are made ready ahead of the device.

    Attributes:
        threads: that decode; 0 to do everything in turn.
        batch_bytes: of one batch of inputs.
        limit_bytes: of all batches ahead; one is always allowed.
    """

    threads: int
    batch_bytes: int
    limit_bytes: int = _LIMIT_BYTES

    @property
    def num_batches(self) -> int:
        """How many batches may be ahead."""
        return max(1, min(_MAX_AHEAD, self.limit_bytes // max(1, self.batch_bytes)))


class NotYet:
    """Stands before an item that is waited for, perhaps the next shard's: hold nothing back."""


@dataclass(frozen=True)
class Ready:
    """A batch whose inputs are ready; holds nothing of what they were made from."""

    ids: list[str]
    labels: list[int]
    array: np.ndarray


class Sink(Protocol):
    """Takes what comes behind the device, in order."""

    def take(self, item: Any) -> None:
        """Encode, write."""

    def abandon(self) -> None:
        """Undo what is begun and not whole."""


@dataclass(frozen=True)
class Feed:
    """What comes to the device.

    Attributes:
        items: in order, the next one waited for.
        fail: has `items` raise something, also when they wait.
    """

    items: Iterator[Any]
    fail: Callable[[BaseException], None]


@contextlib.contextmanager
def fed(items: Iterable[Any], ahead: Ahead, times: Times) -> Iterator[Feed]:
    """Give items in order; `Inputs` among them become `Ready`, made ahead of whoever takes them.

    Among them are `NotYet`, wherever the next one has not been read.

    Args:
        items: read ahead in a thread; what they raise is raised here, in their place.
        ahead: how far.
        times: told how long disk and decoding were waited for.
    """
    if not ahead.threads:
        yield Feed(_in_turn(iter(items), times), lambda error: None)
        return
    with ThreadPoolExecutor(ahead.threads, thread_name_prefix="decode") as pool:
        reader = _Reader(items, ahead.num_batches, pool)
        try:
            yield Feed(reader.taken(times), reader.fail)
        finally:
            reader.stop()
            pool.shutdown(cancel_futures=True)


def _in_turn(items: Iterator[Any], times: Times) -> Iterator[Any]:
    while True:
        yield NotYet()
        with times.spending("disk_s"):
            item = next(items, None)
        if item is None:
            return
        if isinstance(item, Inputs):
            with times.spending("decode_s"):
                item = Ready(item.ids, item.labels, item.load())
        yield item


class _Reader:
    """A thread that reads items and has their parts made ready."""

    def __init__(self, items: Iterable[Any], num_ahead: int, pool: ThreadPoolExecutor) -> None:
        self._items, self._pool = items, pool
        self._found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(num_ahead)
        self._is_stopped = False
        self._thread = threading.Thread(target=self._read, name="read", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for item in self._items:
                if isinstance(item, Inputs):
                    self._room.acquire()
                if self._is_stopped:
                    return
                self._found.put(self._begun(item) if isinstance(item, Inputs) else item)
            self._found.put(None)
        except BaseException as error:
            self._found.put(_Raised(error))

    def _begun(self, inputs: Inputs) -> _Begun:
        array = inputs.make()
        return _Begun(inputs, array, [self._pool.submit(part, array) for part in inputs.parts])

    def taken(self, times: Times) -> Iterator[Any]:
        while True:
            if self._found.empty():
                yield NotYet()
            with times.spending("disk_s"):
                item = self._found.get()
            if item is None:
                return
            if isinstance(item, _Raised):
                raise item.error
            if isinstance(item, _Begun):
                with times.spending("decode_s"):
                    for future in item.parts:
                        future.result()
                self._room.release()
                item = Ready(item.inputs.ids, item.inputs.labels, item.array)
            yield item

    def fail(self, error: BaseException) -> None:
        """Raise an error behind what has been read, to whoever may wait for more."""
        self._found.put(_Raised(error))

    def stop(self) -> None:
        """Let the thread end at its next item; one that waits for the next piece just stays."""
        self._is_stopped = True
        self._room.release()


@dataclass(frozen=True)
class _Begun:
    inputs: Inputs
    array: np.ndarray
    parts: list[Future[None]]


@dataclass(frozen=True)
class _Raised:
    error: BaseException


@contextlib.contextmanager
def behind(
    sink: Sink,
    is_threaded: bool,
    times: Times,
    on_failure: Callable[[BaseException], None] = lambda error: None,
) -> Iterator[Callable[[Any], None]]:
    """Give what hands items to a sink, in a thread of its own or at once.

    Args:
        sink: takes them; what it raises is raised at the next item, or at the end.
        is_threaded: whether it has a thread.
        times: told how long a full queue was waited for.
        on_failure: told by the thread what the sink raises: there may never be a next item.
    """
    if not is_threaded:
        yield from _at_once(sink, times)
        return
    waiting: queue.Queue[Any] = queue.Queue(_MAX_BEHIND)
    failed: list[BaseException] = []

    def work() -> None:
        while (item := waiting.get()) is not None:
            if failed:
                continue  # the caller is about to hear of it
            try:
                sink.take(item)
            except BaseException as error:
                failed.append(error)
                on_failure(error)

    def hand_on(item: Any) -> None:
        with times.spending("write_s"):
            waiting.put(item)
        if failed:
            raise failed[0]

    thread = threading.Thread(target=work, name="write", daemon=True)
    thread.start()
    try:
        yield hand_on
    except BaseException:
        failed.append(RuntimeError("given up"))
        raise
    finally:
        waiting.put(None)
        thread.join()
        if failed:
            sink.abandon()
    if failed:
        raise failed[0]


def _at_once(sink: Sink, times: Times) -> Iterator[Callable[[Any], None]]:
    def hand_on(item: Any) -> None:
        with times.spending("write_s"):
            sink.take(item)

    try:
        yield hand_on
    except BaseException:
        sink.abandon()
        raise
