"""Whether a stage's folder still holds what was written: every file against its receipt.

A shard is bad when its bytes are not those of its receipt. Where a set is finished, receipts and
manifest must agree, and no other shard may lie beside those of the plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.errors import ManifestError, PipelineError, ShardError
from pipelines.storage import atomic
from pipelines.storage.manifest import (
    MANIFEST,
    PLAN,
    RECEIPTS,
    ForeignError,
    Plan,
    Receipt,
    ShardFolder,
    Task,
)

ASIDE = "bad"
_SHARDS = ("*.parquet", "*.tfrecord")
_BLOCK_BYTES = 1 << 20
DeepCheck = Callable[[Plan, Receipt], None]


@dataclass(frozen=True)
class Bad:
    """A file that is not what was written.

    Attributes:
        path: the file.
        reason: what is wrong with it, in words.
        shard: the shard that must be made again; None where it is another kind of file.
        is_ours: False where another program or a newer version wrote it, so that it stays.
    """

    path: Path
    reason: str
    shard: str | None = None
    is_ours: bool = True


@dataclass(frozen=True)
class Audit:
    """What was found in one folder.

    Attributes:
        num_shards: that were looked at: those that the plan names and that were made.
        bad: files that are not what was written.
    """

    num_shards: int
    bad: list[Bad]


def audit(
    folder: ShardFolder,
    kind: str,
    newest_version: int,
    deep_check: DeepCheck | None,
    num_threads: int,
    on_shard: Callable[[], None],
) -> Audit:
    """Check all shards of a folder, in threads.

    Args:
        folder: of one stage's output.
        kind: the plan's kind.
        newest_version: the newest format version this program reads.
        deep_check: reads all of a shard and raises where it finds damage; None to leave it at the
            files' hashes.
        num_threads: that read files.
        on_shard: called after each shard.
    """
    path, bad = folder.path / PLAN, []
    try:
        plan = folder.read_plan(kind, newest_version)
    except ForeignError as error:
        return Audit(0, [Bad(path, _reason(error, path), is_ours=False)])
    except ManifestError as error:
        # First in the list: repaired first, as long as the manifest is there.
        bad, plan = [Bad(path, _reason(error, path))], _listed_plan(folder)
    if plan is None:
        return Audit(0, bad)
    bad += _strangers(folder, plan)
    found = {task.shard: folder.read_receipt(task.shard) for task in plan.tasks}
    receipts = {shard: receipt for shard, receipt in found.items() if receipt is not None}
    manifest, bad_manifest = _read_manifest(folder, plan)
    bad += bad_manifest
    for task in plan.tasks:
        bad += _bad_receipt(folder, task, receipts.get(task.shard), manifest.get(task.shard))
    known = {**manifest, **receipts}
    made = [known[task.shard] for task in plan.tasks if task.shard in known]
    with ThreadPoolExecutor(num_threads) as pool:
        for bad_shard in pool.map(partial(_bad_shard, folder.path, plan, deep_check), made):
            bad += bad_shard
            on_shard()
    return Audit(len(made), bad)


def num_shards(folder: ShardFolder) -> int:
    """Return how many shards a folder's receipts or manifest promise."""
    return len(list((folder.path / RECEIPTS).glob("*.json")))


def move_aside(folder: ShardFolder, found: Bad) -> Path | None:
    """Put a bad file out of the way, so that the stage makes exactly that again.

    Returns:
        Where it lies now; None where it is missing.

    Raises:
        ShardError: the file system refuses.
    """
    aside = folder.path / ASIDE
    atomic.make_folder(aside)
    target = aside / found.path.name
    number = 1
    while target.exists():
        number += 1
        target = aside / f"{found.path.name}.{number}"
    # First what says that a shard is whole: killed in between, it only seems not made yet.
    receipt = folder.path / RECEIPTS / f"{found.shard}.json"
    proofs = [folder.path / MANIFEST, receipt] if found.shard else []
    try:
        for proof in proofs:
            if proof != found.path:
                proof.unlink(missing_ok=True)
        if not found.path.exists():
            return None
        plan = _listed_plan(folder) if found.path.name == PLAN else None
        if plan is not None:  # never without a plan: a start would make everything anew
            atomic.write_bytes(target, found.path.read_bytes())
            folder.restore(plan)
            return target
        found.path.replace(target)
        atomic.sync_folder(found.path.parent)
    except OSError as error:
        raise ShardError(f"{found.path}: cannot be moved aside: {error.strerror}") from error
    return target


def _listed_plan(folder: ShardFolder) -> Plan | None:
    """Return the plan that a whole manifest holds too."""
    try:
        return folder.parse_manifest()[0]
    except ManifestError:
        return None


def _strangers(folder: ShardFolder, plan: Plan) -> Iterator[Bad]:
    names = {task.shard for task in plan.tasks}
    for pattern in _SHARDS:
        for path in sorted(folder.path.glob(pattern)):
            if path.name not in names:
                yield Bad(path, "is no shard of the plan")
    for path in sorted((folder.path / RECEIPTS).glob("*.json")):
        if path.name.removesuffix(".json") not in names:
            yield Bad(path, "is the receipt of no shard of the plan")


def _read_manifest(folder: ShardFolder, plan: Plan) -> tuple[dict[str, Receipt], list[Bad]]:
    path = folder.path / MANIFEST
    if not path.exists():
        return {}, []
    try:
        found, receipts = folder.parse_manifest()
    except ManifestError as error:
        return {}, [Bad(path, _reason(error, path))]
    bad = [] if found == plan else [Bad(path, "holds another plan than plan.json")]
    return {receipt.shard: receipt for receipt in receipts}, bad


def _bad_receipt(
    folder: ShardFolder, task: Task, receipt: Receipt | None, listed: Receipt | None
) -> list[Bad]:
    path = folder.path / RECEIPTS / f"{task.shard}.json"
    if receipt is None and path.exists():
        return [Bad(path, "is damaged or was edited", task.shard)]
    if receipt is None and listed is not None:
        return [Bad(path, "is missing, though the manifest lists its shard", task.shard)]
    if receipt is not None and listed is not None and receipt != listed:
        manifest = folder.path / MANIFEST
        return [Bad(manifest, f"says something else of {task.shard} than its receipt")]
    return []


def _bad_shard(
    folder: Path, plan: Plan, deep_check: DeepCheck | None, receipt: Receipt
) -> list[Bad]:
    path = folder / receipt.shard
    try:
        reason = _compare(path, receipt)
        if reason is None and deep_check is not None:
            deep_check(plan, receipt)
    except PipelineError as error:
        reason = _reason(error, path)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    return [] if reason is None else [Bad(path, reason, receipt.shard)]


def _compare(path: Path, receipt: Receipt) -> str | None:
    """Say in which way a file's bytes are not those of its receipt."""
    if not path.is_file():
        return "is missing"
    size_bytes = path.stat().st_size
    if size_bytes != receipt.size_bytes:
        return f"{size_bytes} bytes, its receipt says {receipt.size_bytes}"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return None if digest.hexdigest() == receipt.sha256 else "its SHA-256 is not its receipt's"


def _reason(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]
