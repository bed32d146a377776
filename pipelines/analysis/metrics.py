"""Figures that compare a trained topology with the default model, from scores and labels alone.

Accuracies and differences are shares in 0..1, never per cent. Nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChangeCounts:
    """How many images the topology gained, lost and left as they were (thesis, section 4.4).

    Attributes:
        type_a: Images right in the topology and wrong in the default model.
        type_b: Images right in the default model and wrong in the topology.
        type_c: All other images.
    """

    type_a: int
    type_b: int
    type_c: int

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return self.type_a + self.type_b + self.type_c


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the place of each image's true label among its scores.

    Equal scores are ordered by class index, the lower first, which is the rule of `np.argmax`: a
    rank of 0 means just that argmax gives the label.

    Args:
        scores: float, (image, class), larger is likelier; probabilities or logits.
        labels: int, (image,), class indices in 0..classes-1.

    Returns:
        int64, (image,), 0 for the first place.

    Raises:
        ValueError: the shapes do not fit, a score is NaN, or a label is no class index.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores of shape {scores.shape} and labels of shape {labels.shape}, "
            "expected (image, class) and (image,)"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels of dtype {labels.dtype}, expected whole class indices")
    num_classes = scores.shape[1]
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}"
        )
    num_nan = int(np.isnan(scores).sum())
    if num_nan:
        raise ValueError(f"{num_nan} of {scores.size} scores are NaN, expected none")
    own_scores = np.take_along_axis(scores, labels[:, np.newaxis].astype(np.intp), axis=1)
    is_lower_index = np.arange(num_classes) < labels[:, np.newaxis]
    is_ahead = (scores > own_scores) | ((scores == own_scores) & is_lower_index)
    return is_ahead.sum(axis=1, dtype=np.int64)


def top_k_accuracy(ranks: np.ndarray, k: int) -> float:
    """Give the share of images whose true label is among the first k.

    Args:
        ranks: int, (image,), from `label_ranks`.
        k: How many places count as right, at least 1.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: there is no image, or k is under 1.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or ranks.size == 0:
        raise ValueError(f"ranks of shape {ranks.shape}, expected (image,) with at least one image")
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    return float(np.mean(ranks < k))


def top5_or_none(ranks: np.ndarray, num_classes: int) -> float | None:
    """Give the top-5 accuracy, or None where five places hold every class and it would be 1.

    Args:
        ranks: int, (image,), from `label_ranks`.
        num_classes: Number of classes, at least 1.

    Returns:
        A share in 0..1, or None at 5 classes or fewer.

    Raises:
        ValueError: there is no image, or no class.
    """
    if num_classes < 1:
        raise ValueError(f"{num_classes} classes, expected at least 1")
    accuracy = top_k_accuracy(ranks, 5)
    return accuracy if num_classes > 5 else None


def change_counts(default_correct: np.ndarray, topology_correct: np.ndarray) -> ChangeCounts:
    """Sort images into types A, B and C (thesis, section 4.4).

    Args:
        default_correct: bool, (image,), the default model's top-1 is the label.
        topology_correct: bool, (image,), the same for the topology, images in the same order.

    Returns:
        The three counts; their sum is the number of images.

    Raises:
        ValueError: the two are not boolean, not one-dimensional, or of different lengths.
    """
    default_correct, topology_correct = np.asarray(default_correct), np.asarray(topology_correct)
    for name, correct in (("default", default_correct), ("topology", topology_correct)):
        if correct.dtype != np.bool_ or correct.ndim != 1:
            raise ValueError(
                f"{name}_correct is {correct.dtype} of shape {correct.shape}, "
                "expected bool (image,)"
            )
    if default_correct.shape != topology_correct.shape:
        raise ValueError(
            f"{default_correct.size} images of the default model and {topology_correct.size} of "
            "the topology, expected the same images in the same order"
        )
    type_a = int(np.sum(topology_correct & ~default_correct))
    type_b = int(np.sum(default_correct & ~topology_correct))
    return ChangeCounts(type_a, type_b, default_correct.size - type_a - type_b)


def mcnemar_exact_p(type_a: int, type_b: int) -> float:
    """Test whether gains and losses are equally likely, given the images that changed.

    Exact two-sided McNemar test: under the null hypothesis the gains among the changed images are
    binomial with probability 1/2 (McNemar, Psychometrika 12, 1947).

    Args:
        type_a: Images gained, at least 0.
        type_b: Images lost, at least 0.

    Returns:
        The p-value in 0..1; 1.0 where no image changed.

    Raises:
        ValueError: a count is negative.
    """
    from scipy.stats import binomtest  # takes a large part of a second to import

    _check_counts(type_a, type_b)
    if type_a + type_b == 0:
        return 1.0
    return float(binomtest(type_a, type_a + type_b, 0.5, alternative="two-sided").pvalue)


