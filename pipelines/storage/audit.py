"""Whether a stage's folder still holds what was written: every file against its receipt.

A shard is bad when its bytes are not those of its receipt. Where a set is finished, plan, receipts
and manifest must agree, and no other shard may lie beside those of the plan. What the manifest
holds too, the plan and each receipt, is written again from it; a shard is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.errors import ManifestError, PipelineError, ShardError
from pipelines.storage import atomic
from pipelines.storage.manifest import (
    CUT_CHECK,
    MANIFEST,
    PLAN,
    RECEIPTS,
    ForeignError,
    ShardFolder,
)
from pipelines.storage.plan import Plan, Receipt, Task

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
        write_again: writes it as it was, where that is known.
    """

    path: Path
    reason: str
    shard: str | None = None
    is_ours: bool = True
    write_again: Callable[[], None] | None = None


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
    manifest = _read_manifest(folder, kind, newest_version)  # written after all receipts
    plan, bad = _read_plan(folder, kind, newest_version, manifest)
    if plan is None:
        return Audit(0, bad)
    bad += [*_strangers(folder, plan), *_bad_manifest(folder, plan, manifest)]
    found = {task.shard: folder.read_receipt(plan, task.shard) for task in plan.tasks}
    receipts = {shard: receipt for shard, receipt in found.items() if receipt is not None}
    listed = manifest.receipts if manifest.plan == plan else {}
    known = {**listed, **receipts}
    made = [known[task.shard] for task in plan.tasks if task.shard in known]
    bad_shards: dict[str, Bad] = {}
    with ThreadPoolExecutor(num_threads) as pool:
        for bad_shard in pool.map(partial(_bad_shard, folder.path, plan, deep_check), made):
            bad_shards.update((one.path.name, one) for one in bad_shard)
            on_shard()
    for task in plan.tasks:
        proof = listed.get(task.shard) if task.shard not in bad_shards else None
        bad += _bad_receipt(folder, plan, task, receipts.get(task.shard), proof)
    return Audit(len(made), [*bad, *bad_shards.values()])


def num_shards(folder: ShardFolder) -> int:
    """Return how many shards a folder's receipts, or its manifest, promise."""
    with contextlib.suppress(ManifestError):
        return len(folder.parse_manifest()[1])
    return len(list((folder.path / RECEIPTS).glob("*.json")))


def repair(folder: ShardFolder, found: Bad) -> str:
    """Put a bad file out of the way, and write it again, or let its stage make it again.

    Returns:
        What was done, in words.

    Raises:
        ShardError: the file system refuses.
    """
    # First what says that a shard is whole: killed in between, it only seems not made yet.
    receipt = folder.path / RECEIPTS / f"{found.shard}.json"
    proofs = [folder.path / MANIFEST, receipt] if found.shard else []
    is_there = found.path.exists()
    try:
        for proof in proofs:
            if proof != found.path:
                proof.unlink(missing_ok=True)
        if is_there:
            target = _free_name(folder.path / ASIDE, found.path.name)
            if found.write_again:  # it never is without a plan: a start would make everything anew
                atomic.write_bytes(target, found.path.read_bytes())
            else:
                found.path.replace(target)
                atomic.sync_folder(found.path.parent)
    except OSError as error:
        raise ShardError(f"{found.path}: cannot be moved aside: {error.strerror}") from error
    if found.write_again:
        found.write_again()
        return f"written again, as it was is in {ASIDE}/" if is_there else "written again"
    return f"moved to {ASIDE}/" if is_there else "to be made again"


def _free_name(folder: Path, name: str) -> Path:
    atomic.make_folder(folder)
    target, number = folder / name, 1
    while target.exists():
        number += 1
        target = folder / f"{name}.{number}"
    return target


@dataclass(frozen=True)
class _Manifest:
    """What manifest.json says; nothing where it is missing or damaged.

    Attributes:
        plan: that it holds.
        receipts: by shard.
        reason: why it is damaged, where it is.
    """

    plan: Plan | None
    receipts: dict[str, Receipt]
    reason: str = ""


def _read_manifest(folder: ShardFolder, kind: str, newest_version: int) -> _Manifest:
    path = folder.path / MANIFEST
    if not path.exists():
        return _Manifest(None, {})
    try:
        plan, receipts = folder.parse_manifest()
    except ManifestError as error:
        return _Manifest(None, {}, _reason(error, path))
    if plan.kind != kind or plan.format_version > newest_version:
        return _Manifest(None, {}, f"no manifest of {kind} that this program can read")
    return _Manifest(plan, {receipt.shard: receipt for receipt in receipts})


def _read_plan(
    folder: ShardFolder, kind: str, newest_version: int, manifest: _Manifest
) -> tuple[Plan | None, list[Bad]]:
    """Return the plan to audit by: the manifest's where plan.json is not what was written."""
    path, listed = folder.path / PLAN, manifest.plan
    again = partial(folder.restore, listed) if listed else None
    try:
        plan = folder.read_plan(kind, newest_version)
    except ForeignError as error:
        return None, [Bad(path, _reason(error, path), is_ours=False)]
    except ManifestError as error:
        return listed, [Bad(path, _reason(error, path), write_again=again)]
    if plan is None:
        is_lost = any((folder.path / RECEIPTS).glob("*.json"))
        return None, [Bad(path, "is missing")] if is_lost else []
    if listed not in (None, plan) and _num_proved(folder, listed) > _num_proved(folder, plan):
        return listed, [Bad(path, "is not the plan of these shards", write_again=again)]
    return plan, []


def _num_proved(folder: ShardFolder, plan: Plan) -> int:
    return sum(folder.read_receipt(plan, task.shard) is not None for task in plan.tasks)


def _strangers(folder: ShardFolder, plan: Plan) -> Iterator[Bad]:
    names = {task.shard for task in plan.tasks}
    for pattern in _SHARDS:
        for path in sorted(folder.path.glob(pattern)):
            if path.name not in names:
                yield Bad(path, "is no shard of the plan")
    for path in sorted((folder.path / RECEIPTS).glob("*.json")):
        if path.name.removesuffix(".json") not in names:
            yield Bad(path, "is the receipt of no shard of the plan")


def _bad_manifest(folder: ShardFolder, plan: Plan, manifest: _Manifest) -> list[Bad]:
    """Look at the manifest, and at what the check of the cut has left."""
    bad, path = [], folder.path / MANIFEST
    if manifest.reason:
        bad.append(Bad(path, manifest.reason))
    elif manifest.plan not in (None, plan):
        bad.append(Bad(path, "holds another plan than plan.json"))
    path = folder.path / CUT_CHECK
    if path.exists() and folder.read_cut_check() is None:
        bad.append(Bad(path, "is damaged or was edited"))
    return bad


def _bad_receipt(
    folder: ShardFolder, plan: Plan, task: Task, receipt: Receipt | None, listed: Receipt | None
) -> list[Bad]:
    """Look at a receipt; `listed` is what the manifest says of a shard that is whole."""
    path = folder.path / RECEIPTS / f"{task.shard}.json"
    if receipt is not None:
        if listed in (None, receipt):
            return []
        manifest = folder.path / MANIFEST
        return [Bad(manifest, f"says something else of {task.shard} than its receipt")]
    if path.exists():
        if folder.read_receipt(plan, task.shard):  # written since the audit began
            return []
        reason = "is damaged, was edited, or is of another shard or plan"
    elif listed:
        reason = "is missing, though the manifest lists its shard"
    else:
        return []
    if listed:
        return [Bad(path, reason, write_again=partial(folder.commit, plan, listed))]
    return [Bad(path, reason, task.shard)]


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
