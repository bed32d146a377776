"""What a test of gains against losses can tell: of several runs at once, and of so many images.

Accuracies, gains and shares of changed images are shares in 0..1, never per cent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Share of the distribution of the number of changed images that `power` leaves out, both ends
# together; its result is too low by no more.
_NEGLECTED = 1e-9


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that any false rejection is as unlikely as in one.

    The step-down method: the i-th smallest of m, counted from 0, is multiplied by m - i, and is at
    least what the one before it became (Holm, Scandinavian Journal of Statistics 6, 1979). To
    reject where the adjusted value is at most alpha bounds the chance of any false rejection by
    alpha, however the tests depend on each other.

    Args:
        p_values: One a test, in 0..1; none is fine.

    Returns:
        The adjusted values in the order of the tests, at most 1.

    Raises:
        ValueError: a value is NaN or outside 0..1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"p-values of shape {values.shape}, expected (test,)")
    num_bad = int(np.sum(~((values >= 0) & (values <= 1))))
    if num_bad:
        raise ValueError(f"{num_bad} of {values.size} p-values are NaN or outside 0..1")
    order = np.argsort(values, kind="stable")
    factors = np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return [float(value) for value in adjusted]


def power(num_images: int, changed_share: float, gain: float, alpha: float = 0.05) -> float:
    """Give the chance that the exact McNemar test finds a true gain.

    Gains and losses occur with probabilities (psi + d)/2 and (psi - d)/2 an image, where d is the
    gain and psi the share of images that change; where d is larger than `changed_share`, psi is d
    and every change is a gain. The chance is exact and unconditional: the number of changed images
    is binomial, and given it, so are the losses (Duffy, Biometrics 40, 1984). A rejection counts
    only where there are more gains than losses.

    Args:
        num_images: Images that are tested, at least 1.
        changed_share: Share of images that are right in one model alone, in 0..1.
        gain: True difference of the accuracies, in 0..1.
        alpha: The test rejects where its two-sided p-value is at most this, between 0 and 1.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: there is no image, or a share is NaN or out of its range.
    """
    _check_trial(num_images, changed_share, alpha)
    if not 0 <= gain <= 1:
        raise ValueError(f"gain is {gain}, expected a share in 0..1")
    return _power(num_images, changed_share, gain, alpha)


def min_detectable_gain(
    num_images: int, changed_share: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Find the smallest true gain that the exact McNemar test finds with a given power.

    Args:
        num_images: Images that are tested, at least 1.
        changed_share: Share of images that are right in one model alone, in 0..1, as observed.
        alpha: The test rejects where its two-sided p-value is at most this, between 0 and 1.
        power: Chance of finding the gain, above `alpha` and below 1.

    Returns:
        The gain, a share in 0..1, too large by at most a tenth of an image; or None where so few
        images show no gain at all: not even if all changed for the better.

    Raises:
        ValueError: there is no image, or a share is NaN or out of its range.
    """
    _check_trial(num_images, changed_share, alpha)
    if not alpha < power < 1:
        raise ValueError(f"power is {power}, expected a share between alpha, {alpha}, and 1")
    too_small, enough = 0.0, 1.0
    if _power(num_images, changed_share, enough, alpha) < power:
        return None
    # The power grows with the gain: below `changed_share` gains replace losses among the same
    # number of changes, above it there are more changes, all of them gains.
    while enough - too_small > 0.1 / num_images:
        middle = (too_small + enough) / 2
        if _power(num_images, changed_share, middle, alpha) < power:
            too_small = middle
        else:
            enough = middle
    return enough


def _power(num_images: int, changed_share: float, gain: float, alpha: float) -> float:
    from scipy.stats import binom  # takes a large part of a second to import

    changed_share = max(changed_share, gain)
    if changed_share == 0:
        return 0.0  # nothing changes, and nothing is found
    fewest = int(binom.ppf(_NEGLECTED / 2, num_images, changed_share))
    most = int(binom.isf(_NEGLECTED / 2, num_images, changed_share))
    num_changed = np.arange(fewest, most + 1)
    chances = binom.pmf(num_changed, num_images, changed_share)
    loss_share = (changed_share - gain) / (2 * changed_share)
    found = binom.cdf(_most_losses(num_changed, alpha), num_changed, loss_share)
    return min(float(np.sum(chances * found)), 1.0)


def _most_losses(num_changed: np.ndarray, alpha: float) -> np.ndarray:
    """Give for each number of changes the most losses at which the test still finds a gain.

    The two-sided p-value is twice the lower tail of a binomial with probability 1/2, since that is
    symmetric.

    Returns:
        int64, as many, -1 where no number of losses is few enough.
    """
    from scipy.stats import binom

    losses = binom.ppf(alpha / 2, num_changed, 0.5)  # the first whose tail reaches alpha / 2
    # A tail of just alpha / 2 rejects; the factor keeps that from rounding.
    is_enough = binom.cdf(losses, num_changed, 0.5) <= alpha / 2 * (1 + 1e-12)
    return np.where(is_enough, losses, losses - 1).astype(np.int64)


def _check_trial(num_images: int, changed_share: float, alpha: float) -> None:
    if num_images < 1:
        raise ValueError(f"{num_images} images, expected at least 1")
    if not 0 <= changed_share <= 1:
        raise ValueError(f"changed_share is {changed_share}, expected a share in 0..1")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, expected a share between 0 and 1")
