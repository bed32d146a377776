"""Workspaces in the midst of their stages: shards and runs that have no meaning."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines import runs, status
from pipelines.analysis.curves import Point
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, split_into_tasks
from pipelines.training.checkpoints import Kept, Store

VARIANTS = "variants/jpeg"
NUM_IMAGES, NUM_PROBLEMS = 60, 2
SUMMARY = {"num_steps": 30, "best_val_top1": 0.75, "default_best_val_top1": 0.5}
RESULTS = {
    "topology": {"top1": 0.7},
    "default": {"top1": 0.6},
    "gain": {"top1": 0.1},
    "mcnemar_p": 0.03,
}


def make_set(
    folder: Path,
    kind: str = "variants",
    version: int = 1,
    *,
    num_done: int = 6,
    is_finished: bool = False,
) -> list[Path]:
    """Write a plan of six shards of ten images and some of them; returns these ones' receipts.

    Each has the right size, no meaning, and one bad image.
    """
    tasks = split_into_tasks({"train": 40, "val": 20}, 6, "parquet")
    plan = Plan(kind, version, {"seed": 0}, {"num_problems": NUM_PROBLEMS}, tasks)
    shards, receipts = ShardFolder(folder), {}
    shards.publish(plan)
    for task in tasks[:num_done]:
        (folder / task.shard).write_bytes(bytes(9))
        bad = ((f"{task.shard}.png", "no image"),)
        receipts[task.shard] = Receipt(task.shard, len(task) - 1, 9, "0f" * 32, bad)
        shards.commit(plan, receipts[task.shard])
    if is_finished:
        shards.finish(plan, receipts)
    return [folder / "receipts" / f"{task.shard}.json" for task in tasks[:num_done]]


def make_run(
    workspace_dir: Path,
    name: str = "first",
    *,
    epochs: Sequence[tuple[str, float]] = (),
    is_trained: bool = False,
    default_kind: str = "trained",
    settings: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> Path:
    """Write a run of at most two epochs a model; returns its folder.

    Args:
        workspace_dir: where.
        name: of the run.
        epochs: model and epoch of each evaluation; behind them one that a kill cut short.
        is_trained: to its end.
        default_kind: "trained" or "pretrained".
        settings: further ones, of its fingerprint.
        changes: of other fields of the run.
    """
    folder = runs.folder_of(workspace_dir, name)
    run = runs.Run(
        fingerprint={"cache": {"node": "avg_pool"}, "epochs": 2, **settings},
        node="avg_pool",
        blocks=("FC",),
        block_number=1,
        classes=("ant", "bee"),
        branches=("original", "q010"),
        fusion="concat",
        default_kind=default_kind,
        features_dir="features",
        seed=0,
    )
    runs.write(workspace_dir, name, dataclasses.replace(run, **changes))
    lines = [json.dumps({"model": model, "epoch": epoch}) for model, epoch in epochs]
    (folder / runs.HISTORY).write_text("".join(f"{line}\n" for line in lines) + '{"model": "de')
    if is_trained:
        (folder / runs.SUMMARY).write_text("{}")
    return folder


def make_trained(workspace_dir: Path, name: str = "first", top1: float = 0.75, **run: Any) -> Path:
    """Write a run that is trained to its end; see `make_run`."""
    folder = make_run(workspace_dir, name, **run)
    (folder / runs.SUMMARY).write_text(json.dumps({**SUMMARY, "best_val_top1": top1}))
    for model in ("topology", "default"):
        Store.of(folder, model).save(Kept(30, 20, 20), {}, {})
    return folder


def make_old(folder: Path, worked_s: float) -> None:
    """Let all files of a run have been written at a time."""
    for path in folder.rglob("*"):
        os.utime(path, (worked_s, worked_s))


def write_history(folder: Path, **models: Sequence[Point]) -> None:
    """Write the evaluations of a run's models, as training does."""
    lines = [
        json.dumps({"model": model, "train_top1": None, **dataclasses.asdict(point)})
        for model, points in models.items()
        for point in points
    ]
    (folder / runs.HISTORY).write_text("".join(f"{line}\n" for line in lines))


def stages_of(workspace_dir: Path) -> dict[str, Any]:
    """Return what status says of each stage; it is one that JSON can hold."""
    found = status.run(workspace_dir, workspace_dir / "features")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (list(found), found["stage"]) == (["stage", "stages"], "status")
    return found["stages"]


def numbers(stage: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(stage[key] for key in ("state", "num_done", "num_total", "num_quarantined"))


def everything_in(folder: Path) -> dict[Path, Any]:
    """Give the bytes of all files, and when these and the folders were changed."""
    return {
        path: (path.lstat().st_mtime_ns, path.is_dir() or path.read_bytes())
        for path in folder.rglob("*")
    }
