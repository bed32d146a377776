"""Whether everything in a workspace is still what was written, and how it is made whole again."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ImageError, ShardError
from pipelines.execution.threads import num_cores
from pipelines.images import codecs
from pipelines.progress import Progress
from pipelines.storage import audit, batches, cells, layout, locks, variants
from pipelines.storage.audit import Audit, DeepCheck
from pipelines.storage.cache import shards_of
from pipelines.storage.manifest import MANIFEST, PLAN, RECEIPTS, ShardFolder
from pipelines.storage.plan import Plan, Receipt


def run(
    workspace_dir: Path, features_dir: Path, deep: bool, repair: bool, progress: Progress
) -> dict[str, Any]:
    """Check every shard of the variants and of the caches against its receipt.

    Args:
        workspace_dir: the workspace.
        features_dir: the folder of the caches.
        deep: read every image and every map, too.
        repair: move bad files aside, so that the next run of their stage makes them again; write
            plans and receipts again that a manifest holds.
        progress: told about the shards.

    Returns:
        The summary: stage, num_shards, num_bad, bad (file and reason of each, and what was
        done about it), num_moved, seconds.

    Raises:
        ManifestError: another command is at work in a folder that is to be repaired.
        ShardError: the file system refuses.
    """
    started = time.monotonic()
    folders = list(_folders(workspace_dir, features_dir))
    if not any(kind == "features" for _, kind in folders):
        progress.say(f"{features_dir}: no caches here")
    total = sum(audit.num_shards(folder) for folder, _ in folders)
    progress.start("verify", total, "shard")
    num_shards, num_moved, bad = 0, 0, []
    for folder, kind in folders:
        with locks.hold(folder.path) if repair else locks.reading(folder.path):
            found = _audit(folder, kind, deep, progress)
            num_shards += found.num_shards
            for entry in found.bad:
                name = entry.path
                with contextlib.suppress(ValueError):
                    name = entry.path.relative_to(workspace_dir)
                bad.append({"file": name.as_posix(), "reason": entry.reason})
                if repair and entry.is_ours:
                    bad[-1]["done"] = audit.repair(folder, entry)
                    num_moved += 1
    return {
        "stage": "verify",
        "num_shards": num_shards,
        "num_bad": len(bad),
        "bad": bad,
        "num_moved": num_moved,
        "seconds": round(time.monotonic() - started, 3),
    }


def _folders(workspace_dir: Path, features_dir: Path) -> Iterator[tuple[ShardFolder, str]]:
    for parent, kind in ((workspace_dir / "variants", "variants"), (features_dir, "features")):
        for path in sorted(parent.glob("*/")):
            if any((path / name).exists() for name in (PLAN, MANIFEST, RECEIPTS)):
                yield ShardFolder(path), kind


def _audit(folder: ShardFolder, kind: str, deep: bool, progress: Progress) -> Audit:
    newest, check = _KINDS[kind]
    deep_check = check(folder.path) if deep else None
    return audit.audit(folder, kind, newest, deep_check, num_cores(), lambda: progress.advance(1))


def _check_variants(folder: Path) -> DeepCheck:
    """Make a check that decodes every image of a shard."""

    def check(plan: Plan, receipt: Receipt) -> None:
        names = variants.stored_names(plan)
        decode = codecs.decoder_of(plan.fingerprint["codec"])
        rows = variants.read_rows(folder, [receipt], names, 0, receipt.num_rows)
        for row in rows:
            if not names:
                continue
            original, *encoded = row.variants
            if hashlib.sha256(original).digest() != row.sha256:
                raise ShardError(f"{folder / receipt.shard}: {row.id} is not the original")
            try:
                for data in encoded:
                    decode(data)
            except ImageError as error:
                raise ShardError(f"{folder / receipt.shard}: {row.id}: {error}") from error

    return check


def _check_features(folder: Path) -> DeepCheck:
    """Make a check that expands every map of a shard; all names in a cache must differ."""
    seen: dict[str, str] = {}

    def check(plan: Plan, receipt: Receipt) -> None:
        (shard,) = shards_of(folder, plan, [receipt])
        for index in range(shard.num_groups):
            group = batches.Group(shard, index)
            rows = batches.read_group(group, shard.layout.branches)
            every = np.arange(len(rows))
            for branch in shard.layout.branches:
                cells.decode(rows.cells, shard.layout, [branch], every, shard.layout.dtype)
            for name in rows.ids or ():
                if seen.setdefault(name, shard.path.name) != shard.path.name:
                    raise ShardError(f"{shard.path}: image {name} stands in {seen[name]} too")

    return check


_KINDS = {
    "variants": (variants.FORMAT_VERSION, _check_variants),
    "features": (layout.FORMAT_VERSION, _check_features),
}
