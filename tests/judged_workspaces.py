"""Workspaces with judged runs on real photographs; no network is trained or loaded for them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import judged_runs
import numpy as np
import pyarrow.parquet as pq
from begun import make_trained, write_history
from caches import make_cache
from drawn import points
from html_pages import parse

from pipelines import compress, report
from pipelines.config import CompressConfig, ReportConfig
from pipelines.execution import inline
from pipelines.progress import Silent
from pipelines.storage import content
from pipelines.storage.manifest import ShardFolder

BRANCHES = ("original", "q010", "q050", "q090")
CLASSES = ("brick", "coffee", "grass", "gravel")
COMPRESS = CompressConfig(images="images.csv", qualities=(10, 50, 90), shards=3)
_NETWORK: Any = SimpleNamespace(name="tiny", weights="none", weights_sha256="0f" * 32)


def make(workspace: Path, photos: Path, names: tuple[str, ...] = ("first", "second")) -> Path:
    """Compress photographs and judge a chain of runs on all images of the index."""
    workspace.mkdir(parents=True, exist_ok=True)
    shutil.copytree(photos, workspace / "photos")
    _list_images(workspace)
    (workspace / "bottleneck.toml").write_text('[compress]\nimages = "images.csv"\n')
    compress.run(workspace, COMPRESS, 0, Silent(), inline.open_crew)
    rows = {"train": 10, "val": 5, "test": 5}
    blocks = ("mixed_10", "FC")
    for place, _ in enumerate(names):
        folder = workspace / "features" / ("avg_pool" if place == 0 else f"node_{place}")
        if not folder.exists():
            make_cache(folder, _NETWORK, (8,), branches=BRANCHES, rows=rows, classes=CLASSES)
    folder = ShardFolder(workspace / "variants" / "jpeg")
    plan, receipts = folder.read_manifest("variants", 1, "")
    cache = {
        "variants": plan.fingerprint,
        content.KEY: content.digest_of(receipts),
        "protocol": {
            "name": "raw",
            "size": 32,
            "crop_fraction": 1.0,
            "interpolation": "bicubic",
            "scaling": "raw",
            "keeps_aspect": False,
            "library_version": "13",
        },
    }
    for place, name in enumerate(names):
        parent = {"run": names[place - 1]} if place else None
        folder = make_trained(
            workspace,
            name,
            settings={"cache": cache, "start_from": parent, "learning_rate": 0.1 / (place + 1)},
            node="avg_pool" if place == 0 else f"node_{place}",
            blocks=blocks[1 - min(place, 1) :],
            classes=CLASSES,
            branches=BRANCHES,
        )
        write_history(folder, topology=points(6, seed=place), default=points(5, seed=9))
        judge(workspace, name, seed=place)
    return workspace


def _list_images(workspace: Path) -> None:
    """Put most images into test, so that some are gained and some lost."""
    lines = ["path,label,split"]
    for path in sorted((workspace / "photos").glob("*/*")):
        split = {"0": "train", "1": "train", "2": "val"}.get(path.stem[-1], "test")
        lines.append(f"{path.relative_to(workspace).as_posix()},{path.parent.name},{split}")
    (workspace / "images.csv").write_text("\n".join(lines) + "\n")


def judge(workspace: Path, name: str, *, split: str = "test", **changes: Any) -> dict[str, Any]:
    """Write made-up results of a run on the images of one split."""
    gain, seed = changes.pop("gain", 0.0), changes.pop("seed", 0)
    table = pq.read_table(workspace / "index" / "images.parquet").to_pydict()
    rows = zip(table["id"], table["label"], table["split"], strict=True)
    chosen = [(image, label) for image, label, its in rows if its == split]
    labels = np.array([label for _, label in chosen])
    described = json.loads((workspace / "runs" / name / "run.json").read_text())
    classes = described["classes"]
    made = judged_runs.make_scores(
        [image for image, _ in chosen],
        len(classes),
        described["branches"],
        gain=gain,
        strength=0.6,
        spread=1.2,
        seed=seed,
        labels=labels,
    )
    made = dataclasses.replace(made, extra={"classes": classes})
    told = {"node": described["node"], "blocks": described["blocks"], **changes}
    return judged_runs.write(workspace / "runs" / name, made, split=split, **told)


def rename_classes(workspace: Path, name: str, classes: tuple[str, ...]) -> None:
    """Give the classes of a run other names, and judge it again."""
    path = workspace / "runs" / name / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": list(classes)}))
    judge(workspace, name)


def write(workspace, *names, **settings):
    """Write a report; gives the summary, the page's text, and the page read by its elements."""
    summary = report.run(workspace, ReportConfig(**settings), names, Silent())
    html = Path(summary["to"]).read_text(encoding="utf-8")
    return summary, html, parse(html)
