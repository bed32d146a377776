"""What is left to do becomes shards with receipts, whoever does the work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

from pipelines.execution.shares import ALL, Share
from pipelines.storage import locks
from pipelines.storage.locks import Lock
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task

_logger = logging.getLogger(__name__)


class Output:
    """One folder that a stage fills.

    Attributes:
        folder: where shards and receipts go.
        plan: the published plan.
        receipts: those that hold, by shard; grows while tasks run.
        num_from_others: shards that others have made meanwhile.
    """

    def __init__(self, folder: ShardFolder, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.receipts = folder.receipts(plan)
        self.num_from_others = 0

    def missing(self) -> list[Task]:
        """Return the tasks that have no receipt yet."""
        return [task for task in self.plan.tasks if task.shard not in self.receipts]

    def look_again(self) -> None:
        """Take up the receipts that others have written meanwhile."""
        for task in self.missing():
            receipt = self.folder.held_receipt(self.plan, task.shard)
            if receipt:
                self.receipts[task.shard] = receipt
                self.num_from_others += 1


@dataclass(frozen=True)
class Work:
    """A piece of work: one shard, in the outputs that lack it."""

    task: Task
    outputs: Sequence[Output]


@dataclass(frozen=True)
class Terms:
    """On which terms the work is done.

    Attributes:
        share: of the shards, that this start makes.
        held: the locks on the folders and the marks of those that are read; a receipt is written by
            whoever still holds them.
        finishing: entered around the last look and the manifests, where others do their shares.
    """

    share: Share = ALL
    held: Sequence[Lock] = ()
    finishing: Callable[[], AbstractContextManager[None]] = nullcontext


def run_tasks(
    outputs: Sequence[Output],
    do: Callable[[Sequence[Work]], Generator[tuple[Work, Sequence[Receipt]], None, None]],
    check: Callable[[], None] = lambda: None,
    terms: Terms = Terms(),
) -> bool:
    """Have the shards made that have no receipt that holds, then publish the manifests.

    Args:
        outputs: folders that are filled in one pass; the plans of those that are not whole have
            the same tasks.
        do: does the pieces of work it is given, in any order; gives each with its receipts, one an
            output, when the shards are on disk. A piece may be done twice without harm.
        check: called at the start, after each shard and before the manifests; may raise to stop.
        terms: share, locks.

    Returns:
        Whether all is there now; of a share alone it may not be.
    """
    check()
    with closing(do(left(outputs, terms.share))) as done:
        for work, receipts in done:
            locks.check_all(terms.held)
            for output, receipt in zip(work.outputs, receipts, strict=True):
                # A crash loses one shard a worker at most.
                output.folder.commit(output.plan, receipt)
                output.receipts[receipt.shard] = receipt
                path = output.folder.path / receipt.shard
                _logger.info("%s: %d rows, %d bytes", path, receipt.num_rows, receipt.size_bytes)
            check()
    locks.check_all(terms.held)
    with terms.finishing():
        for output in outputs:
            output.look_again()
        is_whole = not any(output.missing() for output in outputs)
        if is_whole:
            check()
            for output in outputs:
                output.folder.finish(output.plan, output.receipts)
    return is_whole


def left(outputs: Sequence[Output], share: Share = ALL) -> list[Work]:
    """Return what a share is to make, in the order of the plan."""
    missing = [(output, set(output.missing())) for output in outputs]
    tasks = next((output.plan.tasks for output, lacking in missing if lacking), ())
    every = (
        Work(task, [output for output, lacking in missing if task in lacking])
        for task in share.of(tasks)
    )
    return [work for work in every if work.outputs]
