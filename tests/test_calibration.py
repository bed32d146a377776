from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from sklearn.calibration import calibration_curve

from pipelines.analysis import calibration
from pipelines.analysis.calibration import Bin, Reliability


def counted(num_bins: int, confidences, is_right) -> Reliability:
    made = Reliability(num_bins)
    made.add(np.asarray(confidences), np.asarray(is_right, dtype=bool))
    return made


def random_case(seed: int, num_images: int = 500):
    """Give confidences, most of them high, of a model that is less often right than sure."""
    rng = np.random.default_rng(seed)
    confidences = rng.beta(4, 1.5, size=num_images)
    return confidences, rng.random(num_images) < confidences**1.5


@pytest.mark.parametrize("num_bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_bins_agree_with_scikit_learns_calibration_curve(seed, num_bins):
    confidences, is_right = random_case(seed)
    filled = [each for each in counted(num_bins, confidences, is_right).bins() if each.num_images]
    accuracy, confidence = calibration_curve(is_right, confidences, n_bins=num_bins)
    np.testing.assert_allclose([each.accuracy for each in filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose([each.confidence for each in filled], confidence, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_ece_agrees_with_going_through_the_images_bin_by_bin(seed):
    confidences, is_right = random_case(seed)
    expected = 0.0
    for i in range(15):
        inside = [j for j, value in enumerate(confidences) if i / 15 < value <= (i + 1) / 15]
        if inside:
            gap = np.mean(is_right[inside]) - np.mean(confidences[inside])
            expected += len(inside) / len(confidences) * abs(gap)
    found = counted(15, confidences, is_right)
    assert found.ece() == pytest.approx(expected)
    assert found.ece() == pytest.approx(
        sum(
            each.num_images / 500 * abs(each.accuracy - each.confidence)
            for each in found.bins()
            if each.num_images
        )
    )
    assert expected > 0.05


def test_bins_small_case_equals_the_figures_by_hand():
    found = counted(4, [0.0, 0.25, 0.75, 0.8, 1.0], [False, True, True, False, True])
    assert found.bins() == [
        Bin(0.0, 0.25, num_images=2, confidence=0.125, accuracy=0.5),
        Bin(0.25, 0.5, num_images=0, confidence=None, accuracy=None),
        Bin(0.5, 0.75, num_images=1, confidence=0.75, accuracy=1.0),
        Bin(0.75, 1.0, num_images=2, confidence=0.9, accuracy=0.5),
    ]
    assert found.ece() == pytest.approx((2 * 0.375 + 1 * 0.25 + 2 * 0.4) / 5)


@pytest.mark.parametrize("num_bins", [3, 7, 10, 15, 49])
def test_bins_confidence_at_an_edge_belongs_below_it(num_bins):
    edges = [each.high for each in Reliability(num_bins).bins()]
    assert edges[-1] == 1.0
    found = counted(num_bins, edges, [True] * num_bins)
    assert [each.num_images for each in found.bins()] == [1] * num_bins
    above = counted(num_bins, np.nextafter(edges[:-1], 1), [True] * (num_bins - 1))
    assert [each.num_images for each in above.bins()] == [0] + [1] * (num_bins - 1)


def test_reliability_batches_count_like_all_at_once():
    confidences, is_right = random_case(8)
    confidences = confidences.astype(np.float32)
    streamed = Reliability()
    for start in range(0, 500, 64):
        rows = slice(start, start + 64)
        streamed.add(confidences[rows], is_right[rows])
    whole = counted(15, confidences, is_right)
    assert streamed.num_images == 500
    assert [each.num_images for each in streamed.bins()] == [
        each.num_images for each in whole.bins()
    ]
    assert streamed.ece() == pytest.approx(whole.ece(), rel=1e-12)


def test_ece_right_as_often_as_sure_is_zero():
    assert counted(15, [0.75] * 4, [True, True, True, False]).ece() == 0.0


def test_ece_without_images_is_refused():
    with pytest.raises(ValueError, match="no images were counted"):
        counted(15, [], []).ece()


def test_reliability_no_bins_is_refused():
    with pytest.raises(ValueError, match="0 bins, expected at least 1"):
        Reliability(0)


@pytest.mark.parametrize(
    ("confidences", "is_right", "words"),
    [
        (np.zeros(2), np.zeros(3, bool), r"shape \(2,\) and is_right, bool of shape \(3,\)"),
        (np.zeros((2, 1)), np.zeros((2, 1), bool), r"expected \(image,\) and bool"),
        (np.zeros(2), np.zeros(2, int), "is_right, int64"),
        (np.array([0.5, np.nan]), np.zeros(2, bool), "1 of 2 confidences are NaN or outside 0..1"),
        (np.array([-0.1, 1.1, 1.0]), np.zeros(3, bool), "2 of 3 confidences"),
    ],
)
def test_reliability_bad_input_is_refused_and_counts_nothing(confidences, is_right, words):
    found = Reliability()
    with pytest.raises(ValueError, match=words):
        found.add(confidences, is_right)
    assert found.num_images == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (40, 1000), (3, 11, 7), (0, 4)])
def test_softmax_agrees_with_scipy(shape, dtype):
    logits = np.random.default_rng(len(shape)).normal(0, 8, size=shape).astype(dtype)
    kept = logits.copy()
    found = calibration.softmax(logits)
    assert (found.dtype, found.shape) == (np.float32, shape)
    expected = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-37)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(logits, kept)


@pytest.mark.parametrize(
    "logits",
    [
        np.array([1e4, 1e4 - 1, -1e4], np.float32),
        np.array([3e38, -3e38], np.float32),
        np.array([1e300, 1e300, 0.0], np.float64),
        np.array([6e4, -6e4], np.float16),
    ],
)
def test_softmax_huge_logits_neither_overflow_nor_vanish(logits):
    with np.errstate(over="ignore"):
        expected = scipy.special.softmax(logits.astype(np.longdouble))
    np.testing.assert_allclose(calibration.softmax(logits), expected.astype(np.float64), rtol=1e-5)


def test_softmax_small_case_equals_the_figures_by_hand():
    logits = np.log(np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]], np.float32))
    expected = [[0.125, 0.25, 0.625], [0.375, 0.375, 0.25]]
    np.testing.assert_allclose(calibration.softmax(logits), expected, rtol=1e-6)


def test_softmax_of_any_logits_is_a_confidence():
    logits = np.random.default_rng(0).normal(0, 30, size=(200, 10)).astype(np.float32)
    found = Reliability()
    found.add(calibration.softmax(logits).max(axis=-1), np.ones(200, bool))
    assert found.num_images == 200


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (np.array([[0.0, np.nan]]), "1 of 2 logits are NaN or infinite"),
        (np.array([[np.inf, -np.inf, 0.0]]), "2 of 3 logits"),
        (np.array([1, 2]), "logits of dtype int64, expected floats"),
        (np.zeros((2, 0)), r"logits of shape \(2, 0\)"),
        (np.float32(1.0), r"logits of shape \(\)"),
    ],
)
def test_softmax_bad_input_is_refused(logits, words):
    with pytest.raises(ValueError, match=words):
        calibration.softmax(logits)
