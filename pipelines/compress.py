"""Stage 1: every image as it is and as JPEG at each quality factor, in variants/jpeg/."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import workspace
from pipelines.config import CompressConfig
from pipelines.errors import ConfigError, ManifestError, SourceError
from pipelines.execution import processes
from pipelines.execution.tasks import Output, Work, run_tasks
from pipelines.execution.threads import num_cores, ordered_map
from pipelines.images import decode, duplicates, encode, index, sources
from pipelines.images.codecs import JpegCodec
from pipelines.images.encode import Encoder
from pipelines.progress import Progress
from pipelines.storage import atomic, locks, parquet, variants
from pipelines.storage.fingerprint import check_same
from pipelines.storage.manifest import Plan, Receipt, ShardFolder, Task, split_into_tasks

SET = "jpeg"
_SHARD_BYTES = 128 << 20  # the thesis takes 100 to 200 MB a file (section 4.1.2)
_SHARD_ROWS = 512  # at most
_NUM_SHARDS = 64  # where each has rows enough, so that a small set keeps all cores busy
_FEW_ROWS = 32  # fewer than these are not worth a shard
_BYTES_A_WORKER = 2 << 20  # of originals: starting a process takes as long as encoding so many
_VARIANTS_TO_ORIGINAL = 4.7  # size of ten JPEG variants over the original's, 500x375 photographs


def run(
    workspace_dir: Path, config: CompressConfig, seed: int, progress: Progress
) -> dict[str, Any]:
    """Make the variant set, going on where an earlier run stopped.

    Returns:
        The summary: stage, num_images, num_quarantined, num_shards, size_bytes, seconds,
        num_resumed_shards.

    Raises:
        ConfigError: no images are named.
        SourceError: the images cannot be used, or too many of them are bad.
        ManifestError: the set was made with other settings.
        ShardError: the disk refuses.
        WorkerError: processes that encode cannot start, or die again and again.
    """
    started = time.monotonic()
    if not config.images:
        raise ConfigError(
            "no images; name a folder, a list or elpv with --images, "
            "or as images in [compress] of bottleneck.toml",
            is_usage=True,
        )
    if (workspace_dir / config.images).is_dir():
        workspace.check_apart(workspace_dir, workspace_dir / config.images)
    set_dir = workspace_dir / "variants" / SET
    with locks.hold(set_dir) as lock:
        folder = ShardFolder(set_dir)
        folder.sweep()
        source = sources.open_source(
            config.images,
            base_dir=workspace_dir,
            classes_path=workspace_dir / config.classes if config.classes else None,
        )
        prepare = partial(_prepare, workspace_dir, folder, config, seed, source, progress)
        try:
            images, plan = prepare()
        except ManifestError:
            if not config.overwrite:
                raise
            _clear(workspace_dir, folder)
            images, plan = prepare()
        output = Output(folder, plan)
        receipts = output.receipts
        num_held = len(receipts)
        total = images.table.num_rows
        progress.start("compress", total, "image", total - sum(map(len, output.missing())))
        job = _Job(output, images, source, config, progress)
        try:
            run_tasks([output], job.run, job.check, [lock])
        finally:
            folder.sweep()  # behind workers that were stopped
        quarantined = job.quarantined()
        _write_quarantine(set_dir, quarantined)
        if num_held < len(receipts):
            _report(folder, plan, receipts, progress)
    return {
        "stage": "compress",
        "num_images": sum(receipt.num_rows for receipt in receipts.values()),
        "num_quarantined": len(quarantined),
        "num_shards": len(receipts),
        "size_bytes": sum(receipt.size_bytes for receipt in receipts.values()),
        "seconds": round(time.monotonic() - started, 3),
        "num_resumed_shards": num_held,
    }


@dataclasses.dataclass(frozen=True)
class _Job:
    """The work of one start."""

    output: Output
    images: index.Index
    source: sources.Source
    config: CompressConfig
    progress: Progress

    def run(self, left: Sequence[Work]) -> Generator[tuple[Work, list[Receipt]], None, None]:
        """Make the shards that are left, a process a core; the engine of this stage."""
        works = {work.task.shard: work for work in left}
        encoder = Encoder(self.source.root, _codec(self.config), self.config.max_megapixels)
        make = partial(encode.make_shard, self.output.folder.path, encoder)
        tasks = [work.task for work in left]
        pieces = (
            (task.shard, (task, self.images.rows(task.split, task.start, task.stop)))
            for task in tasks
        )
        workers = self._num_workers(tasks)
        with contextlib.closing(
            processes.run_pieces(make, pieces, workers, self.progress.advance)
        ) as done:
            for shard, receipt in done:
                yield works[shard], [receipt]

    def _num_workers(self, tasks: Sequence[Task]) -> int:
        mean = _mean_bytes(self.images, self.source)
        useful = int(sum(map(len, tasks)) * mean / _BYTES_A_WORKER)
        return min(len(tasks), self.config.workers or min(num_cores(), useful))

    def check(self) -> None:
        """Stop when too large a share of the images is bad, or every one."""
        quarantined = self.quarantined()
        total = self.images.table.num_rows + len(self.images.problems)
        # Of a limited choice the listing's problems are no part; they are the whole source's.
        num_unlisted = total - self._num_chosen() if self.config.limit else 0
        num_bad, total = len(quarantined) - num_unlisted, total - num_unlisted
        is_over = num_bad > self.config.max_bad_share * total
        if not is_over and num_bad < total:
            return
        path = _write_quarantine(self.output.folder.path, quarantined)
        name, reason = quarantined[num_unlisted]
        found = f"{num_bad} of {total} images cannot be used"
        allowed = f", more than max_bad_share {self.config.max_bad_share:g}" if is_over else ""
        mend = "mend them, or raise --max-bad-share" if num_bad < total else "mend them"
        raise SourceError(
            f"{self.source.root}: {found}{allowed}; first: {name}: {reason}; all in {path}; {mend}"
        )

    def _num_chosen(self) -> int:
        """Count the images that were listed and, under a limit, chosen."""
        listed = self.images.info["fingerprint"]["images"]["num_images"]
        return min(self.config.limit or listed, listed)

    def quarantined(self) -> list[tuple[str, str]]:
        """Return (id, reason) of every image that is left out so far."""
        return self.images.problems + [
            pair
            for task in self.output.plan.tasks
            if task.shard in self.output.receipts
            for pair in self.output.receipts[task.shard].quarantined
        ]


def _prepare(
    workspace_dir: Path,
    folder: ShardFolder,
    config: CompressConfig,
    seed: int,
    source: sources.Source,
    progress: Progress,
) -> tuple[index.Index, Plan]:
    """Open or make the index, then the plan that follows it."""
    workers = config.workers or num_cores()
    images = index.open_index(
        workspace_dir / "index",
        source,
        limit=config.limit,
        seed=seed,
        map_files=partial(ordered_map, workers=workers, lookahead=4 * workers),
        progress=progress,
    )
    return images, _plan(folder, config, images, source)


def _codec(config: CompressConfig) -> JpegCodec:
    return JpegCodec(config.qualities, config.subsampling)


def _plan(
    folder: ShardFolder, config: CompressConfig, images: index.Index, source: sources.Source
) -> Plan:
    """Read the published plan and compare it with what is asked for, or publish a new one."""
    codec = _codec(config)
    fingerprint = {
        "index": images.fingerprint_sha256,
        "codec": codec.describe(),
        "decoder": decode.describe(),
        "max_megapixels": config.max_megapixels,
    }
    plan = folder.read_plan("variants", variants.FORMAT_VERSION)
    if plan is not None:
        mend = "ask for that again, or start over with --overwrite"
        check_same(plan.fingerprint, fingerprint, folder.path, mend)
        return plan
    num_rows = images.num_rows()
    names = [variants.ORIGINAL, *codec.variant_names]
    details = {
        "set": SET,
        "variants": names,
        "classes": images.info["classes"],
        "num_planned": num_rows,
        "num_problems": len(images.problems),
        "note": images.info["note"],
    }
    num_shards = config.shards or _num_shards(images, source)
    tasks = split_into_tasks(num_rows, num_shards, variants.SUFFIX)
    plan = Plan("variants", variants.FORMAT_VERSION, fingerprint, details, tasks)
    folder.publish(plan)
    return plan


def _mean_bytes(images: index.Index, source: sources.Source) -> float:
    """Guess the size of a file from 64 of them."""
    sizes = []
    for name in images.table["id"].slice(0, 64).to_pylist():
        try:
            sizes.append(source.path_of(name).stat().st_size)
        except OSError:
            continue
    return sum(sizes) / max(1, len(sizes))


def _num_shards(images: index.Index, source: sources.Source) -> int:
    """Choose how many shards: many for a few images, else files of about `_SHARD_BYTES`.

    The cores of this machine have no part in it: the same images make the same shards anywhere.
    """
    mean = _mean_bytes(images, source) * (1 + _VARIANTS_TO_ORIGINAL)
    few = max(_FEW_ROWS, images.table.num_rows // _NUM_SHARDS)
    rows = min(_SHARD_ROWS, few, max(1, int(_SHARD_BYTES / max(1.0, mean))))
    return sum(-(-count // rows) for count in images.num_rows().values())


def _clear(workspace_dir: Path, folder: ShardFolder) -> None:
    """Delete variants and index; the index last, so that a kill in between is seen."""
    locks.check_unread(folder.path)
    folder.clear()
    index_dir = workspace_dir / "index"
    if index_dir.exists():
        (index_dir / "index.json").unlink(missing_ok=True)  # first: it says that the rest is there
        (index_dir / "images.parquet").unlink(missing_ok=True)
        shutil.rmtree(index_dir / "hashes", ignore_errors=True)


def _write_quarantine(set_dir: Path, quarantined: list[tuple[str, str]]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "reason"])
    writer.writerows(quarantined)
    path = set_dir / "quarantine.csv"
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
