"""What is kept of the scores, batch by batch: ranks of the labels, confusions, calibration."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipelines.analysis import metrics
from pipelines.analysis.calibration import Reliability, softmax
from pipelines.analysis.confusion import Confusion
from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.evaluation.scoring import Scores

NUM_TOP = 5  # classes that are kept of each image


@dataclass(frozen=True)
class Top:
    """The likeliest classes of some images under one model.

    Attributes:
        classes: int32 (images, k), the likeliest first; of equal ones the lower number.
        confidences: float32 (images, k), their probabilities.
    """

    classes: np.ndarray
    confidences: np.ndarray


@dataclass(frozen=True)
class Judged:
    """What the models make of one batch of images.

    Attributes:
        ids: names of the images.
        labels: int32 (images,).
        ranks: int32 (images,) by comparator, the place of the label among the scores; 0 is right.
        default_ranks: int32 (images, branches), the same of the default model on each branch.
        default_confidences: float32 (images, branches), the label's probability there.
        confidences: float32 (images,), the label's probability in the topology.
        top: the likeliest classes, of "topology" and of "default" on the original.
        control: int32 (images,), the best rank over the control set's branches; None for none.
    """

    ids: list[str]
    labels: np.ndarray
    ranks: dict[str, np.ndarray]
    default_ranks: np.ndarray
    default_confidences: np.ndarray
    confidences: np.ndarray
    top: dict[str, Top]
    control: np.ndarray | None = None


@dataclass
class Tally:
    """The sums over all images, of two models where there are two: "topology" and "default".

    Its memory grows by some numbers an image, whatever the number of classes.

    Attributes:
        num_classes: scores an image.
        original: place of the original among the branches of the default model.
        confusion: which class was taken for which.
        reliability: how confidence and accuracy go together.
        scores_of_1: probability of the second of two classes, batch by batch; empty for more.
        num_swapped: int64 (branches - 1,), images that the topology has right with the original in
            the place of each other branch; None where nothing was swapped.
    """

    num_classes: int
    original: int
    confusion: dict[str, Confusion] = field(init=False)
    reliability: dict[str, Reliability] = field(init=False)
    scores_of_1: dict[str, list[np.ndarray]] = field(init=False)
    num_swapped: np.ndarray | None = None
    _labels: list[np.ndarray] = field(default_factory=list)
    _ranks: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _default_ranks: list[np.ndarray] = field(default_factory=list)
    _control_ranks: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        both = (TOPOLOGY, DEFAULT)
        self.confusion = {name: Confusion(self.num_classes) for name in both}
        self.reliability = {name: Reliability() for name in both}
        self.scores_of_1 = {name: [] for name in both}

    def add(self, scores: Scores) -> Judged:
        """Take in the scores of a batch, and return what they say of its images."""
        labels, original = scores.labels, self.original
        ranks = {name: _ranks(found, labels) for name, found in scores.by_name.items()}
        default_ranks = _ranks(scores.default, labels)
        ranks[DEFAULT] = default_ranks[:, original]
        probabilities = softmax(scores.default)
        of_both = {
            TOPOLOGY: softmax(scores.by_name[TOPOLOGY]),
            DEFAULT: probabilities[:, original],
        }
        tops = {
            TOPOLOGY: _top(scores.by_name[TOPOLOGY], of_both[TOPOLOGY]),
            DEFAULT: _top(scores.default[:, original], of_both[DEFAULT]),
        }
        for name, top in tops.items():
            best = top.classes[:, 0]
            self.confusion[name].add(labels, best)
            self.reliability[name].add(top.confidences[:, 0], best == labels)
            if self.num_classes == 2:
                self.scores_of_1[name].append(of_both[name][:, 1].copy())
        control = None
        if scores.control is not None:
            control = _ranks(scores.control, labels).min(axis=1)
            self._control_ranks.append(control)
        self._keep(scores, ranks, default_ranks)
        of_label = np.take_along_axis(probabilities, labels[:, np.newaxis, np.newaxis], axis=2)
        confidences = of_both[TOPOLOGY][np.arange(len(labels)), labels]
        return Judged(
            scores.ids,
            labels,
            ranks,
            default_ranks,
            of_label[:, :, 0],
            confidences,
            tops,
            control,
        )

    def _keep(
        self, scores: Scores, ranks: dict[str, np.ndarray], default_ranks: np.ndarray
    ) -> None:
        self._labels.append(scores.labels)
        for name, found in ranks.items():
            self._ranks.setdefault(name, []).append(found)
        self._default_ranks.append(default_ranks)
        if scores.swapped is not None:
            is_right = _ranks(scores.swapped, scores.labels) == 0
            before = 0 if self.num_swapped is None else self.num_swapped
            self.num_swapped = before + is_right.sum(axis=0, dtype=np.int64)

    @property
    def labels(self) -> np.ndarray:
        """Labels of all images, int32 (images,)."""
        return np.concatenate(self._labels)

    @property
    def names(self) -> list[str]:
        """Names of the comparators, the topology first."""
        return list(self._ranks)

    def ranks(self, name: str) -> np.ndarray:
        """Return the label's rank under a comparator, int32 (images,)."""
        return np.concatenate(self._ranks[name])

    def default_ranks(self) -> np.ndarray:
        """Return the label's rank under the default model, int32 (images, branches)."""
        return np.concatenate(self._default_ranks)

    def control_ranks(self) -> np.ndarray | None:
        """Return the best rank over the branches of the control set, int32 (images,), if any."""
        return np.concatenate(self._control_ranks) if self._control_ranks else None


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return int32 ranks of scores (images, classes) or (images, branches, classes)."""
    rows = scores.reshape(-1, scores.shape[-1])
    of_rows = np.repeat(labels, len(rows) // len(labels))
    return metrics.label_ranks(rows, of_rows).astype(np.int32).reshape(scores.shape[:-1])


def _top(scores: np.ndarray, probabilities: np.ndarray) -> Top:
    """Return the likeliest classes; of equal scores the lower number comes first, as for ranks."""
    num = min(NUM_TOP, scores.shape[1])
    # All scores from the k-th highest on, of which there may be more than k where some tie.
    least = -np.partition(-scores, num - 1, axis=1)[:, num - 1 : num]
    found = np.empty((len(scores), num), np.int32)
    for row, is_candidate in enumerate(scores >= least):
        candidates = np.flatnonzero(is_candidate)
        order = np.argsort(-scores[row, candidates], kind="stable")
        found[row] = candidates[order[:num]]
    return Top(found, np.take_along_axis(probabilities, found.astype(np.intp), axis=1))
