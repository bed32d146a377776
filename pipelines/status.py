"""What is done in a workspace, who is at work on it, and what is left; nothing is written."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import runs
from pipelines.errors import ManifestError, PipelineError
from pipelines.storage import layout, locks, set_folders, variants
from pipelines.storage.manifest import MANIFEST, PLAN, RECEIPTS, ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task
from pipelines.storage.standing import Standing
from pipelines.training.history import TIMINGS

INDEX_DIR = "index"


def run(workspace_dir: Path, features_dir: Path) -> dict[str, Any]:
    """Look at what every stage left on disk, also while stages run.

    Args:
        workspace_dir: the workspace.
        features_dir: the folder of the caches.

    Returns:
        The summary: stage; stages: by "compress", "check images" (for variants that are made on
        the fly), the same with " control" behind it for the control set, "extract <node>" for each
        cache, "train-tail <run>" and "eval <run>" for each run: state ("not started", "running",
        "stopped", "done", or "diverged" and "damaged", with the problem in words), num_done,
        num_total (images in shards that are whole; epochs of both models, of which there may be
        fewer in the end; evaluations; None where that is not known), num_quarantined (None where
        there can be none), holders: share, host, pid, since (unix time), seconds, silent_s,
        num_done, rate (a second) and its unit, None for what is not known.
    """
    stages = _of_sets(workspace_dir)
    for path in sorted(features_dir.glob("*/")):
        if _is_begun(path):
            found = _of_shards(path, "features", layout.FORMAT_VERSION, True)
            stages[f"extract {path.name}"] = found
    for path in sorted((workspace_dir / "runs").glob("*/")):
        if runs.is_run(path) or _at_work(path):
            stages.update(_of_run(workspace_dir, path))
    return {"stage": "status", "stages": stages}


@dataclass(frozen=True)
class _Progress:
    """How far a stage is.

    Attributes:
        num_done, num_total, num_quarantined: as in the summary.
        is_begun: there is something of it.
        is_whole: nothing is left to do.
        rate: images a second since some time, where nobody notes it.
    """

    num_done: int | None = None
    num_total: int | None = None
    num_quarantined: int | None = None
    is_begun: bool = False
    is_whole: bool = False
    rate: Callable[[float], float | None] = lambda since: None


def _of_sets(workspace_dir: Path) -> dict[str, dict[str, Any]]:
    """Say how far the sets are that are begun, and that of `compress` in any case."""
    version, folders = variants.FORMAT_VERSION, {}
    for name in set_folders.SETS:
        which = "" if name == set_folders.JPEG else f" {name}"
        folders[f"compress{which}"] = workspace_dir / set_folders.stored(name)
        folders[f"check images{which}"] = workspace_dir / set_folders.listed(name)
    begun = {stage: path for stage, path in folders.items() if _is_begun(path)}
    # An index alone is the start of a set, of whichever.
    has_index_alone = not begun and _has(workspace_dir, [INDEX_DIR])
    shown = {"compress": folders["compress"], **begun}
    return {
        stage: _of_shards(path, "variants", version, stage in begun or has_index_alone)
        for stage, path in shown.items()
    }


def _is_begun(folder: Path) -> bool:
    """Tell whether a folder holds something of a stage, or somebody is at work in it."""
    return _has(folder, [PLAN, MANIFEST, RECEIPTS]) or bool(_at_work(folder))


def _has(folder: Path, names: Sequence[str]) -> bool:
    """Tell whether one of these is in a folder, or cannot be looked for."""
    try:
        return any((folder / name).exists() for name in names)
    except OSError:  # what it is will be said where it is read
        return True


def _at_work(folder: Path) -> list[Standing]:
    """List the locks of those who write in a folder; none where it cannot be read."""
    try:
        return [lock for lock in locks.standing(folder) if lock.share != "read"]
    except PipelineError:
        return []


def _entry(
    folder: Path, at_work: Sequence[Standing], look: Callable[[], _Progress]
) -> dict[str, Any]:
    """Say how far the stage of a folder is, whatever `look` meets there."""
    more = {}
    try:
        progress = look()
        state = "running" if at_work else "stopped" if progress.is_begun else "not started"
        if progress.is_whole and not at_work:
            state = "done"
    except (PipelineError, OSError) as error:
        progress, state, more = _Progress(), "damaged", {"problem": str(error)}
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        progress, state, more = _Progress(), "damaged", {"problem": f"{folder}: damaged: {error!r}"}
    return {
        "state": state,
        "num_done": progress.num_done,
        "num_total": progress.num_total,
        "num_quarantined": progress.num_quarantined,
        "holders": [_holder(lock, progress, len(at_work) == 1) for lock in at_work],
        **more,
    }


def _holder(lock: Standing, progress: _Progress, is_alone: bool) -> dict[str, Any]:
    """Say who holds a lock, since when, and how fast it is; whose the receipts are, none says."""
    holder, note = lock.holder, lock.note or {}
    since, rate = holder.since if holder else None, _number(note.get("rate"))
    if rate is None and since is not None and is_alone:
        rate = progress.rate(since)
    unit, num_done = note.get("unit"), _number(note.get("num_done"))
    return {
        "share": lock.share,
        "host": holder.host if holder else None,
        "pid": holder.pid if holder else None,
        "since": since,
        "seconds": None if since is None else round(max(0.0, time.time() - since), 1),
        "silent_s": round(lock.silent_s, 1),
        "rate": None if rate is None else round(rate, 3),
        "num_done": None if num_done is None else int(num_done),
        "unit": unit if isinstance(unit, str) else "image",
    }


def _number(value: object) -> float | None:
    """Return a number that a note holds; None for anything else."""
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _of_shards(path: Path, kind: str, newest_version: int, is_begun: bool) -> dict[str, Any]:
    """Say how far the shards of a folder are."""

    def look() -> _Progress:
        folder = ShardFolder(path)
        plan = folder.read_plan(kind, newest_version)
        if plan is None:
            return _Progress(num_done=0, num_quarantined=0, is_begun=is_begun)
        receipts, is_finished = _receipts(folder, plan)
        done = [task for task in plan.tasks if task.shard in receipts]
        left_out = sum(len(receipt.quarantined) for receipt in receipts.values())
        return _Progress(
            num_done=sum(map(len, done)),
            num_total=sum(map(len, plan.tasks)),
            num_quarantined=left_out + int(plan.details.get("num_problems", 0)),
            is_begun=True,
            is_whole=is_finished and len(done) == len(plan.tasks),
            rate=lambda since: _rate(folder, done, since),
        )

    return _entry(path, _at_work(path), look)


def _receipts(folder: ShardFolder, plan: Plan) -> tuple[Mapping[str, Receipt], bool]:
    """Return the receipts that hold, out of the manifest where there is one, and whether it is."""
    try:
        listed, receipts = folder.parse_manifest()
    except ManifestError:
        listed, receipts = None, []
    if listed != plan:
        return folder.receipts(plan), False
    return {r.shard: r for r in receipts if folder.size_of(r.shard) == r.size_bytes}, True


def _rate(folder: ShardFolder, done: Sequence[Task], since: float) -> float | None:
    """Count the images a second in shards that were made since then; None where none was."""
    num_images, last = 0, since
    for task in done:
        with contextlib.suppress(OSError):  # gone meanwhile
            made = (folder.path / RECEIPTS / f"{task.shard}.json").stat().st_mtime
            if made > since:
                num_images, last = num_images + len(task), max(last, made)
    return num_images / (last - since) if num_images else None


def _of_run(workspace_dir: Path, run_dir: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Say how far training and evaluation of a run are, which hold the same lock."""
    is_trained = _has(run_dir, [runs.RUN]) and _has(run_dir, [runs.SUMMARY])
    at_work = _at_work(run_dir)

    def look_at_training() -> _Progress:
        if not (run_dir / runs.RUN).exists():
            return _Progress(num_done=0, is_begun=True)
        described = runs.read(workspace_dir, run_dir.name)
        num_done = sum(int(epoch) for epoch in _epochs(run_dir / runs.HISTORY).values())
        num_models = 1 if described.default_kind == "pretrained" else 2
        most = num_models * int(described.fingerprint["epochs"])
        num_total = num_done if is_trained else most
        rate = partial(_training_rate, run_dir / TIMINGS)
        return _Progress(num_done, num_total, None, True, is_trained, rate)

    def look_at_results() -> _Progress:
        is_judged = any(run_dir.glob("results*.json"))
        is_begun = any(run_dir.glob("predictions*.parquet"))
        return _Progress(int(is_judged), 1, None, is_begun, is_judged)

    trainers, judges = ([], at_work) if is_trained else (at_work, [])
    entry = _entry(run_dir, trainers, look_at_training)
    if entry["state"] == "stopped":
        with contextlib.suppress(PipelineError, KeyError, TypeError):
            reason = runs.diverged(run_dir)
            entry |= {"state": "diverged", "problem": reason} if reason else {}
    yield f"train-tail {run_dir.name}", entry
    yield f"eval {run_dir.name}", _entry(run_dir, judges, look_at_results)


def _training_rate(path: Path, since: float) -> float | None:
    """Return the images a second up to the last evaluation, if it was since then."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # it is only a hint
        last = json.loads(path.read_text(encoding="utf-8").split("\n")[-2])
        return _number(last["images_per_s"]) or None if last["time"] >= since else None
    return None


def _epochs(path: Path) -> dict[str, float]:
    """Return how many epochs of each model lie behind its last evaluation."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = map(json.loads, text.split("\n")[:-1])  # what a kill cut short has no end of line
        return {line["model"]: float(line["epoch"]) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path}: damaged: {error!r}; delete the run's folder and train it again"
        ) from error