def gain_interval(
    type_a: int,
    type_b: int,
    num_images: int,
    *,
    seed: int,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bound the accuracy gained over the default model by a paired bootstrap.

    Drawing images with replacement only changes how many of each type are drawn, and these counts
    are multinomial over (A, B, rest): they are drawn directly, at a cost that does not grow with
    the images. The interval is the percentile interval (Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, chapter 13).

    Args:
        type_a: Images gained, at least 0.
        type_b: Images lost, at least 0.
        num_images: All images, the unchanged ones too.
        seed: Seed of the resampling; the same seed gives the same interval.
        num_resamples: Number of bootstrap samples, at least 1.
        level: Share of the bootstrap distribution inside the interval, between 0 and 1.

    Returns:
        Lower and upper bound of (accuracy of the topology - accuracy of the default model), as
        differences of shares in -1..1.

    Raises:
        ValueError: a count is negative, there is no image, more images changed than there are, or
            `num_resamples` or `level` is out of its range.
    """
    _check_counts(type_a, type_b)
    if num_images < 1 or type_a + type_b > num_images:
        raise ValueError(
            f"{type_a} gained and {type_b} lost of {num_images} images, expected at least one "
            "image and no more changes than images"
        )
    if num_resamples < 1:
        raise ValueError(f"{num_resamples} resamples, expected at least 1")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a share between 0 and 1")
    num_rest = num_images - type_a - type_b
    shares = np.array([type_a, type_b, num_rest], dtype=np.float64) / num_images
    draws = np.random.default_rng(seed).multinomial(num_images, shares, size=num_resamples)
    gains = (draws[:, 0] - draws[:, 1]) / num_images
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(
    first_right: np.ndarray,
    second_right: np.ndarray,
    *,
    seed: int,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bound the accuracy that one model has over another, from what each has right.

    Args:
        first_right: bool, (image,), the first model's top-1 is the label.
        second_right: bool, (image,), the same for the second, images in the same order.
        seed: Seed of the resampling; the same seed gives the same interval.
        num_resamples: Number of bootstrap samples, at least 1.
        level: Share of the bootstrap distribution inside the interval, between 0 and 1.

    Returns:
        Lower and upper bound of (accuracy of the second - accuracy of the first), by
        `gain_interval`.

    Raises:
        ValueError: as `change_counts` and `gain_interval` say.
    """
    counts = change_counts(first_right, second_right)
    return gain_interval(
        counts.type_a,
        counts.type_b,
        counts.num_images,
        seed=seed,
        num_resamples=num_resamples,
        level=level,
    )


def oracle_accuracy(correct: np.ndarray) -> float:
    """Give the accuracy of a chooser that always picks a branch that is right, if there is one.

    An upper bound for choosing one variant of each image (Yang, Amer and Jiang, Entropy 23:881,
    2021).

    Args:
        correct: bool, (image, branch), the branch's own top-1 is the label.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: not boolean, not two-dimensional, or no image or branch in it.
    """
    correct = np.asarray(correct)
    if correct.dtype != np.bool_ or correct.ndim != 2 or correct.size == 0:
        raise ValueError(
            f"correct is {correct.dtype} of shape {correct.shape}, expected bool (image, branch) "
            "with at least one of each"
        )
    return float(np.mean(correct.any(axis=1)))


def best_ranks(ranks: np.ndarray) -> np.ndarray:
    """Give each image the rank that its best branch gives it, as the oracle would choose.

    The top-1 accuracy of these ranks is `oracle_accuracy`; they give it for any other k as well.

    Args:
        ranks: int, (image, branch), each branch's own from `label_ranks`.

    Returns:
        int, (image,), of the same dtype.

    Raises:
        ValueError: not whole numbers, not two-dimensional, no branch in it, or a negative rank.
    """
    ranks = np.asarray(ranks)
    if not np.issubdtype(ranks.dtype, np.integer) or ranks.ndim != 2 or ranks.shape[1] == 0:
        raise ValueError(
            f"ranks are {ranks.dtype} of shape {ranks.shape}, expected int (image, branch) with "
            "at least one branch"
        )
    if ranks.size and ranks.min() < 0:
        raise ValueError(f"a rank of {ranks.min()}, expected at least 0")
    return ranks.min(axis=1)


def headroom_share(accuracy: float, default: float, oracle: float) -> float | None:
    """Give how much of the way from the default model to the oracle a model has gone.

    Args:
        accuracy: The model's accuracy, in 0..1.
        default: The default model's, in 0..1.
        oracle: That of choosing the best branch of each image, the default model's among them.

    Returns:
        0 for the default model, 1 for the oracle; negative below the one and over 1 above the
        other. None where the oracle is no better than the default model.

    Raises:
        ValueError: an accuracy is NaN or outside 0..1, or the oracle's is below the default
            model's.
    """
    for name, share in (("accuracy", accuracy), ("default", default), ("oracle", oracle)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}, expected a share in 0..1")
    if oracle < default:
        raise ValueError(f"oracle is {oracle}, expected at least the default model's {default}")
    return None if oracle == default else (accuracy - default) / (oracle - default)


def _check_counts(type_a: int, type_b: int) -> None:
    if type_a < 0 or type_b < 0:
        raise ValueError(f"{type_a} gained and {type_b} lost, expected counts of at least 0")
