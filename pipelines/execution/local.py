"""The engine for one machine: shards one after another, the work inside each over all cores."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipelines.storage.manifest import Plan, Receipt, ShardFolder, Task

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_logger = logging.getLogger(__name__)


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


class Output:
    """One folder that a stage fills.

    Attributes:
        folder: where shards and receipts go.
        plan: the published plan.
        receipts: those that hold, by shard; grows while tasks run.
    """

    def __init__(self, folder: ShardFolder, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.receipts = folder.receipts(plan)

    def missing(self) -> list[Task]:
        """Return the tasks that have no receipt yet."""
        return [task for task in self.plan.tasks if task.shard not in self.receipts]


def run_tasks(
    outputs: Sequence[Output],
    run_one: Callable[[Task, Sequence[Output]], Sequence[Receipt]],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Run the tasks that have no receipt that holds, then publish the manifests.

    Args:
        outputs: folders that are filled in one pass; their plans have the same tasks.
        run_one: writes one shard of each given output durably; may run twice without harm.
        check: called at the start and after each shard; may raise to stop the run.
    """
    check()
    for task in outputs[0].plan.tasks:
        todo = [output for output in outputs if task.shard not in output.receipts]
        if not todo:
            continue
        for output, receipt in zip(todo, run_one(task, todo), strict=True):
            output.folder.commit(receipt)  # a crash loses one shard at most
            output.receipts[task.shard] = receipt
            path = output.folder.path / task.shard
            _logger.info("%s: %d rows, %d bytes", path, receipt.num_rows, receipt.size_bytes)
        check()
    for output in outputs:
        output.folder.finish(output.plan, output.receipts)
