"""Stage 4: judge the topology of a run against its default model, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import runs
from pipelines.analysis import metrics
from pipelines.config import EvalConfig
from pipelines.errors import ConfigError, ManifestError
from pipelines.execution import devices
from pipelines.networks import models
from pipelines.networks.topology import Design
from pipelines.progress import Progress
from pipelines.storage import atomic, locks, parquet
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.variants import ORIGINAL
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store
from pipelines.training.step import compile_logits

_PROTOCOLS = {"test": "honest", "val": "thesis"}  # the thesis reports on what it selects on
_BATCH_SIZE = 32


@dataclass(frozen=True)
class _Ranks:
    """How each image was ranked; 0 is right.

    Attributes:
        ids: (images,) names.
        labels: (images,) int32.
        topology: (images,) int64, rank of the true label.
        default: (images, branches) int64, the default model's rank on each branch alone.
    """

    ids: list[str]
    labels: np.ndarray
    topology: np.ndarray
    default: np.ndarray


def run(workspace_dir: Path, config: EvalConfig, seed: int, progress: Progress) -> dict[str, Any]:
    """Evaluate a run on one split, or return the results that are there for the same checkpoints.

    Writes results.json and predictions.parquet to the run's folder; those of val get "-val" in
    their names.

    Returns:
        The results: stage, run, node, blocks, split, protocol, seed, num_images, default_kind,
        default, topology, branches, oracle_top1, type_a, type_b, type_c, mcnemar_p, gain, and the
        SHA-256 of the judged checkpoints.

    Raises:
        TrainingError: no such run, or it is not finished.
        ManifestError: its cache is gone or was made anew with other settings.
        ConfigError: the split has no images.
    """
    name = config.run or runs.latest(workspace_dir)
    described = runs.read(workspace_dir, name)
    run_dir = runs.folder_of(workspace_dir, name)
    runs.check_finished(workspace_dir, name)
    suffix = "" if config.split == "test" else f"-{config.split}"
    results_path = run_dir / f"results{suffix}.json"
    predictions_path = run_dir / f"predictions{suffix}.parquet"
    judged = {
        model: checkpoints.sha256(Store.of(run_dir, model).best)
        for model in ("topology", "default")
    }
    if results_path.exists() and predictions_path.exists():
        results = atomic.read_json(results_path)
        if results.get("checkpoints_sha256") == judged and results["seed"] == seed:
            progress.say(f"nothing to do: run {name} is judged")
            return results
    folder = find_folder(workspace_dir / described.features_dir, described.node)
    with locks.hold(run_dir) as lock:
        with locks.reading(folder) as marks:
            cache = _open_cache(folder, described)
            ranks = _rank(workspace_dir, name, described, cache, config.split, progress)
            locks.check_all(marks)
        head = {"stage": "eval", "run": name, "split": config.split, "seed": seed}
        results = {**head, **_results(described, ranks, config.split, seed)}
        results["checkpoints_sha256"] = judged
        table = _predictions(described, ranks)
        lock.check()
        parquet.write_table(predictions_path, table)
        lock.check()
        atomic.write_json(results_path, results)
    return results


def _open_cache(folder: Path, described: runs.Run) -> FeatureCache:
    cache = FeatureCache(folder)
    if cache.fingerprint != described.fingerprint["cache"]:
        raise ManifestError(
            f"{cache.path}: made anew with other settings since this run was trained; train again"
        )
    return cache


def _rank(
    workspace_dir: Path,
    name: str,
    described: runs.Run,
    cache: FeatureCache,
    split: str,
    progress: Progress,
) -> _Ranks:
    """Run both models over the split."""
    run_dir = runs.folder_of(workspace_dir, name)
    if not cache.num_rows(split):
        raise ConfigError(f"{cache.path}: no images in split {split}; choose another with --split")
    devices.configure()
    devices.make_deterministic()
    branches = cache.choose_branches([*described.branches, ORIGINAL])
    backbone = models.load_backbone(cache, workspace_dir)
    logits = {}
    joined = Design(described.branches, described.fusion, gradients="all")
    for model, design in (("topology", joined), ("default", Design((ORIGINAL,)))):
        built = models.build(backbone, cache, design, described.seed)
        weights, _ = checkpoints.load(Store.of(run_dir, model).best)
        built.assign(weights)
        logits[model] = compile_logits(built)
    reader = cache.split(split, branches, 0)
    columns = [branches.index(name) for name in described.branches]
    ids, labels, topology, default = [], [], [], []
    progress.start("eval", reader.num_rows, "image")
    for batch in reader.in_order(_BATCH_SIZE):
        ids += batch.ids or []
        labels.append(batch.labels)
        joined = logits["topology"](np.ascontiguousarray(batch.features[:, columns])).numpy()
        topology.append(metrics.label_ranks(joined, batch.labels))
        default.append(
            np.stack(list(_branch_ranks(logits["default"], batch.features, batch.labels)), axis=1)
        )
        progress.advance(len(batch.labels))
    return _Ranks(ids, np.concatenate(labels), np.concatenate(topology), np.concatenate(default))


def _branch_ranks(logits_of: Any, features: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    for i in range(features.shape[1]):
        alone = logits_of(np.ascontiguousarray(features[:, i : i + 1])).numpy()
        yield metrics.label_ranks(alone, labels)


def _results(described: runs.Run, ranks: _Ranks, split: str, seed: int) -> dict[str, Any]:
    branches = _branches(described)
    original = ranks.default[:, branches.index(ORIGINAL)]
    counts = metrics.change_counts(original == 0, ranks.topology == 0)
    num_images = len(ranks.labels)
    low, high = metrics.gain_interval(counts.type_a, counts.type_b, num_images, seed=seed)

    def accuracy(of: np.ndarray) -> dict[str, float | None]:
        return {
            "top1": metrics.top_k_accuracy(of, 1),
            "top5": metrics.top5_or_none(of, len(described.classes)),
        }

    return {
        "node": described.node,
        "blocks": list(described.blocks),
        "protocol": _PROTOCOLS[split],
        "num_images": num_images,
        "default_kind": described.default_kind,
        "default": accuracy(original),
        "topology": accuracy(ranks.topology),
        "branches": {name: accuracy(ranks.default[:, i]) for i, name in enumerate(branches)},
        "oracle_top1": metrics.oracle_accuracy(ranks.default == 0),
        "type_a": counts.type_a,
        "type_b": counts.type_b,
        "type_c": counts.type_c,
        "mcnemar_p": metrics.mcnemar_exact_p(counts.type_a, counts.type_b),
        "gain": {
            "top1": (counts.type_a - counts.type_b) / num_images,
            "ci95": [low, high],
        },
    }


def _branches(described: runs.Run) -> list[str]:
    names = list(described.branches)
    return names if ORIGINAL in names else [ORIGINAL, *names]


def _predictions(described: runs.Run, ranks: _Ranks) -> pa.Table:
    """One row an image: the true label's rank (0 is right) under each model, and its type."""
    branches = _branches(described)
    original = ranks.default[:, branches.index(ORIGINAL)] == 0
    topology = ranks.topology == 0
    types = np.where(topology & ~original, "A", np.where(original & ~topology, "B", "C"))
    return pa.table(
        {
            "id": pa.array(ranks.ids, pa.string()),
            "label": pa.array(ranks.labels, pa.int32()),
            "type": pa.array(types.tolist(), pa.string()),
            "topology_rank": pa.array(ranks.topology, pa.int64()),
            **{
                f"default_{name}_rank": pa.array(ranks.default[:, i], pa.int64())
                for i, name in enumerate(branches)
            },
        }
    )
