"""A set of variants made or gone on with: the plan, the shards, the images that were left out."""

from __future__ import annotations

import contextlib
import csv
import io
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipelines.compression import encoding, plans
from pipelines.compression.plans import Asked, Planned
from pipelines.errors import SourceError
from pipelines.execution import holding
from pipelines.execution.engine import CrewSettings, Engine, Piece, Slot
from pipelines.execution.pace import Pace
from pipelines.execution.shares import ALL, Share
from pipelines.execution.slots import cpu_slots, say_idle
from pipelines.execution.tasks import Output, Terms, Work, run_tasks
from pipelines.execution.threads import num_cores
from pipelines.images import duplicates
from pipelines.images.encode import Encoder, Listed
from pipelines.progress import Progress
from pipelines.storage import atomic, locks, parquet
from pipelines.storage.manifest import QUARANTINE, ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task

_BYTES_A_WORKER = 2 << 20  # of originals: starting a process takes as long as encoding so many


@dataclass(frozen=True)
class Way:
    """How the work is done; nothing of it changes a byte.

    Attributes:
        engine: does the pieces of work.
        workers: of it; None for one a core, fewer for few images.
        hang_s: seconds without a sign of life after which a worker is taken for dead.
        share: of the shards.
    """

    engine: Engine
    workers: int | None
    hang_s: float
    share: Share = ALL


@dataclass(frozen=True)
class Made:
    """What one start came to.

    Attributes:
        output: the set, with the receipts that are there.
        encoder: of the images.
        num_quarantined: images that are left out so far.
        num_resumed_shards: that earlier starts had made.
        is_whole: whether nothing is left to do, for others neither.
    """

    output: Output
    encoder: Encoder
    num_quarantined: int
    num_resumed_shards: int
    is_whole: bool


def make(workspace_dir: Path, set_dir: Path, asked: Asked, way: Way, progress: Progress) -> Made:
    """Make a set, or one share of it, going on where an earlier start stopped.

    Args:
        workspace_dir: where the index lies.
        set_dir: where the set goes.
        asked: what it is to be.
        way: how the work is done.
        progress: told about the images.

    Raises:
        ConfigError: no images are named, or the workspace lies among them.
        SourceError: the images cannot be used, or too many of them are bad.
        ManifestError: the set was made with other settings, or others are at work.
        ShardError: the disk refuses.
        WorkerError: processes cannot start, or die again and again.
    """
    plans.check_named(workspace_dir, asked)
    folder = ShardFolder(set_dir)
    with holding.begun([set_dir], way.share.name, progress.say) as begun:
        folder.sweep_common()
        planned = plans.open_plan(workspace_dir, folder, asked, way.workers, progress)
        begun.planned()
        output = Output(folder, planned.plan)
        job = _Job(planned, output, asked, way, progress, begun.held)
        folder.sweep(job.shards())
        num_held = len(output.receipts)
        try:
            terms = Terms(way.share, begun.held, job.finishing)
            is_whole = run_tasks([output], job.run, job.check, terms)
        finally:  # behind workers that were stopped
            if locks.are_held(begun.held):  # what lies there would be another's
                folder.sweep(job.shards())
        if is_whole and num_held < len(output.receipts):
            _report(folder, planned.plan, output.receipts, progress)
    return Made(output, job.encoder, len(job.quarantined()), num_held, is_whole)


