"""Scores of made-up models, as eval gets them batch by batch, without any network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.evaluation import figures
from pipelines.evaluation.figures import Asked
from pipelines.evaluation.scoring import Scores
from pipelines.evaluation.tally import Tally

BRANCHES = ("original", "q010", "q050")


def make_scores(
    num_images: int = 97,
    num_classes: int = 7,
    *,
    seed: int = 0,
    others: Sequence[str] = (),
    num_branches: int = len(BRANCHES),
    control_branches: int = 0,
    has_swapped: bool = False,
    noise: float = 1.0,
    labels: np.ndarray | None = None,
    has_ties: bool = True,
) -> Scores:
    """Draw scores of all images.

    Args:
        num_images: with a label each.
        num_classes: scores an image.
        seed: another one gives other scores.
        others: further comparators.
        num_branches: that the default model is run on.
        control_branches: of the control set; 0 for none.
        has_swapped: whether the topology is run with the original in other branches' places.
        noise: deviation of a score; the label's is about 1 higher than the others.
        labels: int, instead of drawn ones.
        has_ties: many scores are equal, as multiples of 1/2.
    """
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, num_classes, num_images)
    labels = labels.astype(np.int32)

    def drawn(*axes: int) -> np.ndarray:
        scores = rng.normal(0, noise, (num_images, *axes, num_classes))
        own = labels.reshape(-1, *[1] * (len(axes) + 1))
        np.put_along_axis(scores, own, np.take_along_axis(scores, own, -1) + 1, -1)
        return (np.round(2 * scores) / 2 if has_ties else scores).astype(np.float32)

    return Scores(
        [f"some/{i:04d}.png" for i in range(num_images)],
        labels,
        drawn(num_branches),
        {name: drawn() for name in (TOPOLOGY, *others)},
        drawn(control_branches) if control_branches else None,
        drawn(num_branches - 1) if has_swapped else None,
    )


def in_batches(scores: Scores, size: int) -> Iterator[Scores]:
    """Cut scores into batches, the last of which may be smaller."""
    for start in range(0, len(scores.labels), size):
        some = slice(start, start + size)
        yield Scores(
            scores.ids[some],
            scores.labels[some],
            scores.default[some],
            {name: found[some] for name, found in scores.by_name.items()},
            None if scores.control is None else scores.control[some],
            None if scores.swapped is None else scores.swapped[some],
        )


def tallied(scores: Scores, size: int = 32, original: int = 0) -> Tally:
    """Take all scores into a tally, batch by batch."""
    tally = Tally(scores.default.shape[-1], original)
    for batch in in_batches(scores, size):
        tally.add(batch)
    return tally


def place(scores: Sequence[float], label: int) -> int:
    """Give a label's place by sorting: of equal scores the lower class is first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return order.index(label)


def places(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give the label's place among scores (images, classes) or (images, branches, classes)."""
    if scores.ndim == 3:
        return np.stack([places(scores[:, i], labels) for i in range(scores.shape[1])], axis=1)
    return np.array([place(*pair) for pair in zip(scores.tolist(), labels.tolist(), strict=True)])


def ranks_by_hand(scores: Scores) -> dict[str, np.ndarray]:
    """Give the places of all comparators, the default model's on the first branch."""
    found = {name: places(of_name, scores.labels) for name, of_name in scores.by_name.items()}
    return {**found, DEFAULT: places(scores.default[:, 0], scores.labels)}


def ask(num_classes: int, **changed) -> Asked:
    """Say what figures are of: run a, compared with run b and the controls."""
    texts = figures.texts(BRANCHES, len(BRANCHES))
    texts |= {TOPOLOGY: "run a", "run_b": "run b", "copies": "eleven", "control": "changes"}
    settings = {
        "branches": BRANCHES,
        "classes": tuple(f"class {i}" for i in range(num_classes)),
        "texts": texts,
        "runs": {TOPOLOGY: "a", "run_b": "b"},
        "top_k": (1, 3),
        "seed": 5,
    }
    return Asked(**{**settings, **changed})
