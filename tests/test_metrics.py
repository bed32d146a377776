from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.analysis import metrics

THESIS_GAINED, THESIS_LOST, THESIS_IMAGES = 1163, 1073, 50_000  # thesis, table 4.8


def test_label_ranks_distinct_scores_counts_larger_ones():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    np.testing.assert_array_equal(metrics.label_ranks(scores, np.array([0, 0, 1])), [2, 0, 1])


def test_label_ranks_equal_scores_put_lower_class_first():
    scores = np.array([[1.0, 3.0, 3.0, 3.0]] * 4)
    np.testing.assert_array_equal(metrics.label_ranks(scores, np.arange(4)), [3, 0, 1, 2])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_label_ranks_many_ties_agrees_with_stable_sort_and_argmax(dtype):
    rng = np.random.default_rng(7)
    scores = rng.integers(0, 4, size=(200, 9)).astype(dtype)
    labels = rng.integers(0, 9, size=200)
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = np.argmax(order == labels[:, np.newaxis], axis=1)
    ranks = metrics.label_ranks(scores, labels)
    np.testing.assert_array_equal(ranks, expected)
    np.testing.assert_array_equal(ranks == 0, scores.argmax(axis=1) == labels)


def test_label_ranks_infinite_logit_is_an_ordinary_score():
    scores = np.array([[-np.inf, 0.0, np.inf]])
    np.testing.assert_array_equal(metrics.label_ranks(scores, np.array([0])), [2])


def test_label_ranks_unsigned_labels_are_accepted():
    scores = np.array([[0.1, 0.9], [0.9, 0.1]])
    np.testing.assert_array_equal(metrics.label_ranks(scores, np.array([1, 1], np.uint16)), [0, 1])


