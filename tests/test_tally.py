"""What is kept of the scores, against the same from all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from scored import BRANCHES, in_batches, make_scores, place, places, ranks_by_hand, tallied
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_auc_score

from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.evaluation.scoring import Scores
from pipelines.evaluation.tally import Tally

BOTH = (TOPOLOGY, DEFAULT)
SIZES = pytest.mark.parametrize("size", [1, 8, 32, 97])  # 97 images: the last batch is smaller
CLASSES = pytest.mark.parametrize("num_classes", [2, 3, 5, 7])


def full(num_classes: int = 7, seed: int = 4) -> Scores:
    return make_scores(
        num_classes=num_classes,
        seed=seed,
        others=("mean_logits", "run_b"),
        control_branches=4,
        has_swapped=True,
    )


def of_both(scores: Scores, original: int = 0) -> dict[str, np.ndarray]:
    return {TOPOLOGY: scores.by_name[TOPOLOGY], DEFAULT: scores.default[:, original]}


@SIZES
@CLASSES
def test_ranks_of_every_comparator_are_those_by_sorting(num_classes, size):
    scores = full(num_classes)
    tally = tallied(scores, size)
    np.testing.assert_array_equal(tally.labels, scores.labels)
    expected = ranks_by_hand(scores)
    assert tally.names == [TOPOLOGY, "mean_logits", "run_b", DEFAULT]
    for name in tally.names:
        np.testing.assert_array_equal(tally.ranks(name), expected[name])
        assert tally.ranks(name).dtype == np.int32
    by_branch = places(scores.default, scores.labels)
    np.testing.assert_array_equal(tally.default_ranks(), by_branch)
    assert tally.default_ranks().shape == (97, len(BRANCHES))


@SIZES
def test_control_ranks_are_the_best_over_its_branches(size):
    scores = full()
    expected = places(scores.control, scores.labels).min(axis=1)
    np.testing.assert_array_equal(tallied(scores, size).control_ranks(), expected)
    assert 0 < np.mean(expected == 0) < 1


@SIZES
def test_swapped_counts_are_the_images_right_by_branch(size):
    scores = full()
    found = tallied(scores, size).num_swapped
    expected = (places(scores.swapped, scores.labels) == 0).sum(axis=0)
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (np.int64, (len(BRANCHES) - 1,))


def test_without_control_and_swaps_there_are_none():
    tally = tallied(make_scores())
    assert tally.control_ranks() is None
    assert tally.num_swapped is None


@CLASSES
@SIZES
def test_top_classes_are_the_first_by_sorting_with_their_probabilities(num_classes, size):
    scores = full(num_classes)
    tally = Tally(num_classes, 0)
    judged = [tally.add(batch) for batch in in_batches(scores, size)]
    num_ties = 0
    for name, found in of_both(scores).items():
        classes = np.concatenate([one.top[name].classes for one in judged])
        confidences = np.concatenate([one.top[name].confidences for one in judged])
        assert (classes.dtype, confidences.dtype) == (np.int32, np.float32)
        assert classes.shape == confidences.shape == (97, min(5, num_classes))
        ordered = np.argsort(-found, axis=1, kind="stable")[:, :5]
        np.testing.assert_array_equal(classes, ordered)
        np.testing.assert_array_equal(classes[:, 0], found.argmax(axis=1))
        shares = scipy.special.softmax(found.astype(np.float64), axis=1)
        expected = np.take_along_axis(shares, ordered, axis=1)
        np.testing.assert_allclose(confidences, expected, rtol=1e-5)
        num_ties += sum(len(set(row)) < num_classes for row in found.tolist())
    assert num_ties > 0


def test_top_classes_all_equal_are_the_lowest_numbers():
    scores = make_scores(6, 9, noise=0.0)
    flat = Scores(
        scores.ids, scores.labels, 0 * scores.default, {TOPOLOGY: 0 * scores.by_name[TOPOLOGY]}
    )
    judged = Tally(9, 0).add(flat)
    for name in BOTH:
        np.testing.assert_array_equal(judged.top[name].classes, [[0, 1, 2, 3, 4]] * 6)
        np.testing.assert_allclose(judged.top[name].confidences, 1 / 9, rtol=1e-6)
        np.testing.assert_array_equal(judged.ranks[name], scores.labels)


def test_top_classes_ties_across_the_fifth_place_keep_the_lower_number():
    row = np.array([[1, 3, 1, 5, 1, 1, 3, 1]], np.float32)
    scores = Scores(["a"], np.array([7], np.int32), row[:, None], {TOPOLOGY: row})
    judged = Tally(8, 0).add(scores)
    assert judged.top[TOPOLOGY].classes.tolist() == [[3, 1, 6, 0, 2]]
    assert judged.ranks[TOPOLOGY].tolist() == [place(row[0].tolist(), 7)] == [7]


@SIZES
def test_judged_rows_bear_their_own_ids_ranks_and_confidences(size):
    scores = full()
    tally = Tally(7, 0)
    judged = [tally.add(batch) for batch in in_batches(scores, size)]
    assert [name for one in judged for name in one.ids] == scores.ids
    np.testing.assert_array_equal(np.concatenate([one.labels for one in judged]), scores.labels)
    for name, expected in ranks_by_hand(scores).items():
        np.testing.assert_array_equal(np.concatenate([one.ranks[name] for one in judged]), expected)
    own = np.arange(97), scores.labels
    shares = scipy.special.softmax(scores.by_name[TOPOLOGY].astype(np.float64), axis=1)[own]
    found = np.concatenate([one.confidences for one in judged])
    np.testing.assert_allclose(found, shares, rtol=1e-5)
    found = np.concatenate([one.default_confidences for one in judged])
    for i in range(len(BRANCHES)):
        shares = scipy.special.softmax(scores.default[:, i].astype(np.float64), axis=1)[own]
        np.testing.assert_allclose(found[:, i], shares, rtol=1e-5)
    control = np.concatenate([one.control for one in judged])
    np.testing.assert_array_equal(control, places(scores.control, scores.labels).min(axis=1))


@SIZES
@CLASSES
def test_confusion_agrees_with_scikit_learn(num_classes, size):
    scores = full(num_classes)
    tally = tallied(scores, size)
    for name, found in of_both(scores).items():
        expected = confusion_matrix(scores.labels, found.argmax(1), labels=range(num_classes))
        table = np.zeros((num_classes, num_classes), np.int64)
        true, predicted, counts = tally.confusion[name].pairs()
        table[true, predicted] = counts
        np.testing.assert_array_equal(table, expected)


@SIZES
@CLASSES
def test_reliability_agrees_with_scikit_learn(num_classes, size):
    scores = make_scores(num_classes=num_classes, has_ties=False)  # which lie on edges of bins
    tally = tallied(scores, size)
    for name, found in of_both(scores).items():
        shares = scipy.special.softmax(found.astype(np.float64), axis=1).max(axis=1)
        is_right = found.argmax(axis=1) == scores.labels
        accuracy, confidence = calibration_curve(is_right, shares, n_bins=15)
        filled = [one for one in tally.reliability[name].bins() if one.num_images]
        assert sum(one.num_images for one in filled) == 97
        np.testing.assert_allclose([one.accuracy for one in filled], accuracy, rtol=1e-12)
        np.testing.assert_allclose([one.confidence for one in filled], confidence, rtol=1e-5)


@SIZES
def test_scores_of_two_classes_rank_as_scikit_learn_has_it(size):
    scores = full(2)
    tally = tallied(scores, size)
    for name, found in of_both(scores).items():
        kept = np.concatenate(tally.scores_of_1[name])
        shares = scipy.special.softmax(found.astype(np.float64), axis=1)[:, 1]
        np.testing.assert_allclose(kept, shares, rtol=1e-5)
        expected = roc_auc_score(scores.labels, found[:, 1] - found[:, 0])
        assert roc_auc_score(scores.labels, kept) == pytest.approx(expected)


def test_scores_of_more_than_two_classes_are_not_kept():
    assert tallied(full(3)).scores_of_1 == {TOPOLOGY: [], DEFAULT: []}


def test_a_batch_of_one_class_alone_counts_like_any_other():
    scores = make_scores(20, 3, labels=np.full(20, 2))
    tally = tallied(scores, 7)
    assert tally.confusion[DEFAULT].by_class()[0].tolist() == [0, 0, 20]
    np.testing.assert_array_equal(tally.ranks(TOPOLOGY), ranks_by_hand(scores)[TOPOLOGY])


@pytest.mark.parametrize("original", [0, 1, 2])
def test_default_model_is_judged_on_the_original_wherever_that_stands(original):
    scores = full()
    tally = tallied(scores, 16, original)
    on_original = scores.default[:, original]
    np.testing.assert_array_equal(tally.ranks(DEFAULT), places(on_original, scores.labels))
    expected = confusion_matrix(scores.labels, on_original.argmax(1), labels=range(7))
    true, predicted, counts = tally.confusion[DEFAULT].pairs()
    np.testing.assert_array_equal(expected[true, predicted], counts)
    assert counts.sum() == 97
    first = next(in_batches(scores, 16))
    top = Tally(7, original).add(first).top[DEFAULT]
    np.testing.assert_array_equal(top.classes[:, 0], on_original[:16].argmax(axis=1))
    shares = scipy.special.softmax(on_original[:16].astype(np.float64), axis=1)
    np.testing.assert_allclose(top.confidences[:, 0], shares.max(axis=1), rtol=1e-5)


def test_kept_numbers_do_not_follow_arrays_that_are_used_again():
    scores = make_scores(12, 2, has_swapped=True, control_branches=2)
    tally = Tally(2, 0)
    tally.add(scores)
    expected = tallied(scores, 12)
    for found in (scores.default, scores.by_name[TOPOLOGY], scores.control, scores.swapped):
        found[:] = 0
    assert tally.num_swapped.tolist() == expected.num_swapped.tolist()
    for name in BOTH:
        np.testing.assert_array_equal(tally.ranks(name), expected.ranks(name))
        kept = np.concatenate(tally.scores_of_1[name])
        np.testing.assert_array_equal(kept, np.concatenate(expected.scores_of_1[name]))
