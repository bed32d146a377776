from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from pipelines.analysis import intervals


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("num_images", [1, 2, 17, 400])
def test_wilson_every_count_agrees_with_statsmodels(num_images, level):
    num_right = np.arange(num_images + 1)
    expected = np.transpose(
        proportion_confint(num_right, num_images, alpha=1 - level, method="wilson")
    )
    bounds = [intervals.wilson(int(count), num_images, level) for count in num_right]
    np.testing.assert_allclose(bounds, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_wilson_bounds_are_where_the_score_test_turns(seed):
    rng = np.random.default_rng(seed)
    num_images = int(rng.integers(2, 60_000))
    num_right = int(rng.integers(1, num_images))
    share = num_right / num_images
    low, high = intervals.wilson(num_right, num_images, 0.9)
    for bound, z in ((low, 1.644854), (high, -1.644854)):
        score = (share - bound) / math.sqrt(bound * (1 - bound) / num_images)
        assert score == pytest.approx(z, rel=1e-6)


def test_wilson_none_or_all_right_reaches_the_end_and_has_a_width():
    z_squared = 1.959963984540054**2
    low, high = intervals.wilson(0, 10)
    assert low == 0.0
    assert high == pytest.approx(z_squared / (10 + z_squared))
    assert intervals.wilson(10, 10) == (pytest.approx(1 - high), 1.0)


def test_wilson_none_or_all_right_leaves_no_rounding_at_the_end():
    sizes = range(1, 200)
    assert {intervals.wilson(0, num_images)[0] for num_images in sizes} == {0.0}
    assert {intervals.wilson(num_images, num_images)[1] for num_images in sizes} == {1.0}


@pytest.mark.parametrize(
    ("counts", "level", "words"),
    [
        ((0, 0), 0.95, "0 right of 0 images, expected at least one image"),
        ((-1, 5), 0.95, "-1 right of 5 images"),
        ((6, 5), 0.95, "6 right of 5 images"),
        ((2, 5), 95, "level is 95, expected a share between 0 and 1"),
        ((2, 5), math.nan, "level is nan"),
    ],
)
def test_wilson_bad_input_is_refused(counts, level, words):
    with pytest.raises(ValueError, match=words):
        intervals.wilson(*counts, level)


def test_over_folds_small_case_equals_the_figures_by_hand():
    # Mean 0.15, s^2 = 0.05/3, variance of the mean (1/4 + 1) s^2 = 1/48, so t = 0.15 sqrt(48); with
    # 3 degrees of freedom the distribution has a closed form in x = t / sqrt(3) = 0.6.
    found = intervals.over_folds(np.array([[0.1, 0.2], [0.3, 0.0]]), test_share=0.5)
    assert found.mean == pytest.approx(0.15)
    assert found.p == pytest.approx(1 - 2 / math.pi * (0.6 / 1.36 + math.atan(0.6)))
    half_width = 3.182446305 / math.sqrt(48)  # the 97.5 % point of Student's t, from a table
    assert (found.low, found.high) == (
        pytest.approx(0.15 - half_width),
        pytest.approx(0.15 + half_width),
    )


@pytest.mark.parametrize("seed", range(4))
def test_over_folds_hardly_any_test_images_is_the_ordinary_t_test(seed):
    differences = np.random.default_rng(seed).normal(0.01, 0.02, size=(3, 5))
    ordinary = stats.ttest_1samp(differences, 0.0, axis=None)
    bounds = ordinary.confidence_interval(0.9)
    found = intervals.over_folds(differences, test_share=1e-12, level=0.9)
    assert found.mean == pytest.approx(differences.mean())
    assert found.p == pytest.approx(ordinary.pvalue, rel=1e-9)
    assert (found.low, found.high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))


@pytest.mark.parametrize("seed", range(4))
def test_over_folds_overlapping_folds_shrinks_t_as_the_correction_says(seed):
    num_folds, num_seeds = 5, 4
    differences = np.random.default_rng(seed).normal(0.01, 0.02, size=(num_seeds, num_folds))
    ordinary = stats.ttest_1samp(differences, 0.0, axis=None)
    num_values = num_seeds * num_folds
    t = ordinary.statistic / math.sqrt(1 + num_values / (num_folds - 1))
    found = intervals.over_folds(differences, test_share=1 / num_folds)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), num_values - 1), rel=1e-9)
    half_width = abs(found.mean / t) * stats.t.ppf(0.975, num_values - 1)
    assert found.high - found.mean == pytest.approx(half_width)
    assert found.mean - found.low == pytest.approx(half_width)


def test_over_folds_folds_as_alike_as_assumed_rejects_as_often_as_it_says():
    # Nadeau and Bengio take values to be correlated by n_test / (n_test + n_train), where the
    # corrected t is exact; the ordinary test rejects far too often.
    rng = np.random.default_rng(5)
    test_share, num_trials = 0.2, 2000
    common = rng.normal(0, math.sqrt(test_share), size=(num_trials, 1, 1))
    trials = 0.01 * (common + rng.normal(0, math.sqrt(1 - test_share), size=(num_trials, 2, 5)))
    found = [intervals.over_folds(trial, test_share) for trial in trials]
    is_rejected = np.array([each.p <= 0.05 for each in found])
    error = math.sqrt(0.05 * 0.95 / num_trials)
    assert is_rejected.mean() == pytest.approx(0.05, abs=4 * error)
    np.testing.assert_array_equal(is_rejected, [each.low > 0 or each.high < 0 for each in found])
    ordinary = stats.ttest_1samp(trials.reshape(num_trials, -1), 0.0, axis=1).pvalue
    assert np.mean(ordinary <= 0.05) > 0.2


@pytest.mark.parametrize("value", [0.0, 0.1, -0.1])
def test_over_folds_equal_differences_say_nothing_of_their_spread(value):
    values = np.full((2, 3), value)
    values[0, 0] += 1e-17  # of shares, which are rounded
    found = intervals.over_folds(values, test_share=0.1)
    assert found == intervals.FoldDifference(mean=value, low=None, high=None, p=None)


def test_over_folds_one_value_has_a_mean_alone():
    found = intervals.over_folds(np.array([[0.25]]), test_share=0.1)
    assert found == intervals.FoldDifference(mean=0.25, low=None, high=None, p=None)


@pytest.mark.parametrize(
    ("differences", "options", "words"),
    [
        (np.zeros(3), {}, r"shape \(3,\), expected \(seed, fold\)"),
        (np.zeros((2, 0)), {}, "at least one of each"),
        (np.array([[0.0, np.nan]]), {}, "1 of 2 differences are NaN or outside -1..1"),
        (np.array([[1.5, -2.0, 1.0]]), {}, "2 of 3 differences"),
        (np.zeros((2, 2)), {"test_share": 0.0}, "test_share is 0.0"),
        (np.zeros((2, 2)), {"test_share": 1.0}, "test_share is 1.0"),
        (np.zeros((2, 2)), {"test_share": math.nan}, "test_share is nan"),
        (np.zeros((2, 2)), {"level": 0.0}, "level is 0.0"),
    ],
)
def test_over_folds_bad_input_is_refused(differences, options, words):
    with pytest.raises(ValueError, match=words):
        intervals.over_folds(differences, **{"test_share": 0.1, **options})
