"""Whether a model is right as often as it is sure: probabilities, reliability by bins, ECE.

Confidences and accuracies are shares in 0..1, never per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is above `low` and at most `high`; those of 0 are in the first bin.

    Attributes:
        low: Lower edge, exclusive.
        high: Upper edge, inclusive.
        num_images: Number of images in the bin.
        confidence: Their mean confidence, or None without images.
        accuracy: The share of them that is right, or None without images.
    """

    low: float
    high: float
    num_images: int
    confidence: float | None
    accuracy: float | None


class Reliability:
    """Confidence against accuracy, in bins of equal width, batch by batch.

    Attributes:
        num_bins: Number of bins; 15 are what most results in print use (Guo et al., ICML 2017).
    """

    def __init__(self, num_bins: int = 15) -> None:
        if num_bins < 1:
            raise ValueError(f"{num_bins} bins, expected at least 1")
        self.num_bins = num_bins
        self._edges = np.arange(num_bins + 1) / num_bins
        self._num_images = np.zeros(num_bins, np.int64)
        self._num_right = np.zeros(num_bins, np.int64)
        self._confidence_sums = np.zeros(num_bins, np.float64)

    def add(self, confidences: np.ndarray, is_right: np.ndarray) -> None:
        """Count a batch.

        Args:
            confidences: float, (image,), probability of the class that the model chose, in 0..1.
            is_right: bool, (image,), that class is the label.

        Raises:
            ValueError: the shapes do not fit, `is_right` is not boolean, or a confidence is NaN or
                outside 0..1. Nothing is counted.
        """
        confidences, is_right = np.asarray(confidences), np.asarray(is_right)
        if is_right.dtype != np.bool_ or is_right.ndim != 1 or confidences.shape != is_right.shape:
            raise ValueError(
                f"confidences of shape {confidences.shape} and is_right, {is_right.dtype} of "
                f"shape {is_right.shape}, expected (image,) and bool (image,)"
            )
        num_bad = int(np.sum(~((confidences >= 0) & (confidences <= 1))))
        if num_bad:
            raise ValueError(f"{num_bad} of {confidences.size} confidences are NaN or outside 0..1")
        confidences = confidences.astype(np.float64)
        bins = np.maximum(np.searchsorted(self._edges, confidences, side="left") - 1, 0)
        self._num_images += np.bincount(bins, minlength=self.num_bins)
        self._num_right += np.bincount(bins[is_right], minlength=self.num_bins)
        self._confidence_sums += np.bincount(bins, confidences, minlength=self.num_bins)

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return int(self._num_images.sum())

    def bins(self) -> list[Bin]:
        """Give all bins, from the least confident to the most; empty ones too."""
        return [self._bin(i) for i in range(self.num_bins)]

    def _bin(self, i: int) -> Bin:
        low, high = float(self._edges[i]), float(self._edges[i + 1])
        num_images = int(self._num_images[i])
        if num_images == 0:
            return Bin(low, high, 0, None, None)
        confidence = float(self._confidence_sums[i]) / num_images
        return Bin(low, high, num_images, confidence, int(self._num_right[i]) / num_images)

    def ece(self) -> float:
        """Give the expected calibration error: the mean gap of confidence and accuracy.

        The gap of each bin is weighed by its images (Naeini, Cooper and Hauskrecht, AAAI 2015; Guo
        et al., ICML 2017, eq. 3).

        Returns:
            A difference of shares, in 0..1; 0 for a model that is right as often as it is sure.

        Raises:
            ValueError: there is no image.
        """
        if self.num_images == 0:
            raise ValueError("no images were counted, expected at least one")
        gaps = np.abs(self._num_right - self._confidence_sums)
        return float(gaps.sum()) / self.num_images


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities, without overflow.

    The largest logit is subtracted first, which changes no probability. All further steps work in
    one new array, which is what is returned for float32; the logits are left as they are.

    Args:
        logits: float, (..., class), any finite values.

    Returns:
        float32, same shape, in 0..1; sums to 1 over the classes but for rounding.

    Raises:
        ValueError: there is no class, the dtype is another one, or a logit is not finite.
    """
    logits = np.asarray(logits)
    if not np.issubdtype(logits.dtype, np.floating):
        raise ValueError(f"logits of dtype {logits.dtype}, expected floats")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits of shape {logits.shape}, expected (..., class) with a class")
    num_bad = logits.size - int(np.count_nonzero(np.isfinite(logits)))
    if num_bad:
        raise ValueError(f"{num_bad} of {logits.size} logits are NaN or infinite, expected none")
    dtype = np.result_type(logits.dtype, np.float32)
    largest = logits.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # a difference of -inf is a probability of 0, as it should be
        shares = np.subtract(logits, largest, dtype=dtype)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares.astype(np.float32, copy=False)
