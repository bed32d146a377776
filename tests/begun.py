"""Workspaces in the midst of their stages: shards and runs that have no meaning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import runs, status
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, split_into_tasks

VARIANTS = "variants/jpeg"
NUM_IMAGES, NUM_PROBLEMS = 60, 2


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
) -> Path:
    """Write a run of at most two epochs a model; returns its folder.

    Args:
        workspace_dir: where.
        name: of the run.
        epochs: model and epoch of each evaluation; behind them one that a kill cut short.
        is_trained: to its end.
        default_kind: "trained" or "pretrained".
    """
    folder = runs.folder_of(workspace_dir, name)
    run = runs.Run(
        fingerprint={"cache": {"node": "avg_pool"}, "epochs": 2},
        node="avg_pool",
        blocks=("FC",),
        block_number=1,
        classes=("ant", "bee"),
        branches=("original", "q010"),
        default_kind=default_kind,
        features_dir="features",
        seed=0,
    )
    runs.write(workspace_dir, name, run)
    lines = [json.dumps({"model": model, "epoch": epoch}) for model, epoch in epochs]
    (folder / runs.HISTORY).write_text("".join(f"{line}\n" for line in lines) + '{"model": "de')
    if is_trained:
        (folder / runs.SUMMARY).write_text("{}")
    return folder


def stages_of(workspace_dir: Path) -> dict[str, Any]:
    """Return what status says of each stage; it is one that JSON can hold."""
    found = status.run(workspace_dir, workspace_dir / "features")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (list(found), found["stage"]) == (["stage", "stages"], "status")
    return found["stages"]


def numbers(stage: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(stage[key] for key in ("state", "num_done", "num_total", "num_quarantined"))
