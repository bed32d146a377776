"""What is left to do becomes shards with receipts, whoever does the work."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from pipelines.storage import locks
from pipelines.storage.locks import Lock
from pipelines.storage.manifest import Plan, Receipt, ShardFolder, Task

_logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Work:
    """A piece of work: one shard, in the outputs that lack it."""

    task: Task
    outputs: Sequence[Output]


def run_tasks(
    outputs: Sequence[Output],
    engine: Callable[[Sequence[Work]], Generator[tuple[Work, Sequence[Receipt]], None, None]],
    check: Callable[[], None] = lambda: None,
    held: Sequence[Lock] = (),
) -> None:
    """Have the shards made that have no receipt that holds, then publish the manifests.

    Args:
        outputs: folders that are filled in one pass; the plans of those that are not whole have
            the same tasks.
        engine: does the pieces of work it is given, in any order; gives each with its receipts, one
            an output, when the shards are on disk. A piece may be done twice without harm.
        check: called at the start and after each shard; may raise to stop the run.
        held: the locks on the folders and the marks of those that are read; a receipt is written
            by whoever still holds them.
    """
    check()
    with contextlib.closing(engine(left(outputs))) as done:
        for work, receipts in done:
            locks.check_all(held)
            for output, receipt in zip(work.outputs, receipts, strict=True):
                # A crash loses one shard a worker at most.
                output.folder.commit(output.plan, receipt)
                output.receipts[receipt.shard] = receipt
                path = output.folder.path / receipt.shard
                _logger.info("%s: %d rows, %d bytes", path, receipt.num_rows, receipt.size_bytes)
            check()
    locks.check_all(held)
    for output in outputs:
        output.folder.finish(output.plan, output.receipts)


def in_turn(
    run_one: Callable[[Task, Sequence[Output]], Sequence[Receipt]], left: Sequence[Work]
) -> Generator[tuple[Work, Sequence[Receipt]], None, None]:
    """Do one piece of work after another in this process; an engine, once `run_one` is bound."""
    for work in left:
        yield work, run_one(work.task, work.outputs)


def left(outputs: Sequence[Output]) -> list[Work]:
    """Return what is to be made, in the order of the plan."""
    missing = [(output, set(output.missing())) for output in outputs]
    tasks = next((output.plan.tasks for output, lacking in missing if lacking), ())
    every = (
        Work(task, [output for output, lacking in missing if task in lacking]) for task in tasks
    )
    return [work for work in every if work.outputs]
