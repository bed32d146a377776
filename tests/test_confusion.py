from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import sklearn.metrics

from pipelines.analysis import confusion
from pipelines.analysis.confusion import Confusion, PairChange


def counted(num_classes: int, labels: np.ndarray, predicted: np.ndarray) -> Confusion:
    made = Confusion(num_classes)
    made.add(labels, predicted)
    return made


def random_case(seed: int, num_classes: int = 12, num_images: int = 300):
    """Give labels, none of class 3, and predictions, none of class 5, about half of them right."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.delete(np.arange(num_classes), 3), num_images)
    others = rng.choice(np.delete(np.arange(num_classes), 5), num_images)
    is_right = (rng.random(num_images) < 0.5) & (labels != 5)
    return labels, np.where(is_right, labels, others)


def of_pairs(num_classes: int, counts: dict[tuple[int, int], int]) -> Confusion:
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    labels, predicted = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return counted(num_classes, labels, predicted)


@pytest.mark.parametrize("seed", range(3))
def test_confusion_pairs_agree_with_scikit_learns_matrix(seed):
    labels, predicted = random_case(seed)
    true, guessed, counts = counted(12, labels, predicted).pairs()
    matrix = np.zeros((12, 12), np.int64)
    matrix[true, guessed] = counts
    expected = sklearn.metrics.confusion_matrix(labels, predicted, labels=np.arange(12))
    np.testing.assert_array_equal(matrix, expected)
    assert counts.min() > 0
    assert np.all(np.diff(true * 12 + guessed) > 0)


def test_confusion_batches_count_like_all_at_once():
    labels, predicted = random_case(7)
    streamed = Confusion(12)
    for start in range(0, 300, 32):
        rows = slice(start, start + 32)
        streamed.add(labels[rows].astype(np.uint16), predicted[rows].astype(np.int32))
    whole = counted(12, labels, predicted)
    assert streamed.num_images == whole.num_images == 300
    np.testing.assert_array_equal(streamed.pairs(), whole.pairs())


@pytest.mark.parametrize("seed", range(3))
def test_by_class_agrees_with_counting_the_images(seed):
    labels, predicted = random_case(seed)
    num_images, num_right = counted(12, labels, predicted).by_class()
    assert num_images.dtype == num_right.dtype == np.int64
    np.testing.assert_array_equal(num_images, [np.sum(labels == c) for c in range(12)])
    np.testing.assert_array_equal(
        num_right, [np.sum((labels == c) & (predicted == c)) for c in range(12)]
    )


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_agrees_with_scikit_learn(seed):
    labels, predicted = random_case(seed)
    expected = sklearn.metrics.recall_score(
        labels, predicted, labels=np.unique(labels), average="macro"
    )
    assert counted(12, labels, predicted).balanced_accuracy() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_macro_accuracy_agrees_with_one_class_against_the_rest(seed):
    labels, predicted = random_case(seed)
    each = sklearn.metrics.multilabel_confusion_matrix(labels, predicted, labels=np.arange(12))
    expected = np.mean((each[:, 0, 0] + each[:, 1, 1]) / each.sum(axis=(1, 2)))
    assert counted(12, labels, predicted).macro_accuracy() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_agrees_with_scikit_learn(seed):
    labels, predicted = random_case(seed)
    expected = sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    assert counted(12, labels, predicted).macro_f1() == pytest.approx(expected)


def test_figures_of_a_small_case_equal_those_by_hand():
    # Class 0: 3 of 4 right; class 1: 1 of 2 right; class 2 is predicted alone; class 3 is nowhere.
    found = of_pairs(4, {(0, 0): 3, (0, 2): 1, (1, 1): 1, (1, 0): 1})
    assert found.balanced_accuracy() == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.macro_accuracy() == pytest.approx((4 / 6 + 5 / 6 + 5 / 6 + 6 / 6) / 4)
    assert found.macro_f1() == pytest.approx((6 / 8 + 2 / 3 + 0) / 3)


def test_figures_of_a_model_without_errors_are_one():
    found = counted(5, np.array([0, 2, 2]), np.array([0, 2, 2]))
    assert (found.balanced_accuracy(), found.macro_accuracy(), found.macro_f1()) == (1, 1, 1)


def test_confusion_many_classes_keeps_only_the_pairs_that_occur():
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(0, 20_000, size=(2, 1000))
    found = counted(20_000, labels, predicted)
    assert found.pairs()[2].size <= 1000
    assert found.by_class()[0].sum() == found.num_images == 1000
    assert found.balanced_accuracy() == pytest.approx(
        sklearn.metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    )


@pytest.mark.parametrize("figure", ["balanced_accuracy", "macro_accuracy", "macro_f1"])
def test_figures_without_images_are_refused(figure):
    found = counted(3, np.zeros(0, np.int64), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no images were counted"):
        getattr(found, figure)()


def test_by_class_without_images_is_all_zero():
    np.testing.assert_array_equal(Confusion(3).by_class(), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("labels", "predicted", "words"),
    [
        (np.zeros(2, int), np.zeros(3, int), r"labels of shape \(2,\).*predictions of shape \(3,"),
        (np.zeros((2, 1), int), np.zeros((2, 1), int), r"expected \(image,\) twice"),
        (np.array([0.0]), np.array([0]), "labels of dtype float64"),
        (np.array([0]), np.array([True]), "predictions of dtype bool"),
        (np.array([0, 3]), np.array([0, 0]), "labels from 0 to 3, expected 0 to 2"),
        (np.array([0, 0]), np.array([-1, 0]), "predictions from -1 to 0, expected 0 to 2"),
    ],
)
def test_add_bad_input_is_refused_and_counts_nothing(labels, predicted, words):
    found = Confusion(3)
    with pytest.raises(ValueError, match=words):
        found.add(labels, predicted)
    assert found.num_images == 0


def test_confusion_no_classes_is_refused():
    with pytest.raises(ValueError, match="0 classes, expected at least 1"):
        Confusion(0)


@pytest.mark.parametrize("seed", range(3))
def test_most_changed_agrees_with_counting_every_pair(seed):
    labels, before = random_case(seed)
    _, after = random_case(seed + 100)
    gained, lost = confusion.most_changed(
        counted(12, labels, before), counted(12, labels, after), num=144
    )
    differences = Counter(zip(labels.tolist(), after.tolist(), strict=True))
    differences.subtract(zip(labels.tolist(), before.tolist(), strict=True))
    wrong = [(pair, change) for pair, change in differences.items() if pair[0] != pair[1]]
    expected = sorted(wrong, key=lambda entry: (-abs(entry[1]), entry[0]))
    for found, sign in ((gained, -1), (lost, 1)):
        assert [((pair.true, pair.predicted), pair.change) for pair in found] == [
            (pair, change) for pair, change in expected if change * sign > 0
        ]
        assert len(found) > 10


def test_most_changed_equal_changes_are_ordered_by_class_and_cut():
    default = of_pairs(4, {(0, 1): 2, (0, 2): 2, (1, 0): 5, (2, 2): 4, (3, 1): 1})
    topology = of_pairs(4, {(0, 0): 4, (1, 0): 1, (1, 3): 4, (2, 0): 2, (2, 1): 2, (3, 1): 1})
    gained, lost = confusion.most_changed(default, topology, num=2)
    assert gained == [PairChange(1, 0, 5, 1), PairChange(0, 1, 2, 0)]
    assert lost == [PairChange(1, 3, 0, 4), PairChange(2, 0, 0, 2)]
    assert [pair.change for pair in gained + lost] == [-4, -2, 4, 2]


def test_most_changed_same_model_twice_gives_nothing():
    labels, predicted = random_case(0)
    same = counted(12, labels, predicted)
    assert confusion.most_changed(same, same) == ([], [])


@pytest.mark.parametrize(
    ("topology", "num", "words"),
    [
        (Confusion(4), 20, "3 classes of the default model and 4 of the topology"),
        (Confusion(3), 20, "1 images of the default model and 0 of the topology"),
        (of_pairs(3, {(1, 0): 1}), 20, "differ in their labels, expected the same images"),
        (of_pairs(3, {(0, 0): 1}), 0, "num is 0, expected at least 1"),
    ],
)
def test_most_changed_bad_input_is_refused(topology, num, words):
    with pytest.raises(ValueError, match=words):
        confusion.most_changed(of_pairs(3, {(0, 1): 1}), topology, num)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("num_values", [3, 10_000])
def test_roc_auc_agrees_with_scikit_learn_and_all_pairs(num_values, dtype):
    rng = np.random.default_rng(num_values)
    labels = rng.integers(0, 2, size=200)
    scores = (rng.integers(0, num_values, size=200) / num_values + 0.1 * labels).astype(dtype)
    found = confusion.roc_auc(scores, labels)
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    differences = scores[labels == 1][:, np.newaxis] - scores[labels == 0]
    assert found == pytest.approx(np.mean((differences > 0) + 0.5 * (differences == 0)))


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.5, 0.5, 0.5], [0, 1, 0], 0.5),
        ([-math.inf, 1.0, math.inf], [0, 0, 1], 1.0),
        ([3.0, 2.0], [0, 1], 0.0),
    ],
)
def test_roc_auc_small_cases_equal_those_by_hand(scores, labels, expected):
    assert confusion.roc_auc(np.array(scores), np.array(labels)) == expected


def test_roc_auc_labels_may_be_boolean():
    labels = np.array([False, True, True])
    assert confusion.roc_auc(np.array([0.2, 0.1, 0.3]), labels) == 0.5


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_roc_auc_one_class_missing_gives_none(labels):
    labels = np.array(labels, dtype=np.int64)
    assert confusion.roc_auc(np.linspace(0, 1, labels.size), labels) is None


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        (np.zeros(2), np.zeros(3, int), r"scores of shape \(2,\) and labels of shape \(3,\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), r"expected \(image,\) twice"),
        (np.array([0.0, np.nan]), np.array([0, 1]), "1 of 2 scores are NaN"),
        (np.zeros(2), np.zeros(2), "labels of dtype float64, expected 0 and 1"),
        (np.zeros(2), np.array([1, 2]), "labels from 1 to 2, expected 0 and 1"),
        (np.zeros(2), np.array([-1, 1]), "labels from -1 to 1, expected 0 and 1"),
    ],
)
def test_roc_auc_bad_input_is_refused(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        confusion.roc_auc(scores, labels)
