"""The plan of a set of variants: the index of the images, and the shards that follow from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, ManifestError
from pipelines.execution.threads import num_cores, ordered_map
from pipelines.images import codecs, decode, index, sources
from pipelines.images.codecs import Codec
from pipelines.progress import Progress
from pipelines.storage import locks, variants
from pipelines.storage.fingerprint import check_same
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, split_into_tasks

_SHARD_BYTES = 128 << 20  # the thesis takes 100 to 200 MB a file (section 4.1.2)
_SHARD_ROWS = 512  # at most
_NUM_SHARDS = 64  # where each has rows enough, so that a small set keeps all cores busy
_FEW_ROWS = 32  # fewer than these are not worth a shard


@dataclass(frozen=True)
class Asked:
    """What a set of variants is to be.

    Attributes:
        images: a folder, a list, or "elpv".
        classes: a file of class names; empty for the sorted names.
        limit: take only so many images; 0 for all.
        seed: fixes the choice, the splits and the order.
        codec: makes the variants.
        max_megapixels: an image whose header declares more is left out.
        max_bad_share: of the images that may be left out.
        shards: wanted number of files; 0 chooses by size.
        overwrite: a set made with other settings goes.
        is_stored: whether the variants are kept; without, the set only says which images there
            are, and can be used.
    """

    images: str
    classes: str
    limit: int
    seed: int
    codec: Codec
    max_megapixels: float
    max_bad_share: float
    shards: int
    overwrite: bool
    is_stored: bool = True

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], seed: int, is_stored: bool = True) -> Asked:
        """Take what counts of the settings of `compress`."""
        own = {field.name for field in fields(cls)} - {"codec", "seed", "is_stored"}
        taken = {name: settings[name] for name in own}
        return cls(**taken, codec=codecs.of_settings(settings), seed=seed, is_stored=is_stored)


@dataclass(frozen=True)
class Planned:
    """What is to be made, and of what."""

    source: sources.Source
    images: index.Index
    plan: Plan


def check_named(workspace_dir: Path, asked: Asked) -> None:
    """Check what can be told of the images before any folder is made.

    Raises:
        ConfigError: none are named, or the workspace lies among them.
    """
    if not asked.images:
        flag = "with --images, or " if asked.is_stored else ""
        raise ConfigError(
            f"no images; name a folder, a list or elpv {flag}as images in [compress] "
            "of bottleneck.toml",
            is_usage=True,
        )
    if (workspace_dir / asked.images).is_dir():
        sources.check_apart(workspace_dir, workspace_dir / asked.images)


def _open_source(workspace_dir: Path, asked: Asked) -> sources.Source:
    return sources.open_source(
        asked.images,
        base_dir=workspace_dir,
        classes_path=workspace_dir / asked.classes if asked.classes else None,
    )


def open_plan(
    workspace_dir: Path, folder: ShardFolder, asked: Asked, workers: int | None, progress: Progress
) -> Planned:
    """Read index and plan and compare them with what is asked for, or make them.

    Args:
        workspace_dir: where the index lies.
        folder: of the set.
        asked: what it is to be.
        workers: threads that hash files; None for one a core.
        progress: told about the hashes and what was decided.

    Raises:
        ManifestError: there is another set, and it may not be overwritten, or others are at it.
        SourceError: the images cannot be listed or used.
    """
    source = _open_source(workspace_dir, asked)
    make = partial(_open, workspace_dir, folder, asked, source, workers or num_cores(), progress)
    try:
        return make()
    except ManifestError:
        if not asked.overwrite:
            raise
        _clear(workspace_dir, folder, progress)
        return make()


def _open(
    workspace_dir: Path,
    folder: ShardFolder,
    asked: Asked,
    source: sources.Source,
    threads: int,
    progress: Progress,
) -> Planned:
    index_dir = workspace_dir / index.FOLDER
    with locks.planning(index_dir, progress.say):  # another set may be following it, too
        images = index.open_index(
            index_dir,
            source,
            limit=asked.limit,
            seed=asked.seed,
            map_files=partial(ordered_map, workers=threads, lookahead=4 * threads),
            progress=progress,
        )
    return Planned(source, images, _plan(folder, asked, images, source))


def _plan(folder: ShardFolder, asked: Asked, images: index.Index, source: sources.Source) -> Plan:
    """Read the published plan and compare it with what is asked for, or publish a new one."""
    fingerprint = {
        "index": images.fingerprint_sha256,
        "codec": asked.codec.describe(),
        "decoder": decode.describe(),
        "max_megapixels": asked.max_megapixels,
    }
    plan = folder.read_plan("variants", variants.FORMAT_VERSION)
    if plan is not None:
        mend = "ask for that again, or start over with --overwrite"
        check_same(plan.fingerprint, fingerprint, folder.path, mend)
        return plan
    num_rows = images.num_rows()
    details = {
        "set": folder.path.name,
        "variants": [variants.ORIGINAL, *asked.codec.variant_names],
        "classes": images.info["classes"],
        "num_planned": num_rows,
        "num_problems": len(images.problems),
        "note": images.info["note"],
        **({} if asked.is_stored else {"is_stored": False}),
    }
    num_shards = asked.shards or _num_shards(asked.codec, images, source)
    tasks = split_into_tasks(num_rows, num_shards, variants.SUFFIX)
    plan = Plan("variants", variants.FORMAT_VERSION, fingerprint, details, tasks)
    folder.publish(plan)
    return plan


def mean_bytes(images: index.Index, source: sources.Source) -> float:
    """Guess the size of a file from 64 of them."""
    sizes = []
    for name in images.table["id"].slice(0, 64).to_pylist():
        try:
            sizes.append(source.path_of(name).stat().st_size)
        except OSError:
            continue
    return sum(sizes) / max(1, len(sizes))


def _num_shards(codec: Codec, images: index.Index, source: sources.Source) -> int:
    """Choose how many shards: many for a few images, else files of about `_SHARD_BYTES`.

    The cores of this machine have no part in it: the same images make the same shards anywhere.
    """
    mean = mean_bytes(images, source) * (1 + codec.size_to_original)
    few = max(_FEW_ROWS, images.table.num_rows // _NUM_SHARDS)
    rows = min(_SHARD_ROWS, few, max(1, int(_SHARD_BYTES / max(1.0, mean))))
    return sum(-(-count // rows) for count in images.num_rows().values())


def _clear(workspace_dir: Path, folder: ShardFolder, progress: Progress) -> None:
    """Delete variants and index; the index last, so that a kill in between is seen."""
    locks.check_alone(folder.path)
    folder.clear()
    index_dir = workspace_dir / index.FOLDER
    with locks.planning(index_dir, progress.say):
        (index_dir / "index.json").unlink(missing_ok=True)  # first: it says that the rest is there
        (index_dir / "images.parquet").unlink(missing_ok=True)
        shutil.rmtree(index_dir / index.HASHES, ignore_errors=True)
