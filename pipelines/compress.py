"""Stage 1: every image as it is and as JPEG at each quality factor, in variants/jpeg/."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines import workspace
from pipelines.config import CompressConfig
from pipelines.errors import ConfigError, ImageError, ManifestError, SourceError
from pipelines.execution.local import Output, num_cores, ordered_map, run_tasks
from pipelines.images import decode, duplicates, index, sources
from pipelines.images.codecs import JpegCodec
from pipelines.progress import Progress
from pipelines.storage import atomic, parquet, variants
from pipelines.storage.manifest import (
    Plan,
    Receipt,
    ShardFolder,
    Task,
    check_same,
    split_into_tasks,
)

SET = "jpeg"
MAX_FILE_BYTES = 512 << 20
_SHARD_BYTES = 128 << 20  # the thesis takes 100 to 200 MB a file (section 4.1.2)
_CHUNK = 8  # images that pass between threads at once
_SHARD_ROWS = 512  # what a kill can cost stays under a minute of extraction on a slow machine
_VARIANTS_TO_ORIGINAL = 4.7  # size of ten JPEG variants over the original's, 500x375 photographs

_FORMAT_OF_EXTENSION = {
    **{f".{name}": name for name in ("jpeg", "png", "gif", "bmp", "tiff", "webp")},
    ".jpg": "jpeg",
    ".tif": "tiff",
    ".ppm": "ppm",
    ".pgm": "ppm",
}


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """One image's result: a row, or the reason why there is none."""

    row: variants.VariantRow | None
    id: str
    reason: str = ""
    has_wrong_extension: bool = False


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
    with atomic.exclusive(set_dir):
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
        with contextlib.closing(_encode_all(source, images, config, output.missing())) as encoded:
            job = _Job(output, images, source, config, encoded, progress)
            run_tasks([output], job.run, job.check)
        quarantined = job.quarantined()
        _write_quarantine(set_dir, quarantined)
        if num_held < len(receipts):
            _report(folder, receipts, progress)
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
    """What a shard's task needs."""

    output: Output
    images: index.Index
    source: sources.Source
    config: CompressConfig
    encoded: Iterator[_Encoded]  # of all missing shards, so that none waits for another's disk
    progress: Progress

    def run(self, task: Task, outputs: Sequence[Output]) -> list[Receipt]:
        """Encode and write one shard."""
        bad: list[tuple[str, str]] = []
        stats = {"num_wrong_extension": 0}
        rows = self._rows(task, bad, stats)
        names = self.output.plan.details["variants"]
        receipt = variants.write_shard(self.output.folder.path, task, names, rows, bad)
        return [dataclasses.replace(receipt, stats=stats)]

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

    def _rows(
        self, task: Task, bad: list[tuple[str, str]], stats: dict[str, int]
    ) -> Iterator[variants.VariantRow]:
        for encoded in islice(self.encoded, len(task)):
            self.progress.advance(1)
            stats["num_wrong_extension"] += encoded.has_wrong_extension
            if encoded.row is None:
                bad.append((encoded.id, encoded.reason))
            else:
                yield encoded.row


def _encode_all(
    source: sources.Source, images: index.Index, config: CompressConfig, tasks: Sequence[Task]
) -> Generator[_Encoded, None, None]:
    """Encode the images of some shards over all cores, in the plan's order, a bounded way ahead."""
    workers = config.workers or num_cores()
    encode = partial(_encode, source, _codec(config), config.max_megapixels)
    listed = (row for task in tasks for row in images.rows(task.split, task.start, task.stop))
    chunks = iter(lambda: list(islice(listed, _CHUNK)), [])
    encode_chunk = lambda rows: [encode(row) for row in rows]  # noqa: E731
    for encoded in ordered_map(encode_chunk, chunks, workers, 3 * workers):
        yield from encoded


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


def _num_shards(images: index.Index, source: sources.Source) -> int:
    """Choose how many shards make files of about `_SHARD_BYTES`, from the sizes of 64 images."""
    sizes = []
    for name in images.table["id"].slice(0, 64).to_pylist():
        try:
            sizes.append(source.path_of(name).stat().st_size)
        except OSError:
            continue
    mean = sum(sizes) / max(1, len(sizes)) * (1 + _VARIANTS_TO_ORIGINAL)
    rows = min(_SHARD_ROWS, max(1, int(_SHARD_BYTES / max(1.0, mean))))
    return sum(-(-count // rows) for count in images.num_rows().values())


def _encode(
    source: sources.Source, codec: JpegCodec, max_megapixels: float, listed: tuple[str, int]
) -> _Encoded:
    """Read, decode and encode one image; runs in a worker thread."""
    name, label = listed
    path = source.path_of(name)
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise ImageError(
                f"the file has {size_bytes:,} bytes, over the limit of {MAX_FILE_BYTES:,}"
            )
        data = path.read_bytes()
        pixels = decode.decode_original(data, max_megapixels=max_megapixels)
        encoded = codec.encode(pixels)
    except ImageError as error:
        return _Encoded(None, name, str(error))
    except OSError as error:
        return _Encoded(None, name, f"cannot be read: {error.strerror}")
    row = variants.VariantRow(name, label, hashlib.sha256(data).digest(), (data, *encoded))
    return _Encoded(row, name, has_wrong_extension=_has_wrong_extension(name, data))


def _has_wrong_extension(name: str, data: bytes) -> bool:
    """Tell whether an image's extension names another format than its content is."""
    claimed = _FORMAT_OF_EXTENSION.get(Path(name).suffix.lower())
    return claimed is not None and claimed != decode.sniff(data)


def _clear(workspace_dir: Path, folder: ShardFolder) -> None:
    """Delete variants and index; the index last, so that a kill in between is seen."""
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


def _report(folder: ShardFolder, receipts: Mapping[str, Receipt], progress: Progress) -> None:
    """Say what a careful user would want to know about the images."""
    num_wrong = sum(receipt.stats["num_wrong_extension"] for receipt in receipts.values())
    if num_wrong:
        progress.say(
            f"images of another format than their extension says: {num_wrong}; "
            "they are read by their content"
        )
    columns = ["id", "label", "sha256"]
    tables = {shard: parquet.read_table(folder.path / shard, columns) for shard in receipts}
    names = [shard.split("-", 1)[0] for shard in tables]
    for note in duplicates.notes(names, list(tables.values())):
        progress.say(note)
