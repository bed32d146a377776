"""Work in threads: results in order, a bounded number ahead."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # of a container; see cgroups(7), version 2
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def num_cores() -> int:
    """Return how many cores this process may use: bound to, and as many as its quota allows."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(bound or 1, _quota(_CPU_MAX)))


def _quota(path: Path) -> int:
    """Read how many cores' time a control group allows, such as a container's."""
    try:
        quota_us, period_us = path.read_text(encoding="ascii").split()
        return math.ceil(int(quota_us) / int(period_us))
    except (OSError, ValueError):  # none, or "max"
        return sys.maxsize


def ordered_map(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], workers: int, lookahead: int
) -> Iterator[ResultT]:
    """Apply `function` in threads, give results in the items' order, a bounded number ahead.

    For what lets go of the interpreter lock while it works: JPEG decoding, zstd, hashing.

    Args:
        function: called in a worker thread; its exception is raised here.
        items: read one by one, at most `lookahead` ahead of what has been taken.
        workers: threads.
        lookahead: results that wait at most, which bounds the memory.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="bottleneck")
    waiting: deque[Future[ResultT]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= lookahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead(items: Iterator[ItemT], number: int) -> Iterator[ItemT]:
    """Take items from an iterator in a thread, a bounded number before they are asked for."""
    end: Any = object()
    taken = ordered_map(lambda _: next(items, end), itertools.repeat(None), 1, number + 1)
    with contextlib.closing(taken):  # type: ignore[type-var]
        yield from itertools.takewhile(lambda item: item is not end, taken)