def test_label_ranks_no_images_gives_empty():
    ranks = metrics.label_ranks(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert ranks.shape == (0,)
    assert ranks.dtype == np.int64


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        (np.zeros(3), np.zeros(3, np.int64), r"scores of shape \(3,\).*expected \(image, class\)"),
        (np.zeros((2, 3)), np.zeros(3, np.int64), r"labels of shape \(3,\)"),
        (np.zeros((2, 3)), np.zeros(2), "labels of dtype float64"),
        (np.zeros((2, 3)), np.array([0, 3]), "labels from 0 to 3, expected 0 to 2"),
        (np.zeros((2, 3)), np.array([-1, 0]), "labels from -1 to 0, expected 0 to 2"),
        (np.array([[0.0, np.nan]]), np.array([0]), "1 of 2 scores are NaN"),
    ],
)
def test_label_ranks_bad_input_is_refused(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        metrics.label_ranks(scores, labels)


@pytest.mark.parametrize(("k", "expected"), [(1, 0.25), (2, 0.5), (5, 0.75), (100, 1.0)])
def test_top_k_accuracy_counts_ranks_below_k(k, expected):
    assert metrics.top_k_accuracy(np.array([0, 1, 4, 7]), k) == expected


@pytest.mark.parametrize(
    ("ranks", "k", "words"),
    [
        (np.zeros(0, np.int64), 1, "at least one image"),
        (np.zeros((2, 2), np.int64), 1, r"ranks of shape \(2, 2\)"),
        (np.zeros(2, np.int64), 0, "k is 0, expected at least 1"),
    ],
)
def test_top_k_accuracy_bad_input_is_refused(ranks, k, words):
    with pytest.raises(ValueError, match=words):
        metrics.top_k_accuracy(ranks, k)


@pytest.mark.parametrize(("num_classes", "expected"), [(2, None), (5, None), (6, 0.5)])
def test_top5_or_none_few_classes_gives_none(num_classes, expected):
    assert metrics.top5_or_none(np.array([0, 5]), num_classes) == expected


def test_top5_or_none_no_classes_is_refused():
    with pytest.raises(ValueError, match="0 classes, expected at least 1"):
        metrics.top5_or_none(np.array([0]), 0)


def test_change_counts_each_type_is_told_apart():
    default = np.array([False, False, False, True, True, True, True])
    topology = np.array([True, False, False, False, False, True, True])
    counts = metrics.change_counts(default, topology)
    assert counts == metrics.ChangeCounts(type_a=1, type_b=2, type_c=4)
    assert counts.num_images == 7
    accuracy_difference = topology.mean() - default.mean()
    assert (counts.type_a - counts.type_b) / counts.num_images == pytest.approx(accuracy_difference)


@pytest.mark.parametrize(
    ("default", "topology", "words"),
    [
        (np.ones(2, bool), np.ones(3, bool), "2 images of the default model and 3 of the topology"),
        (np.ones(2), np.ones(2, bool), "default_correct is float64"),
        (np.ones(2, bool), np.ones((2, 1), bool), r"topology_correct is bool of shape \(2, 1\)"),
    ],
)
def test_change_counts_bad_input_is_refused(default, topology, words):
    with pytest.raises(ValueError, match=words):
        metrics.change_counts(default, topology)


def test_mcnemar_exact_p_small_counts_equals_sum_of_binomial_tail():
    tail = sum(math.comb(10, i) for i in range(2, -1, -1)) / 2**10
    assert metrics.mcnemar_exact_p(8, 2) == pytest.approx(2 * tail)


def test_mcnemar_exact_p_thesis_counts_is_just_above_five_per_cent():
    assert metrics.mcnemar_exact_p(THESIS_GAINED, THESIS_LOST) == pytest.approx(0.0598, abs=1e-4)


def test_mcnemar_exact_p_swapped_counts_gives_the_same():
    assert metrics.mcnemar_exact_p(30, 12) == pytest.approx(metrics.mcnemar_exact_p(12, 30))


def test_mcnemar_exact_p_nothing_changed_gives_one():
    assert metrics.mcnemar_exact_p(0, 0) == 1.0


def test_mcnemar_exact_p_negative_count_is_refused():
    with pytest.raises(ValueError, match="-1 gained and 2 lost"):
        metrics.mcnemar_exact_p(-1, 2)


def test_gain_interval_agrees_with_resampling_the_images():
    type_a, type_b, num_images, num_resamples = 30, 18, 400, 4000
    changes = np.repeat([1, -1, 0], [type_a, type_b, num_images - type_a - type_b])
    rng = np.random.default_rng(11)
    picks = rng.integers(0, num_images, size=(num_resamples, num_images))
    naive = np.quantile(changes[picks].mean(axis=1), [0.025, 0.975])
    interval = metrics.gain_interval(
        type_a, type_b, num_images, seed=12, num_resamples=num_resamples
    )
    # Standard error of a bootstrap quantile: sqrt(q(1-q)/resamples) / density; both sides have one.
    spread = math.sqrt((type_a + type_b) / num_images - ((type_a - type_b) / num_images) ** 2)
    sigma = spread / math.sqrt(num_images)
    density = math.exp(-(1.96**2) / 2) / math.sqrt(2 * math.pi) / sigma
    error = math.sqrt(2) * math.sqrt(0.025 * 0.975 / num_resamples) / density
    np.testing.assert_allclose(interval, naive, rtol=0, atol=4 * error + 1 / num_images)
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * sigma, rel=0.1)


def test_gain_interval_thesis_counts_reaches_below_zero():
    low, high = metrics.gain_interval(THESIS_GAINED, THESIS_LOST, THESIS_IMAGES, seed=0)
    gain = (THESIS_GAINED - THESIS_LOST) / THESIS_IMAGES
    half_width = 1.96 * math.sqrt(THESIS_GAINED + THESIS_LOST) / THESIS_IMAGES
    assert low == pytest.approx(gain - half_width, abs=1e-4)
    assert high == pytest.approx(gain + half_width, abs=1e-4)
    assert low < 0 < high


def test_gain_interval_same_seed_repeats_and_other_seed_differs():
    first = metrics.gain_interval(300, 200, 10_000, seed=3, num_resamples=500)
    assert metrics.gain_interval(300, 200, 10_000, seed=3, num_resamples=500) == first
    assert metrics.gain_interval(300, 200, 10_000, seed=4, num_resamples=500) != first


def test_gain_interval_higher_level_is_wider():
    low_80, high_80 = metrics.gain_interval(30, 20, 1000, seed=5, level=0.8)
    low_99, high_99 = metrics.gain_interval(30, 20, 1000, seed=5, level=0.99)
    assert low_99 < low_80 < high_80 < high_99


