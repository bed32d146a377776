"""The figures of a judging in folds: means over folds and seeds, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.analysis import comparisons, intervals, metrics
from pipelines.analysis.intervals import FoldDifference
from pipelines.analysis.naming import BRANCH, DEFAULT, TOPOLOGY, ordered
from pipelines.evaluation.figures import Asked
from pipelines.storage.variants import ORIGINAL


@dataclass(frozen=True)
class Judged:
    """What the models made of one fold.

    Attributes:
        seed: of its division.
        number: of the fold, counted from 1.
        ranks: int (images,) by comparator, the default model on single branches among them.
        oracle: int (images,), the best rank over the branches.
        control: the same over the control set's branches, where that took part.
        summary: further figures of the fold.
    """

    seed: int
    number: int
    ranks: Mapping[str, np.ndarray]
    oracle: np.ndarray
    control: np.ndarray | None
    summary: Mapping[str, Any]


def figures(folds: Sequence[Judged], asked: Asked) -> dict[str, Any]:
    """Return the results' figures; shares in 0..1, differences to the default model.

    Args:
        folds: of all seeds, by seed and then by number.
        asked: what the figures are of.
    """
    grid = _Grid(folds)
    num_classes = len(asked.classes)
    compared = _comparators(grid, asked)
    top5 = num_classes > 5
    oracle = grid.accuracy_of([one.oracle for one in folds], top5)
    controls = [one.control for one in folds if one.control is not None]
    if len(controls) == len(folds):
        of_control = grid.accuracy_of(controls, top5)
    else:
        of_control = dict.fromkeys(("top1", "top5"))
    oracle |= {f"control_{name}": value for name, value in of_control.items()}
    own = compared[TOPOLOGY]
    branches = {
        name: _accuracy(grid, DEFAULT if name == ORIGINAL else f"{BRANCH}{name}", top5)
        for name in asked.branches
    }
    return {
        "num_images": grid.num_images,
        "num_classes": num_classes,
        "default": _accuracy(grid, DEFAULT, top5),
        "topology": _accuracy(grid, TOPOLOGY, top5),
        "branches": branches,
        "oracle_top1": oracle["top1"],
        "oracle": oracle,
        "mcnemar_p": own["mcnemar_p"],
        "gain": {"top1": own["difference"], "ci95": own["difference_ci95"]},
        "comparators": compared,
        "against": _against(grid),
        "min_detectable_gain": grid.min_gain(),
        "top_k": {
            name: {str(k): grid.top_k(name, k) for k in asked.top_k} for name in (DEFAULT, TOPOLOGY)
        },
        "averages": {name: _averages(folds, name) for name in (DEFAULT, TOPOLOGY)},
        "leans_on": {
            name: float(np.mean([one.summary["leans_on"][name] for one in folds]))
            for name in folds[0].summary["leans_on"]
        },
        "folds": {
            "num_folds": grid.num_folds,
            "seeds": grid.seeds,
            "accuracies": {
                name: grid.values(name).tolist() for name in (DEFAULT, TOPOLOGY, *_others(grid))
            },
        },
    }


class _Grid:
    """Folds by seed and number."""

    def __init__(self, folds: Sequence[Judged]) -> None:
        self.folds = folds
        self.seeds = list(dict.fromkeys(one.seed for one in folds))
        self.num_folds = len(folds) // len(self.seeds)
        self.names = list(folds[0].ranks)
        self.num_images = sum(len(one.oracle) for one in self.of_seed(self.seeds[0]))

    def of_seed(self, seed: int) -> list[Judged]:
        """Return the folds of a seed, which together hold every image once."""
        return [one for one in self.folds if one.seed == seed]

    def mean_of(self, hits: Callable[[Judged], np.ndarray]) -> float:
        """Return the share of hits among all images of all seeds."""
        found = [hits(one) for one in self.folds]
        return float(np.sum([hit.sum() for hit in found]) / np.sum([hit.size for hit in found]))

    def accuracy_of(self, ranks: Sequence[np.ndarray], has_top5: bool) -> dict[str, float | None]:
        """Return top-1 and top-5 of ranks, int (images,) a fold."""
        every = np.concatenate(ranks)
        top5 = metrics.top_k_accuracy(every, 5) if has_top5 else None
        return {"top1": metrics.top_k_accuracy(every, 1), "top5": top5}

    def top_k(self, name: str, k: int) -> float:
        """Return the share of images whose label is among the first k."""
        return self.mean_of(lambda one: one.ranks[name] < k)

    def values(self, name: str) -> np.ndarray:
        """Return the top-1 of every fold, float64 (seeds, folds)."""
        found = [metrics.top_k_accuracy(one.ranks[name], 1) for one in self.folds]
        return np.array(found).reshape(len(self.seeds), self.num_folds)

    def bounded(self, values: np.ndarray) -> FoldDifference:
        """Return mean and interval of one value a fold."""
        num_test = sum(len(one.oracle) for one in self.folds)
        num_train = sum(one.summary["num_train"] for one in self.folds)
        return intervals.over_folds(values, num_test / (num_test + num_train))

    def min_gain(self) -> float | None:
        """Return the smallest gain over the default model that would have been shown."""
        values = self.values(TOPOLOGY) - self.values(DEFAULT)
        return intervals.min_detectable_over_folds(self.bounded(values), values.size)

    def mcnemar_p(self, first: str, second: str) -> float:
        """Return the median over the seeds of McNemar's exact p over all images."""
        found = []
        for seed in self.seeds:
            rights = [
                np.concatenate([one.ranks[name] == 0 for one in self.of_seed(seed)])
                for name in (first, second)
            ]
            counts = metrics.change_counts(*rights)
            found.append(metrics.mcnemar_exact_p(counts.type_a, counts.type_b))
        return float(np.median(found))


