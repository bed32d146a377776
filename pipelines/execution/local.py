"""The engine for one machine: shards one after another, the work inside each over all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipelines.storage.manifest import Plan, Receipt, ShardFolder, Task

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], workers: int, lookahead: int
) -> Iterator[ResultT]:
    """Apply `function` in threads, give results in the items' order, a bounded number ahead.

    Threads, because image codecs and zstd let go of the interpreter lock while they work.

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


def run_tasks(
    folder: ShardFolder,
    plan: Plan,
    run_one: Callable[[Task], Receipt],
    check: Callable[[Mapping[str, Receipt]], None] = lambda receipts: None,
) -> dict[str, Receipt]:
    """Run the tasks that have no receipt that holds, then publish the manifest.

    Args:
        folder: where shards and receipts go.
        plan: the published plan.
        run_one: writes one shard durably; may run twice without harm.
        check: sees all receipts after each shard and may raise to stop the run.

    Returns:
        The receipts of all shards.
    """
    receipts = folder.receipts(plan)
    check(receipts)
    for task in plan.tasks:
        if task.shard not in receipts:
            receipts[task.shard] = run_one(task)
            folder.commit(receipts[task.shard])  # a crash loses one shard at most
            check(receipts)
    folder.finish(plan, receipts)
    return receipts
