from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from pipelines.analysis import comparisons, metrics

THESIS_GAINED, THESIS_LOST, THESIS_IMAGES = 1163, 1073, 50_000  # thesis, table 4.8
THESIS_CHANGED = (THESIS_GAINED + THESIS_LOST) / THESIS_IMAGES
Z_ALPHA, Z_POWER = 1.959963985, 0.841621234  # normal distribution at 0.975 and at 0.8


@pytest.mark.parametrize("seed", range(5))
def test_holm_random_values_agrees_with_statsmodels(seed):
    rng = np.random.default_rng(seed)
    p_values = np.round(rng.random(rng.integers(1, 15)) ** 3, 2)  # rounding makes ties
    expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(comparisons.holm(p_values.tolist()), expected, rtol=1e-12)


def test_holm_small_case_equals_the_figures_by_hand():
    adjusted = comparisons.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_large_values_stop_at_one():
    assert comparisons.holm([0.9, 0.4, 0.8]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("p_values", [[], [0.2]])
def test_holm_fewer_than_two_tests_changes_nothing(p_values):
    assert comparisons.holm(p_values) == p_values


@pytest.mark.parametrize(
    ("p_values", "words"),
    [
        ([0.1, math.nan], "1 of 2 p-values are NaN or outside 0..1"),
        ([-0.1, 1.1, 0.5], "2 of 3 p-values"),
        ([[0.1, 0.2]], r"p-values of shape \(1, 2\)"),
    ],
)
def test_holm_bad_input_is_refused(p_values, words):
    with pytest.raises(ValueError, match=words):
        comparisons.holm(p_values)


@pytest.mark.parametrize(
    ("num_images", "changed_share", "gain", "alpha"),
    [
        (12, 0.8, 0.6, 0.05),
        (25, 0.5, 0.5, 0.05),
        (25, 0.5, 0.1, 0.3),
        (25, 0.1, 0.4, 0.01),
        (30, 1.0, 0.3, 0.1),
        (30, 0.6, 0.0, 0.2),
    ],
)
def test_power_few_images_equals_sum_over_all_outcomes(num_images, changed_share, gain, alpha):
    changed_share_or_gain = max(changed_share, gain)
    shares = [
        (changed_share_or_gain + gain) / 2,
        (changed_share_or_gain - gain) / 2,
        1 - changed_share_or_gain,
    ]
    outcomes = [
        (gained, lost, num_images - gained - lost)
        for gained in range(num_images + 1)
        for lost in range(min(gained, num_images - gained + 1))
        if mcnemar([[0, gained], [lost, 0]], exact=True).pvalue <= alpha
    ]
    expected = stats.multinomial.pmf(outcomes, num_images, shares).sum()
    found = comparisons.power(num_images, changed_share, gain, alpha)
    assert found == pytest.approx(expected, abs=2e-9)


@pytest.mark.parametrize(
    ("num_images", "changed_share", "gain"),
    [(300, 0.2, 0.06), (2000, 0.1, 0.02), (10_000, 0.05, 0.005)],
)
def test_power_agrees_with_simulated_tests(num_images, changed_share, gain):
    num_trials = 4000
    shares = [(changed_share + gain) / 2, (changed_share - gain) / 2, 1 - changed_share]
    draws = np.random.default_rng(num_images).multinomial(num_images, shares, size=num_trials)
    gained, lost = draws[:, 0], draws[:, 1]
    p_values = 2 * stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5)
    simulated = np.mean((p_values <= 0.05) & (gained > lost))
    error = math.sqrt(simulated * (1 - simulated) / num_trials)
    found = comparisons.power(num_images, changed_share, gain)
    assert found == pytest.approx(simulated, abs=4 * error)


@pytest.mark.parametrize(
    ("num_images", "changed_share", "gain"),
    [(5000, 0.2, 0.015), (10_000, 0.1, 0.01), (50_000, 0.04, 0.002), (50_000, 0.5, 0.01)],
)
def test_power_many_changes_is_near_the_normal_approximation(num_images, changed_share, gain):
    # Connor, Biometrics 43, 1987, without the continuity that the exact test pays for: the exact
    # power is lower, by no more than 0.02 with 1,000 changes and more.
    spread = math.sqrt(changed_share - gain**2)
    z = (gain * math.sqrt(num_images) - Z_ALPHA * math.sqrt(changed_share)) / spread
    approximate = float(stats.norm.cdf(z))
    exact = comparisons.power(num_images, changed_share, gain)
    assert approximate - 0.02 < exact < approximate


def test_power_no_gain_rejects_in_its_favour_in_half_of_alpha_at_most():
    found = comparisons.power(1000, 0.5, 0.0, alpha=0.05)
    assert 0.02 < found <= 0.025


