"""Filling caches: plans, shards, the check of the cut, manifests; knows no framework."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.execution import holding, slots
from pipelines.execution.engine import Crew, Piece
from pipelines.execution.pace import Pace
from pipelines.execution.shares import ALL, Share
from pipelines.execution.tasks import Output, Terms, Work, left, run_tasks
from pipelines.extraction import cut_check, plans
from pipelines.extraction.plans import Rows, Settings, Target
from pipelines.extraction.times import Times
from pipelines.extraction.writing import ShardDone, ShardWork
from pipelines.progress import Progress
from pipelines.storage import locks
from pipelines.storage.locks import Lock
from pipelines.storage.plan import Receipt


@dataclass(frozen=True)
class Way:
    """How the work is done; nothing of it changes a byte.

    Attributes:
        check_images: whose scores are compared through the cut; 0 for none.
        share: of the shards.
        reading: marks of the folders that workers read.
        workers: that are asked for; None for as many as there is room for.
    """

    check_images: int
    share: Share = ALL
    reading: Sequence[Lock] = ()
    workers: int | None = None


@dataclass(frozen=True)
class Done:
    """What one start did.

    Attributes:
        outputs: the caches, with the receipts that are there.
        num_resumed_shards: shards that earlier starts had made.
        num_images: that this start ran forward.
        num_shards: that this start had to make.
        is_whole: whether nothing is left to do, for others neither.
        times: of the devices.
    """

    outputs: list[Output]
    num_resumed_shards: int
    num_images: int
    num_shards: int
    is_whole: bool
    times: Times


def fill(
    rows: Rows,
    targets: Sequence[Target],
    crew: Crew,
    settings: Settings,
    way: Way,
    progress: Progress,
) -> Done:
    """Make the caches of one or more nodes in one pass, going on where an earlier start stopped.

    Args:
        rows: the images.
        targets: the caches, in the order of the network's nodes.
        crew: workers whose job is an `Extractor`.
        settings: how caches are written.
        way: how the work is done.
        progress: told about the images.

    Raises:
        ManifestError: a cache is there with other settings, or another command is at work.
        FeatureError: an activation cannot be stored, or the cut changes the network's scores.
        ShardError: a shard is damaged, or the disk refuses.
        WorkerError: workers die again and again.
    """
    folders = [target.folder.path for target in targets]
    with holding.begun(folders, way.share.name, progress.say) as begun:
        outputs = plans.open_outputs(rows, targets, crew.call, settings, progress)
        begun.planned()
        num_resumed = sum(len(output.receipts) for output in outputs)
        todo = left(outputs, way.share)
        num_todo = sum(len(work.task) for work in todo)
        slots.say_idle(way.workers, len(todo), progress.say)
        of_share = max(num_todo, sum(map(len, way.share.of(outputs[0].plan.tasks))))
        progress.start("extract", of_share, "image", of_share - num_todo)
        pace = Pace(progress, begun.held, "image", num_todo)
        job = _Job(rows, outputs, crew, way, pace)
        job.sweep()
        try:
            terms = Terms(way.share, [*begun.held, *way.reading], job.finishing)
            is_whole = run_tasks(outputs, job.run, job.check, terms)
        finally:
            try:
                crew.close()  # while the locks are held
            finally:
                if locks.are_held(begun.held):  # what lies there would be another's
                    job.sweep()
    return Done(outputs, num_resumed, num_todo, len(todo), is_whole, job.times)


class _Job:
    """The work of one start.

    Attributes:
        times: of the devices so far.
    """

    def __init__(self, rows: Rows, outputs: list[Output], crew: Crew, way: Way, pace: Pace) -> None:
        self.times = Times()
        self._rows, self._outputs, self._crew = rows, outputs, crew
        self._way, self._pace = way, pace
        self._pieces: deque[Piece] | None = None  # while workers are at them
        self._asked: set[str] = set()  # names of the checks among those

    def sweep(self) -> None:
        """Delete what attempts at the shards of this start left behind."""
        for output in self._outputs:
            output.folder.sweep(self._way.share.shards(output.plan.tasks))

    def run(self, todo: Sequence[Work]) -> Generator[tuple[Work, list[Receipt]], None, None]:
        """Have shards made."""
        works = {work.task.shard: work for work in todo}
        self._pieces = deque(self._piece(work) for work in todo)
        for piece, result in self._crew.run(self._pieces, self._pace.advance):
            if isinstance(result, ShardDone):
                self.times += result.times
                yield works[piece.name], result.receipts
            else:
                self._judge(piece, result)
        self._pieces = None

    def _piece(self, work: Work) -> Piece:
        chosen = [(self._outputs.index(output), output) for output in work.outputs]
        folders = {i: output.folder.path for i, output in chosen}
        identities = {i: output.plan.identity for i, output in chosen}
        return Piece(work.task.shard, ShardWork(work.task, folders, identities))

    def check(self) -> None:
        """Have the cut checked in every cache that is ready for it and has not been.

        Raises:
            FeatureError: it changes the network's scores.
        """
        for i, output in enumerate(self._outputs):
            piece = cut_check.due(output, i, self._rows.num_rows(), self._way.check_images)
            if piece is None:
                continue
            if self._pieces is None:
                self._judge(piece, self._crew.call(piece))
            elif piece.name not in self._asked:
                self._asked.add(piece.name)
                self._pieces.appendleft(piece)

    def _judge(self, piece: Piece, result: Any) -> None:
        cut_check.judge(self._outputs[piece.body.index], result)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Be alone for the last look and the manifests."""
        folders = [output.folder.path for output in self._outputs]
        with holding.planning(folders, self._pace.progress.say):
            yield
