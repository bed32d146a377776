"""How far an accuracy, or a difference of two over folds and seeds, may be off.

Accuracies and differences are shares in 0..1, never per cent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_EQUAL = 1e-12  # values closer to each other than this are the same


@dataclass(frozen=True)
class FoldDifference:
    """What a difference of two models comes to over all folds and seeds.

    Attributes:
        mean: Mean difference, a difference of shares in -1..1.
        low: Lower bound of the mean, or None where one value says nothing of its spread.
        high: Upper bound, or None likewise.
        p: Two-sided p-value of a mean of 0, or None likewise.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None


def wilson(num_right: int, num_images: int, level: float = 0.95) -> tuple[float, float]:
    """Bound the accuracy behind an observed share of right images by Wilson's score interval.

    The bounds are the accuracies from which the observed share is just not too far off, by the
    normal approximation (Wilson, Journal of the American Statistical Association 22, 1927). They
    stay within 0..1 and have a width where all images are right, or none.

    Args:
        num_right: Images whose first class is the label, 0 to `num_images`.
        num_images: All images, at least 1.
        level: Confidence level, between 0 and 1.

    Returns:
        Lower and upper bound, shares in 0..1.

    Raises:
        ValueError: there is no image, the counts do not fit, or the level is out of its range.
    """
    from scipy.special import ndtri  # takes a part of a second to import

    if num_images < 1 or not 0 <= num_right <= num_images:
        raise ValueError(
            f"{num_right} right of {num_images} images, expected at least one image and "
            "0 to that many right"
        )
    _check_level(level)
    share = num_right / num_images
    z = float(ndtri((1 + level) / 2))
    shrink = 1 + z * z / num_images
    centre = (share + z * z / (2 * num_images)) / shrink
    variance = share * (1 - share) / num_images + (z / (2 * num_images)) ** 2
    half_width = z * math.sqrt(variance) / shrink
    # Without a wrong (or right) image the bound is exact; the subtraction would leave rounding.
    low = 0.0 if num_right == 0 else centre - half_width
    high = 1.0 if num_right == num_images else centre + half_width
    return low, high


def over_folds(differences: np.ndarray, test_share: float, level: float = 0.95) -> FoldDifference:
    """Test and bound a mean difference over folds and seeds, whose training images overlap.

    The corrected resampled t-test: models of different folds share most of their training images,
    so that their differences vary less than those of independent experiments, and the variance of
    the mean is (1/J + n_test/n_train) s^2 instead of s^2/J, with J - 1 degrees of freedom (Nadeau
    and Bengio, Machine Learning 52, 2003; for folds repeated with several seeds: Bouckaert and
    Frank, PAKDD 2004). J counts the values, and s^2 is their sample variance.

    Where all values are equal, as with few folds of few images they may well be, they say nothing
    of their spread: there is neither interval nor p then, and none of one value alone.

    Args:
        differences: float, (seed, fold), differences of two shares in -1..1, one each of models
            trained and judged on the same images.
        test_share: Images that a fold is judged on, as a share of these and those it is trained on,
            between 0 and 1. 1/folds in cross-validation where no images select the checkpoint.
        level: Confidence level, between 0 and 1.

    Returns:
        Mean, interval and p-value.

    Raises:
        ValueError: the shape is another one or holds nothing, a value is NaN or outside -1..1, or
            `test_share` or `level` is out of its range.
    """
    from scipy.special import stdtr, stdtrit  # takes a part of a second to import

    values = _checked_differences(differences)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}, expected a share between 0 and 1")
    _check_level(level)
    mean = float(values.mean())
    if float(np.ptp(values)) < _EQUAL:  # differences of shares are off by rounding
        return FoldDifference(float(np.median(values)), None, None, None)
    degrees = values.size - 1
    factor = 1 / values.size + test_share / (1 - test_share)
    error = math.sqrt(factor * float(values.var(ddof=1)))
    half_width = float(stdtrit(degrees, (1 + level) / 2)) * error
    p = 2 * float(stdtr(degrees, -abs(mean) / error))
    return FoldDifference(mean, mean - half_width, mean + half_width, p)


def min_detectable_over_folds(
    found: FoldDifference, num_values: int, level: float = 0.95, power: float = 0.8
) -> float | None:
    """Return the smallest difference that these folds would have shown with that power.

    The error of the mean is that of the interval. Over it, the mean of a true difference follows
    the noncentral t distribution, whose noncentrality is that difference in errors.

    Args:
        found: of folds and seeds.
        num_values: of them.
        level: of the interval.
        power: share of the cases in which it is found, between 0 and 1.

    Returns:
        A difference of shares; None where there is no interval, or it would be above 1.
    """
    from scipy.special import nctdtrinc, stdtrit

    if found.low is None or found.high is None:
        return None
    degrees = num_values - 1
    rejected_from = float(stdtrit(degrees, (1 + level) / 2))
    error = (found.high - found.low) / 2 / rejected_from
    least = error * float(nctdtrinc(degrees, 1 - power, rejected_from))
    return least if least <= 1 else None


def _checked_differences(differences: np.ndarray) -> np.ndarray:
    """Give float64, (value,)."""
    differences = np.asarray(differences)
    if differences.ndim != 2 or differences.size == 0:
        raise ValueError(
            f"differences of shape {differences.shape}, expected (seed, fold) with at least one "
            "of each"
        )
    values = differences.astype(np.float64).ravel()
    num_bad = int(np.sum(~(np.abs(values) <= 1)))  # NaN, too, is not at most 1
    if num_bad:
        raise ValueError(
            f"{num_bad} of {values.size} differences are NaN or outside -1..1, expected "
            "differences of shares"
        )
    return values


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a share between 0 and 1")
