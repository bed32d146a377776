"""The figures of an evaluation, from what was tallied of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.analysis import comparisons, confusion, intervals, metrics
from pipelines.analysis.confusion import Confusion, PairChange
from pipelines.analysis.naming import BRANCH, CONTROL_MEAN, DEFAULT, MEAN, TOPOLOGY, ordered
from pipelines.evaluation.tally import Tally
from pipelines.storage.variants import ORIGINAL

NUM_RESAMPLES = 10_000
_MOST_NAMED = 1_000  # classes whose names are repeated in the results


@dataclass(frozen=True)
class Asked:
    """What the figures are of.

    Attributes:
        branches: that the default model was run on.
        classes: names in the order of the labels.
        texts: by comparator, what it is in a few words.
        runs: by comparator, the run that trained it, where one did.
        top_k: places for which the accuracies are given.
        seed: of the resampling.
    """

    branches: tuple[str, ...]
    classes: tuple[str, ...]
    texts: Mapping[str, str]
    runs: Mapping[str, str]
    top_k: tuple[int, ...]
    seed: int


def figures(tally: Tally, asked: Asked) -> dict[str, Any]:
    """Return the results' figures; shares in 0..1, differences to the default model."""
    ranks = {name: tally.ranks(name) for name in tally.names}
    default_ranks = tally.default_ranks()
    by_branch = dict(zip(asked.branches, default_ranks.T, strict=True))
    ranks |= {f"{BRANCH}{name}": by_branch[name] for name in asked.branches if name != ORIGINAL}
    ranks = {name: ranks[name] for name in ordered(ranks)}
    default, topology = ranks[DEFAULT] == 0, ranks[TOPOLOGY] == 0
    counts = metrics.change_counts(default, topology)
    num_images, num_classes = len(default), len(asked.classes)
    oracle, control = metrics.best_ranks(default_ranks), tally.control_ranks()
    compared = _comparators(ranks, oracle, asked)
    own = compared[TOPOLOGY]
    changed = (counts.type_a + counts.type_b) / num_images
    return {
        "num_images": num_images,
        "num_classes": num_classes,
        "classes": list(asked.classes) if num_classes <= _MOST_NAMED else None,
        "default": _accuracy(ranks[DEFAULT], num_classes),
        "topology": _accuracy(ranks[TOPOLOGY], num_classes),
        "branches": {name: _accuracy(found, num_classes) for name, found in by_branch.items()},
        "oracle_top1": metrics.oracle_accuracy(default_ranks == 0),
        "oracle": _oracle(oracle, control, num_classes),
        "type_a": counts.type_a,
        "type_b": counts.type_b,
        "type_c": counts.type_c,
        "mcnemar_p": own["mcnemar_p"],
        "gain": {"top1": own["difference"], "ci95": own["difference_ci95"]},
        "comparators": compared,
        "against": _against(ranks, asked),
        "min_detectable_gain": comparisons.min_detectable_gain(num_images, changed),
        "top_k": {
            name: {str(k): metrics.top_k_accuracy(ranks[name], k) for k in asked.top_k}
            for name in (DEFAULT, TOPOLOGY)
        },
        "averages": {name: averages(tally, name) for name in (DEFAULT, TOPOLOGY)},
        "calibration": {name: _calibration(tally, name) for name in (DEFAULT, TOPOLOGY)},
        "per_class": _per_class(tally, asked.classes),
        "confusions": _confusions(tally, asked.classes),
        "leans_on": leans_on(tally, asked.branches, topology),
        "num_resamples": NUM_RESAMPLES,
    }


def _accuracy(ranks: np.ndarray, num_classes: int) -> dict[str, float | None]:
    return {
        "top1": metrics.top_k_accuracy(ranks, 1),
        "top5": metrics.top5_or_none(ranks, num_classes),
    }


def _comparators(
    ranks: Mapping[str, np.ndarray], oracle: np.ndarray, asked: Asked
) -> dict[str, dict[str, Any]]:
    """Compare each with the default model; the p-values are corrected for all these comparisons."""
    default, best = ranks[DEFAULT] == 0, float(np.mean(oracle == 0))
    found: dict[str, dict[str, Any]] = {}
    for name, of_name in ranks.items():
        right, is_default = of_name == 0, name == DEFAULT
        difference = None if is_default else compare(default, right, asked.seed)
        accuracy = _accuracy(of_name, len(asked.classes))
        found[name] = {
            "text": asked.texts[name],
            "run": asked.runs.get(name),
            **accuracy,
            "ci95": list(intervals.wilson(int(right.sum()), len(right))),
            **(difference or dict.fromkeys(_COMPARED)),
            "holm_p": None,
            "headroom_share": None
            if is_default
            else metrics.headroom_share(float(np.mean(right)), float(np.mean(default)), best),
        }
    tested = [name for name in found if name != DEFAULT]
    corrected = comparisons.holm([found[name]["mcnemar_p"] for name in tested])
    for name, p in zip(tested, corrected, strict=True):
        found[name]["holm_p"] = p
    return found


_COMPARED = ("difference", "difference_ci95", "gained", "lost", "mcnemar_p")


