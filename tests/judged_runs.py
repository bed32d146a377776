"""Results and predictions as eval leaves them behind, computed from made-up scores."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.analysis import metrics
from pipelines.reporting import results
from pipelines.storage import parquet

ORIGINAL = "original"
_Z = 1.959964


@dataclass(frozen=True)
class Made:
    """Scores of both models over some images.

    Attributes:
        ids: names.
        labels: int32 (images,).
        branches: names, original first.
        default: float32 probabilities (images, branches, classes).
        topology: float32 probabilities (images, classes).
    """

    ids: Sequence[str]
    labels: np.ndarray
    branches: Sequence[str]
    default: np.ndarray
    topology: np.ndarray
    extra: Mapping[str, Any] = field(default_factory=dict)


def make_scores(
    ids: Sequence[str],
    num_classes: int,
    branches: Sequence[str],
    *,
    gain: float = 0.3,
    strength: float = 1.5,
    spread: float = 0.5,
    seed: int = 0,
    labels: np.ndarray | None = None,
) -> Made:
    """Draw scores in which the topology is better by `gain` standard deviations."""
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, num_classes, len(ids))
    labels = np.asarray(labels, np.int32)
    image = rng.normal(0, 1, (len(ids), 1, num_classes))
    quality = np.linspace(0.7, 1.0, len(branches))
    quality[0] = 1.0
    own = np.eye(num_classes)[labels][:, None, :] * strength
    logits = image + own * quality[None, :, None]
    logits = logits + rng.normal(0, spread, (len(ids), len(branches), num_classes))
    topology = logits.mean(axis=1) + gain * np.eye(num_classes)[labels]
    return Made(ids, labels, branches, _softmax(logits), _softmax(topology))


def write(run_dir: Path, made: Made, *, split: str = "test", **changes: Any) -> dict[str, Any]:
    """Write results and predictions of a run; returns the results."""
    found = {**_results(run_dir.name, made, split), **changes}
    results.path_of(run_dir, split).write_text(json.dumps(found))
    parquet.write_table(results.predictions_path_of(run_dir, split), table(made))
    return found


def table(made: Made) -> pa.Table:
    """Return the predictions as eval writes them."""
    topology_ranks, ranks = _ranks(made)
    own = np.arange(len(made.labels)), made.labels
    columns: dict[str, Any] = {
        "id": pa.array(made.ids, pa.string()),
        "label": pa.array(made.labels, pa.int32()),
        "type": pa.array(_types(topology_ranks, ranks[:, 0]).tolist(), pa.string()),
        "topology_rank": pa.array(topology_ranks, pa.int64()),
        "topology_confidence": pa.array(made.topology[own].astype(np.float32)),
    }
    for model, scores in (("topology", made.topology), ("default", made.default[:, 0])):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        width = best.shape[1]
        offsets = pa.array(np.arange(0, best.size + 1, width, dtype=np.int32))
        chosen = np.take_along_axis(scores, best, axis=1).astype(np.float32)
        columns[f"{model}_top5"] = pa.ListArray.from_arrays(
            offsets, pa.array(best.ravel().astype(np.int32))
        )
        columns[f"{model}_top5_confidence"] = pa.ListArray.from_arrays(
            offsets, pa.array(chosen.ravel())
        )
    for i, name in enumerate(made.branches):
        columns[f"default_{name}_rank"] = pa.array(ranks[:, i], pa.int64())
        columns[f"default_{name}_confidence"] = pa.array(made.default[:, i][own].astype(np.float32))
    return pa.table(columns)


def _results(run: str, made: Made, split: str) -> dict[str, Any]:
    topology_ranks, ranks = _ranks(made)
    num_images, num_classes = made.topology.shape
    names = list(made.extra.get("classes", [f"class {i}" for i in range(num_classes)]))
    compared = {"default": ranks[:, 0], "topology": topology_ranks}
    compared |= {f"branch_{name}": ranks[:, i] for i, name in enumerate(made.branches) if i}
    mean = metrics.label_ranks(np.log(made.default).mean(axis=1), made.labels)
    compared["mean_logits"] = mean
    right = ranks[:, 0] == 0
    oracle = float((ranks == 0).any(axis=1).mean())
    comparators = {
        name: _comparator(name, own, right, oracle, num_classes) for name, own in compared.items()
    }
    counts = metrics.change_counts(right, topology_ranks == 0)
    gain = (counts.type_a - counts.type_b) / num_images
    p = metrics.mcnemar_exact_p(counts.type_a, counts.type_b)
    kind = "chance" if p >= 0.05 else "better" if gain > 0 else "worse"
    verdict = {
        "chance": "The difference could be chance: no gain or loss is shown on these images.",
        "better": "The topology is better than the default model on these images.",
        "worse": "The topology is worse than the default model on these images.",
    }[kind]
    against = _comparator("topology", topology_ranks, mean == 0, oracle, num_classes)
    return {
        "stage": "eval",
        "run": run,
        "split": split,
        "seed": 0,
        "node": "avg_pool",
        "protocol": {"test": "honest", "val": "thesis"}[split],
        "blocks": ["FC"],
        "num_images": num_images,
        "num_classes": num_classes,
        "classes": names if num_classes <= 1000 else None,
        "default_kind": "trained",
        "fusion": "concat",
        "default": _accuracy(ranks[:, 0], num_classes),
        "topology": _accuracy(topology_ranks, num_classes),
        "branches": {
            name: _accuracy(ranks[:, i], num_classes) for i, name in enumerate(made.branches)
        },
        "oracle_top1": oracle,
        "oracle": {"top1": oracle, "top5": None, "control_top1": None, "control_top5": None},
        "type_a": counts.type_a,
        "type_b": counts.type_b,
        "type_c": counts.type_c,
        "mcnemar_p": p,
        "gain": {"top1": gain, "ci95": _interval(counts, num_images)},
        "comparators": comparators,
        "against": {
            "mean_logits": {
                "difference": against["difference"],
                "ci95": against["difference_ci95"],
                "mcnemar_p": against["mcnemar_p"],
                "holm_p": against["holm_p"],
            }
        },
        "min_detectable_gain": 0.061,
        "verdict": verdict,
        "verdict_kind": kind,
        "averages": {
            model: {
                "balanced_accuracy": float((own == 0).mean()),
                "macro_accuracy": 0.9,
                "macro_f1": 0.8,
                "roc_auc": None,
            }
            for model, own in (("default", ranks[:, 0]), ("topology", topology_ranks))
        },
        "calibration": {
            "default": _calibration(made.default[:, 0], made.labels),
            "topology": _calibration(made.topology, made.labels),
        },
        "per_class": _per_class(made.labels, right, topology_ranks == 0, names),
        "confusions": _confusions(made, num_classes),
        "leans_on": {name: round(0.021 - 0.003 * i, 6) for i, name in enumerate(made.branches[1:])},
        "checkpoints_sha256": {"topology": "0f" * 32, "default": "f0" * 32},
        "num_resamples": 10_000,
        "command": ["bottleneck", "eval", "--run", run],
        "folds": None,
    }


def _comparator(
    name: str, own: np.ndarray, right: np.ndarray, oracle: float, num_classes: int
) -> dict[str, Any]:
    counts = metrics.change_counts(right, own == 0)
    num_images, top1, before = len(own), float((own == 0).mean()), float(right.mean())
    p = metrics.mcnemar_exact_p(counts.type_a, counts.type_b)
    is_default = name == "default"
    return {
        **_accuracy(own, num_classes),
        "ci95": _wilson(top1, num_images),
        "difference": None if is_default else (counts.type_a - counts.type_b) / num_images,
        "difference_ci95": None if is_default else _interval(counts, num_images),
        "gained": counts.type_a,
        "lost": counts.type_b,
        "mcnemar_p": None if is_default else p,
        "holm_p": None if is_default else min(1.0, 3 * p),
        "headroom_share": (top1 - before) / (oracle - before) if oracle > before else None,
        "run": None,
        "text": "the network on the original alone" if is_default else "",
    }


def _interval(counts: metrics.ChangeCounts, num_images: int) -> list[float]:
    found = metrics.gain_interval(
        counts.type_a, counts.type_b, num_images, seed=0, num_resamples=500
    )
    return list(found)


def _wilson(share: float, num: int) -> list[float]:
    middle = (share + _Z**2 / (2 * num)) / (1 + _Z**2 / num)
    half = _Z / (1 + _Z**2 / num) * np.sqrt(share * (1 - share) / num + _Z**2 / (4 * num**2))
    return [float(max(0, middle - half)), float(min(1, middle + half))]


def _accuracy(ranks: np.ndarray, num_classes: int) -> dict[str, float | None]:
    return {"top1": float((ranks == 0).mean()), "top5": metrics.top5_or_none(ranks, num_classes)}


def _calibration(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    sure, is_right = scores.max(axis=1), scores.argmax(axis=1) == labels
    edges = np.linspace(0, 1, 16)
    bins, ece = [], 0.0
    for low, high in itertools.pairwise(edges):
        inside = (sure > low) & (sure <= high)
        num = int(inside.sum())
        told = (float(sure[inside].mean()), float(is_right[inside].mean())) if num else (None, None)
        ece += abs(told[0] - told[1]) * num / len(labels) if num else 0
        bins.append(
            {
                "low": float(low),
                "high": float(high),
                "num_images": num,
                "confidence": told[0],
                "accuracy": told[1],
            }
        )
    return {"ece": ece, "bins": bins}


def _per_class(
    labels: np.ndarray, right: np.ndarray, now: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    for number, name in enumerate(names):
        mine = labels == number
        if mine.any():
            before, after = float(right[mine].mean()), float(now[mine].mean())
            told = {"default": before, "topology": after, "change": after - before}
        else:
            told = {"default": None, "topology": None, "change": None}
        rows.append({"class": name, "num_images": int(mine.sum()), **told})
    return rows


def _confusions(made: Made, num_classes: int) -> dict[str, Any]:
    pairs = []
    for scores in (made.default[:, 0], made.topology):
        taken = np.zeros((num_classes, num_classes), np.int64)
        np.add.at(taken, (made.labels, scores.argmax(axis=1)), 1)
        np.fill_diagonal(taken, 0)
        pairs.append(taken)
    before, after = pairs
    change = after - before
    found: dict[str, Any] = {"gained": [], "lost": []}
    for kind, sign in (("gained", 1), ("lost", -1)):
        order = np.argsort(sign * change, axis=None, kind="stable")[:20]
        for true, predicted in zip(*np.unravel_index(order, change.shape), strict=True):
            if sign * change[true, predicted] < 0:
                told = int(before[true, predicted]), int(after[true, predicted])
                found[kind].append(
                    {
                        "true": int(true),
                        "predicted": int(predicted),
                        "default": told[0],
                        "topology": told[1],
                        "change": told[1] - told[0],
                    }
                )
    return found


def _ranks(made: Made) -> tuple[np.ndarray, np.ndarray]:
    branches = range(len(made.branches))
    ranks = [metrics.label_ranks(made.default[:, i], made.labels) for i in branches]
    return metrics.label_ranks(made.topology, made.labels), np.stack(ranks, axis=1)


def _types(topology: np.ndarray, original: np.ndarray) -> np.ndarray:
    now, before = topology == 0, original == 0
    return np.where(now & ~before, "A", np.where(before & ~now, "B", "C"))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
