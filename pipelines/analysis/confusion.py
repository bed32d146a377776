"""Which classes a model takes for which, counted batch by batch, and the figures that follow.

Accuracies are shares in 0..1, never per cent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np


class Confusion:
    """Counts of true and predicted class, image by image.

    Only pairs that occur are kept, at most one an image, so that memory does not grow with the
    square of the classes.

    Attributes:
        num_classes: Number of classes, also of those that no image has.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"{num_classes} classes, expected at least 1")
        self.num_classes = num_classes
        self._counts: Counter[int] = Counter()  # by true class * num_classes + predicted class

    def add(self, labels: np.ndarray, predicted: np.ndarray) -> None:
        """Count a batch.

        Args:
            labels: int, (image,), true classes in 0..classes-1.
            predicted: int, (image,), the model's first classes, images in the same order.

        Raises:
            ValueError: the shapes do not fit, or a value is no class index. Nothing is counted.
        """
        labels, predicted = np.asarray(labels), np.asarray(predicted)
        if labels.ndim != 1 or labels.shape != predicted.shape:
            raise ValueError(
                f"labels of shape {labels.shape} and predictions of shape {predicted.shape}, "
                "expected (image,) twice"
            )
        self._check_classes("labels", labels)
        self._check_classes("predictions", predicted)
        pairs = labels.astype(np.int64) * self.num_classes + predicted.astype(np.int64)
        self._counts.update(pairs.tolist())

    def _check_classes(self, name: str, classes: np.ndarray) -> None:
        if not np.issubdtype(classes.dtype, np.integer):
            raise ValueError(f"{name} of dtype {classes.dtype}, expected whole class indices")
        if classes.size and not (classes.min() >= 0 and classes.max() < self.num_classes):
            raise ValueError(
                f"{name} from {classes.min()} to {classes.max()}, "
                f"expected 0 to {self.num_classes - 1}"
            )

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return self._counts.total()

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give the pairs of true and predicted class that occur, equal ones too.

        Returns:
            True class, predicted class and number of images, each int64, (pair,), ordered by true
            class and then by predicted class.
        """
        found = np.array(sorted(self._counts.items()), dtype=np.int64).reshape(-1, 2)
        true, predicted = np.divmod(found[:, 0], self.num_classes)
        return true, predicted, found[:, 1]

    def by_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Count images and right ones by true class.

        Returns:
            Number of images and number of right ones, each int64, (class,).
        """
        true, predicted, counts = self.pairs()
        is_right = true == predicted
        return self._summed(true, counts), self._summed(true[is_right], counts[is_right])

    def balanced_accuracy(self) -> float:
        """Give the mean recall of the classes that have images.

        It weighs rare classes like frequent ones (Brodersen et al., ICPR 2010).

        Returns:
            A share in 0..1.

        Raises:
            ValueError: there is no image.
        """
        self._check_not_empty()
        num_images, num_right = self.by_class()
        has_images = num_images > 0
        return float(np.mean(num_right[has_images] / num_images[has_images]))

    def macro_accuracy(self) -> float:
        """Give the mean of (TP + TN) / N, one class against all others, over all classes.

        "Average accuracy" of Sokolova and Lapalme, Information Processing and Management 45, 2009,
        table 3. With many classes it is near 1 for any model, since most images are true negatives
        of most classes.

        Returns:
            A share in 0..1.

        Raises:
            ValueError: there is no image.
        """
        self._check_not_empty()
        num_wrong = self.num_images - int(self.by_class()[1].sum())
        # A wrong image is a false negative of one class and a false positive of one other.
        return 1 - 2 * num_wrong / (self.num_images * self.num_classes)

    def macro_f1(self) -> float:
        """Give the mean F1 score, 2 TP / (2 TP + FP + FN), of the classes that occur.

        A class occurs where it is the label of an image or is predicted for one; without a true
        positive its score is 0 (Sokolova and Lapalme, as above).

        Returns:
            A share in 0..1.

        Raises:
            ValueError: there is no image.
        """
        self._check_not_empty()
        _, predicted, counts = self.pairs()
        num_images, num_right = self.by_class()
        marked = num_images + self._summed(predicted, counts)  # 2 TP + FN + FP
        occurs = marked > 0
        return float(np.mean(2 * num_right[occurs] / marked[occurs]))

    def _summed(self, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Give int64, (class,): the sum of each class's counts."""
        sums = np.zeros(self.num_classes, np.int64)
        np.add.at(sums, classes, counts)
        return sums

    def _check_not_empty(self) -> None:
        if not self._counts:
            raise ValueError("no images were counted, expected at least one")


@dataclass(frozen=True)
class PairChange:
    """How often one class is taken for another, by two models.

    Attributes:
        true: Class index of the label.
        predicted: Class index of the prediction, another one.
        default: Number of such images of the default model.
        topology: The same of the topology.
    """

    true: int
    predicted: int
    default: int
    topology: int

    @property
    def change(self) -> int:
        """Images more in the topology; negative where the confusion became rarer."""
        return self.topology - self.default


def most_changed(
    default: Confusion, topology: Confusion, num: int = 20
) -> tuple[list[PairChange], list[PairChange]]:
    """Find the confusions that became rarer, and more frequent, by the most images.

    Args:
        default: Counts of the default model.
        topology: Counts of the topology, on the same images.
        num: The most pairs to give of each kind, at least 1.

    Returns:
        Confusions that became rarer, and those that became more frequent: each by the size of the
        change, the largest first; equal changes by true class, then by predicted class. Those that
        did not change are in neither.

    Raises:
        ValueError: `num` is under 1, or the two are of other classes or images.
    """
    if num < 1:
        raise ValueError(f"num is {num}, expected at least 1")
    if default.num_classes != topology.num_classes:
        raise ValueError(
            f"{default.num_classes} classes of the default model and {topology.num_classes} of "
            "the topology, expected the same"
        )
    if not np.array_equal(default.by_class()[0], topology.by_class()[0]):
        raise ValueError(
            f"{default.num_images} images of the default model and {topology.num_images} of the "
            "topology differ in their labels, expected the same images"
        )
    before, after = _confused(default), _confused(topology)
    changes = [
        PairChange(*pair, before.get(pair, 0), after.get(pair, 0))
        for pair in sorted(before.keys() | after.keys())
    ]
    # Sorting is stable, and so leaves equal changes in the order of their classes.
    gained = sorted((pair for pair in changes if pair.change < 0), key=lambda pair: pair.change)
    lost = sorted((pair for pair in changes if pair.change > 0), key=lambda pair: -pair.change)
    return gained[:num], lost[:num]


def _confused(confusion: Confusion) -> dict[tuple[int, int], int]:
    """Give the number of images by (true, predicted), where these differ."""
    columns = zip(*(column.tolist() for column in confusion.pairs()), strict=True)
    return {(true, predicted): count for true, predicted, count in columns if true != predicted}


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Give the area under the ROC curve of a class of interest against the other.

    That is the chance that an image of the class has a higher score than one of the other class,
    equal scores counting half; it follows from the ranks (Hanley and McNeil, Radiology 143, 1982).

    Args:
        scores: float, (image,), larger is likelier; any scale, infinite ones too.
        labels: int or bool, (image,), 1 for the class of interest and 0 for the other.

    Returns:
        A share in 0..1, or None where one of the two has no image.

    Raises:
        ValueError: the shapes do not fit, a score is NaN, or a label is neither 0 nor 1.
    """
    from scipy.stats import rankdata  # takes a large part of a second to import

    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"scores of shape {scores.shape} and labels of shape {labels.shape}, "
            "expected (image,) twice"
        )
    num_nan = int(np.isnan(scores).sum())
    if num_nan:
        raise ValueError(f"{num_nan} of {scores.size} scores are NaN, expected none")
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == np.bool_):
        raise ValueError(f"labels of dtype {labels.dtype}, expected 0 and 1")
    if labels.size and not (labels.min() >= 0 and labels.max() <= 1):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, expected 0 and 1")
    is_positive = labels == 1
    num_positive = int(is_positive.sum())
    num_negative = labels.size - num_positive
    if num_positive == 0 or num_negative == 0:
        return None
    rank_sum = float(rankdata(scores)[is_positive].sum())
    num_won = rank_sum - num_positive * (num_positive + 1) / 2
    return num_won / (num_positive * num_negative)