def compare(first: np.ndarray, second: np.ndarray, seed: int) -> dict[str, Any]:
    """Compare two models on the same images.

    Args:
        first: bool (images,), the one is right.
        second: bool (images,), the other is.
        seed: of the resampling.

    Returns:
        The second's accuracy less the first's, its 95% interval by a paired bootstrap, images
        gained and lost, and McNemar's exact p.
    """
    counts = metrics.change_counts(first, second)
    low, high = metrics.gain_interval(
        counts.type_a, counts.type_b, len(first), seed=seed, num_resamples=NUM_RESAMPLES
    )
    values = (
        (counts.type_a - counts.type_b) / len(first),
        [low, high],
        counts.type_a,
        counts.type_b,
        metrics.mcnemar_exact_p(counts.type_a, counts.type_b),
    )
    return dict(zip(_COMPARED, values, strict=True))


def _against(ranks: Mapping[str, np.ndarray], asked: Asked) -> dict[str, dict[str, Any]]:
    """Compare the topology with all that is no default model on one branch."""
    names = [
        name for name in ranks if name not in (DEFAULT, TOPOLOGY) and not name.startswith(BRANCH)
    ]
    topology = ranks[TOPOLOGY] == 0
    found = {}
    for name in names:
        values = compare(ranks[name] == 0, topology, asked.seed)
        found[name] = {
            "difference": values["difference"],
            "ci95": values["difference_ci95"],
            "mcnemar_p": values["mcnemar_p"],
        }
    corrected = comparisons.holm([found[name]["mcnemar_p"] for name in names])
    for name, p in zip(names, corrected, strict=True):
        found[name]["holm_p"] = p
    return found


def _oracle(
    ranks: np.ndarray, control: np.ndarray | None, num_classes: int
) -> dict[str, float | None]:
    """Return what a chooser would reach that always picks the branch with the best rank."""
    values: dict[str, float | None] = _accuracy(ranks, num_classes)
    of_control: dict[str, float | None] = dict.fromkeys(("top1", "top5"))
    if control is not None:
        of_control = _accuracy(control, num_classes)
    return {**values, **{f"control_{name}": value for name, value in of_control.items()}}


def averages(tally: Tally, name: str) -> dict[str, float | None]:
    """Return what weighs every class the same, of "default" or "topology"."""
    found = tally.confusion[name]
    auc = None
    if tally.num_classes == 2:
        auc = confusion.roc_auc(np.concatenate(tally.scores_of_1[name]), tally.labels)
    return {
        "balanced_accuracy": found.balanced_accuracy(),
        "macro_accuracy": found.macro_accuracy(),
        "macro_f1": found.macro_f1(),
        "roc_auc": auc,
    }


def _calibration(tally: Tally, name: str) -> dict[str, Any]:
    found = tally.reliability[name]
    bins = [
        {
            "low": one.low,
            "high": one.high,
            "num_images": one.num_images,
            "confidence": one.confidence,
            "accuracy": one.accuracy,
        }
        for one in found.bins()
    ]
    return {"ece": found.ece(), "bins": bins}


def _per_class(tally: Tally, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the share of each class's images that the models have right."""
    num_images, default = tally.confusion[DEFAULT].by_class()
    _, topology = tally.confusion[TOPOLOGY].by_class()
    found = []
    for i, name in enumerate(classes):
        num = int(num_images[i])
        shares = [int(right[i]) / num if num else None for right in (default, topology)]
        change = int(topology[i] - default[i]) / num if num else None
        found.append(
            {
                "class": name,
                "num_images": num,
                "default": shares[0],
                "topology": shares[1],
                "change": change,
            }
        )
    return found


def _confusions(tally: Tally, classes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    default, topology = tally.confusion[DEFAULT], tally.confusion[TOPOLOGY]
    gained, lost = _most_changed(default, topology)
    return {"gained": _pairs(gained, classes), "lost": _pairs(lost, classes)}


def _most_changed(
    default: Confusion, topology: Confusion
) -> tuple[list[PairChange], list[PairChange]]:
    return confusion.most_changed(default, topology)


def _pairs(found: Sequence[PairChange], classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "true": classes[pair.true],
            "predicted": classes[pair.predicted],
            "default": pair.default,
            "topology": pair.topology,
            "change": pair.change,
        }
        for pair in found
    ]


def leans_on(tally: Tally, branches: Sequence[str], topology: np.ndarray) -> dict[str, float]:
    """Return, by branch, the share of images lost when it sees the original instead."""
    if tally.num_swapped is None:
        return {}
    others = [name for name in branches if name != ORIGINAL]
    right = int(topology.sum())
    return {
        name: (right - int(num)) / len(topology)
        for name, num in zip(others, tally.num_swapped, strict=True)
    }


def texts(branches: Sequence[str], num_branches: int) -> dict[str, str]:
    """Say in a few words what the comparators are that no run of their own has trained."""
    return {
        DEFAULT: "the default model, on the original alone",
        MEAN: f"mean of the default model's scores over {num_branches} branches, without training",
        CONTROL_MEAN: "the same mean over the control set, whose changes are no compression",
        **{f"{BRANCH}{name}": f"the default model on {name} alone" for name in branches},
    }