@pytest.mark.parametrize(("alpha", "expected"), [(0.0625, 1.0), (0.0624, 0.0)])
def test_power_p_value_of_just_alpha_is_a_rejection(alpha, expected):
    assert metrics.mcnemar_exact_p(5, 0) == 0.0625
    assert comparisons.power(5, 1.0, 1.0, alpha) == pytest.approx(expected)


def test_power_gain_beyond_the_changes_takes_all_changes_for_gains():
    # Six changes, all of them gains, are the fewest that 5 % finds: p = 2 / 2**6.
    expected = float(stats.binom.sf(5, 40, 0.2))
    assert comparisons.power(40, 0.05, 0.2) == pytest.approx(expected, abs=1e-8)


def test_power_nothing_changes_finds_nothing():
    assert comparisons.power(50, 0.0, 0.0) == 0.0


@pytest.mark.parametrize("changed_share", [0.0, 0.03, 0.3, 1.0])
def test_power_larger_gain_is_never_harder_to_find(changed_share):
    powers = [comparisons.power(200, changed_share, gain) for gain in np.linspace(0, 1, 41)]
    assert np.all(np.diff(powers) >= -1e-9)
    assert powers[0] < 0.05 < powers[20]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0.1, 0.1, 0.05), "0 images, expected at least 1"),
        ((10, 1.1, 0.1, 0.05), "changed_share is 1.1"),
        ((10, math.nan, 0.1, 0.05), "changed_share is nan"),
        ((10, 0.1, -0.1, 0.05), "gain is -0.1"),
        ((10, 0.1, math.nan, 0.05), "gain is nan"),
        ((10, 0.1, 0.1, 0.0), "alpha is 0.0"),
        ((10, 0.1, 0.1, 5), "alpha is 5"),
    ],
)
def test_power_bad_input_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        comparisons.power(*arguments)


@pytest.mark.parametrize(
    ("num_images", "changed_share", "power"),
    [(40, 0.0, 0.8), (40, 0.3, 0.9), (400, 0.1, 0.8), (3000, 0.5, 0.5), (50_000, 0.0447, 0.8)],
)
def test_min_detectable_gain_is_where_the_power_is_reached(num_images, changed_share, power):
    gain = comparisons.min_detectable_gain(num_images, changed_share, power=power)
    assert comparisons.power(num_images, changed_share, gain) >= power
    assert comparisons.power(num_images, changed_share, gain - 0.1 / num_images) < power


def test_min_detectable_gain_six_images_all_have_to_change():
    gain = comparisons.min_detectable_gain(6, 0.0)
    assert gain == pytest.approx(0.8 ** (1 / 6), abs=0.1 / 6)


@pytest.mark.parametrize("changed_share", [0.0, 0.5, 1.0])
def test_min_detectable_gain_five_images_show_none(changed_share):
    assert comparisons.min_detectable_gain(5, changed_share) is None


def test_min_detectable_gain_thesis_counts_is_more_than_the_thesis_gained():
    p = metrics.mcnemar_exact_p(THESIS_GAINED, THESIS_LOST)
    table = [[0, THESIS_GAINED], [THESIS_LOST, 0]]
    assert p == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)
    assert p == pytest.approx(0.0598, abs=5e-5)
    gained = (THESIS_GAINED - THESIS_LOST) / THESIS_IMAGES
    assert gained == pytest.approx(0.0018)
    gain = comparisons.min_detectable_gain(THESIS_IMAGES, THESIS_CHANGED)
    # Connor's gain of that power: sqrt(n) d = z_alpha sqrt(psi) + z_power sqrt(psi - d^2).
    connor = (Z_ALPHA + Z_POWER) * math.sqrt(THESIS_CHANGED / THESIS_IMAGES)
    assert gain == pytest.approx(connor, rel=0.02)
    assert gain > gained
    assert 0.4 < comparisons.power(THESIS_IMAGES, THESIS_CHANGED, gained) < 0.5


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((0, 0.1), {}, "0 images, expected at least 1"),
        ((10, -0.1), {}, "changed_share is -0.1"),
        ((10, 0.1), {"alpha": 1.0}, "alpha is 1.0"),
        ((10, 0.1), {"power": 1.0}, "power is 1.0"),
        ((10, 0.1), {"power": 0.05}, "power is 0.05, expected a share between alpha, 0.05, and 1"),
        ((10, 0.1), {"power": math.nan}, "power is nan"),
    ],
)
def test_min_detectable_gain_bad_input_is_refused(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        comparisons.min_detectable_gain(*arguments, **options)