def _comparators(grid: _Grid, asked: Asked) -> dict[str, dict[str, Any]]:
    oracle = grid.mean_of(lambda one: one.oracle == 0)
    default = grid.values(DEFAULT)
    top5 = len(asked.classes) > 5
    found: dict[str, dict[str, Any]] = {}
    for name in ordered(grid.names):
        values, accuracy = grid.values(name), _accuracy(grid, name, top5)
        of_values = grid.bounded(values)
        found[name] = {
            "text": asked.texts[name],
            "run": asked.runs.get(name),
            **accuracy,
            "ci95": _interval(of_values),
            **_difference(grid, values, default, name),
            "headroom_share": None
            if name == DEFAULT
            else metrics.headroom_share(accuracy["top1"], grid.top_k(DEFAULT, 1), oracle),
        }
    _correct(found)
    return found


def _difference(grid: _Grid, values: np.ndarray, default: np.ndarray, name: str) -> dict[str, Any]:
    if name == DEFAULT:
        return dict.fromkeys(("difference", "difference_ci95", "p", "mcnemar_p"))
    difference = grid.bounded(values - default)
    return {
        "difference": difference.mean,
        "difference_ci95": _interval(difference),
        "p": difference.p,
        "mcnemar_p": grid.mcnemar_p(DEFAULT, name),
    }


def _against(grid: _Grid) -> dict[str, dict[str, Any]]:
    topology, found = grid.values(TOPOLOGY), {}
    for name in _others(grid):
        difference = grid.bounded(topology - grid.values(name))
        found[name] = {
            "difference": difference.mean,
            "ci95": _interval(difference),
            "p": difference.p,
            "mcnemar_p": grid.mcnemar_p(name, TOPOLOGY),
        }
    _correct(found)
    return found


def _others(grid: _Grid) -> list[str]:
    names = (DEFAULT, TOPOLOGY)
    others = [name for name in grid.names if name not in names and not name.startswith(BRANCH)]
    return ordered(others)


def _correct(found: Mapping[str, dict[str, Any]]) -> None:
    """Add `holm_p`, of all that have a p."""
    tested = [one for one in found.values() if one["p"] is not None]
    corrected = comparisons.holm([one["p"] for one in tested])
    for one in found.values():
        one["holm_p"] = None
    for one, p in zip(tested, corrected, strict=True):
        one["holm_p"] = p


def _accuracy(grid: _Grid, name: str, has_top5: bool) -> dict[str, Any]:
    return {"top1": grid.top_k(name, 1), "top5": grid.top_k(name, 5) if has_top5 else None}


def _averages(folds: Sequence[Judged], name: str) -> dict[str, float | None]:
    """Return the means over the folds."""
    found = [one.summary["averages"][name] for one in folds]
    means: dict[str, float | None] = {}
    for key in found[0]:
        values = [one[key] for one in found]
        means[key] = None if None in values else float(np.mean(values))
    return means


def _interval(found: FoldDifference) -> list[float] | None:
    return None if found.low is None or found.high is None else [found.low, found.high]