@pytest.mark.parametrize(("type_a", "type_b", "gain"), [(0, 0, 0.0), (50, 0, 1.0), (0, 50, -1.0)])
def test_gain_interval_all_images_alike_has_no_width(type_a, type_b, gain):
    assert metrics.gain_interval(type_a, type_b, 50, seed=0) == (gain, gain)


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        ((-1, 0, 10), {}, "-1 gained and 0 lost, expected counts of at least 0"),
        ((0, 0, 0), {}, "expected at least one image"),
        ((6, 5, 10), {}, "6 gained and 5 lost of 10 images"),
        ((1, 1, 10), {"num_resamples": 0}, "0 resamples, expected at least 1"),
        ((1, 1, 10), {"level": 1.0}, "level is 1.0"),
        ((1, 1, 10), {"level": 95}, "level is 95"),
    ],
)
def test_gain_interval_bad_input_is_refused(counts, options, words):
    with pytest.raises(ValueError, match=words):
        metrics.gain_interval(*counts, seed=0, **options)


def test_oracle_accuracy_one_right_branch_is_enough():
    correct = np.array([[False, False], [True, False], [False, True], [True, True]])
    assert metrics.oracle_accuracy(correct) == 0.75


@pytest.mark.parametrize(
    ("correct", "words"),
    [
        (np.ones(3, bool), r"bool of shape \(3,\)"),
        (np.ones((3, 2)), r"float64 of shape \(3, 2\)"),
        (np.ones((0, 2), bool), "at least one of each"),
        (np.ones((2, 0), bool), "at least one of each"),
    ],
)
def test_oracle_accuracy_bad_input_is_refused(correct, words):
    with pytest.raises(ValueError, match=words):
        metrics.oracle_accuracy(correct)


def test_paired_interval_is_the_interval_of_the_counted_changes():
    rng = np.random.default_rng(2)
    first, second = rng.random((2, 500)) < [[0.6], [0.7]]
    gained, lost = int(np.sum(second & ~first)), int(np.sum(first & ~second))
    options = {"seed": 4, "num_resamples": 500, "level": 0.8}
    found = metrics.paired_interval(first, second, **options)
    assert found == metrics.gain_interval(gained, lost, 500, **options)
    assert found[0] < second.mean() - first.mean() < found[1]


def test_paired_interval_different_images_is_refused():
    with pytest.raises(ValueError, match="expected the same images"):
        metrics.paired_interval(np.ones(2, bool), np.ones(3, bool), seed=0)


def test_best_ranks_agree_with_the_oracle_for_every_k():
    ranks = np.random.default_rng(6).integers(0, 9, size=(100, 4))
    best = metrics.best_ranks(ranks)
    assert metrics.top_k_accuracy(best, 1) == metrics.oracle_accuracy(ranks == 0)
    for k in range(1, 10):
        assert metrics.top_k_accuracy(best, k) == np.mean([min(row) < k for row in ranks.tolist()])


def test_best_ranks_small_case_takes_the_smallest():
    ranks = np.array([[3, 1, 2], [0, 5, 5], [4, 4, 4]])
    np.testing.assert_array_equal(metrics.best_ranks(ranks), [1, 0, 4])


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (np.zeros(3, int), r"int64 of shape \(3,\), expected int \(image, branch\)"),
        (np.zeros((3, 0), int), "at least one branch"),
        (np.zeros((3, 2)), "ranks are float64"),
        (np.array([[0, -1]]), "a rank of -1, expected at least 0"),
    ],
)
def test_best_ranks_bad_input_is_refused(ranks, words):
    with pytest.raises(ValueError, match=words):
        metrics.best_ranks(ranks)


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.5, 0.0), (0.75, 1.0), (0.625, 0.5), (0.25, -1.0), (1.0, 2.0)]
)
def test_headroom_share_is_the_part_of_the_way_to_the_oracle(accuracy, expected):
    assert metrics.headroom_share(accuracy, default=0.5, oracle=0.75) == expected


def test_headroom_share_no_headroom_gives_none():
    assert metrics.headroom_share(0.6, default=0.7, oracle=0.7) is None


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((1.1, 0.5, 0.6), "accuracy is 1.1, expected a share in 0..1"),
        ((0.5, math.nan, 0.6), "default is nan"),
        ((0.5, 0.5, 60), "oracle is 60"),
        ((0.5, 0.5, 0.4), "oracle is 0.4, expected at least the default model's 0.5"),
    ],
)
def test_headroom_share_bad_input_is_refused(shares, words):
    with pytest.raises(ValueError, match=words):
        metrics.headroom_share(*shares)