@dataclass(frozen=True)
class _Job:
    """The work of one start."""

    planned: Planned
    output: Output
    asked: Asked
    way: Way
    progress: Progress
    held: Sequence[locks.Lock]

    def shards(self) -> set[str] | None:
        """Name the shards that this start alone may write; None for all."""
        return self.way.share.shards(self.output.plan.tasks)

    def run(self, todo: Sequence[Work]) -> Generator[tuple[Work, list[Receipt]], None, None]:
        """Make the shards that are left to this start."""
        works = {work.task.shard: work for work in todo}
        tasks = [work.task for work in todo]
        waiting = map(self._piece, tasks)
        total = sum(map(len, tasks))
        of_share = sum(map(len, self.way.share.of(self.output.plan.tasks)))
        what = "compress" if self.asked.is_stored else "check"
        self.progress.start(what, of_share, "image", of_share - total)
        pace = Pace(self.progress, self.held, "image", total)
        slots = self._slots(total, len(tasks))
        job = encoding.Job(self.output.folder.path, self.encoder)
        settings = CrewSettings(slots, self.way.hang_s, encoding.without_killers)
        with self.way.engine(job, settings) as crew:
            pieces = deque(islice(waiting, 2 * len(slots)))  # of millions of names, few at a time
            for piece, receipt in crew.run(pieces, pace.advance):
                pieces.extend(islice(waiting, 1))
                yield works[piece.name], [receipt]

    def _piece(self, task: Task) -> Piece:
        rows = self.planned.images.rows(task.split, task.start, task.stop)
        return Piece(task.shard, Listed(task, rows))

    @property
    def encoder(self) -> Encoder:
        """What makes rows of the images."""
        root, asked = self.planned.source.root, self.asked
        return Encoder(root, asked.codec, asked.max_megapixels, asked.is_stored)

    def _slots(self, num_images: int, num_shards: int) -> list[Slot]:
        mean = plans.mean_bytes(self.planned.images, self.planned.source)
        useful = min(num_cores(), max(1, int(num_images * mean / _BYTES_A_WORKER)))
        asked = self.way.workers
        say_idle(asked, num_shards, self.progress.say)
        return cpu_slots(max(1, min(num_shards, asked or useful)))

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Be alone for the last look; who comes last knows of all that was left out."""
        with locks.planning(self.output.folder.path, self.progress.say):
            yield
            _write_quarantine(self.output.folder.path, self.quarantined())

    def check(self) -> None:
        """Stop when too large a share of the images is bad, or every one."""
        quarantined = self.quarantined()
        images = self.planned.images
        total = images.table.num_rows + len(images.problems)
        # Of a limited choice the listing's problems are no part; they are the whole source's.
        num_unlisted = total - self._num_chosen() if self.asked.limit else 0
        num_bad, total = len(quarantined) - num_unlisted, total - num_unlisted
        is_over = num_bad > self.asked.max_bad_share * total
        if not is_over and num_bad < total:
            return
        path = _write_quarantine(self.output.folder.path, quarantined)
        name, reason = quarantined[num_unlisted]
        found = f"{num_bad} of {total} images cannot be used"
        allowed = f", more than max_bad_share {self.asked.max_bad_share:g}" if is_over else ""
        mend = "mend them, or raise --max-bad-share" if num_bad < total else "mend them"
        raise SourceError(
            f"{self.planned.source.root}: {found}{allowed}; first: {name}: {reason}; "
            f"all in {path}; {mend}"
        )

    def _num_chosen(self) -> int:
        """Count the images that were listed and, under a limit, chosen."""
        listed = self.planned.images.info["fingerprint"]["images"]["num_images"]
        return min(self.asked.limit or listed, listed)

    def quarantined(self) -> list[tuple[str, str]]:
        """Return (id, reason) of every image that is left out so far."""
        return self.planned.images.problems + [
            pair
            for task in self.output.plan.tasks
            if task.shard in self.output.receipts
            for pair in self.output.receipts[task.shard].quarantined
        ]


def _write_quarantine(set_dir: Path, quarantined: list[tuple[str, str]]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "reason"])
    writer.writerows(quarantined)
    path = set_dir / QUARANTINE
    atomic.update_bytes(path, text.getvalue().encode("utf-8"))
    return path


def _report(
    folder: ShardFolder, plan: Plan, receipts: Mapping[str, Receipt], progress: Progress
) -> None:
    """Say what a careful user would want to know about the images."""
    num_wrong = sum(receipt.stats["num_wrong_extension"] for receipt in receipts.values())
    if num_wrong:
        progress.say(
            f"images of another format than their extension says: {num_wrong}; "
            "they are read by their content"
        )
    columns = ["id", "label", "sha256"]
    tables = [parquet.read_table(folder.path / task.shard, columns) for task in plan.tasks]
    for note in duplicates.notes([task.split for task in plan.tasks], tables):
        progress.say(note)
