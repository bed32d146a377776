"""Activations as the numbers they are stored as: float32, float16, or uint8 with a scale.

`uint8` has a scale and a zero point for each channel. The stored byte is counted from the zero
point, modulo 256, so that the byte 0 is the activation 0 in every channel, whatever its sign:

    activation = ((byte + zero_point) mod 256 - zero_point) * scale
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.errors import FeatureError
from pipelines.storage.layout import Layout

_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest activation of each channel that were seen, 0 counted in.

    Attributes:
        low: float32 (channels,), 0 or less.
        high: float32 (channels,), 0 or more.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, maps: np.ndarray) -> Ranges:
        """Measure float32 (..., channels)."""
        flat = maps.reshape(-1, maps.shape[-1])
        return cls(np.minimum(flat.min(axis=0), 0), np.maximum(flat.max(axis=0), 0))

    def joined(self, other: Ranges) -> Ranges:
        """Return what both have seen."""
        return Ranges(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def quantisation(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Return scales and zero points that spread 255 steps over each channel's range.

        A channel that was silent gets the widest scale of the others: it may speak up later.
        """
        # In float64: the span of two float32 numbers may be infinite, a part of one may be zero.
        scales = ((self.high.astype(np.float64) - self.low) / 255).astype(np.float32)
        is_silent = scales < np.finfo(np.float32).tiny
        scales[is_silent] = 1 if is_silent.all() else scales.max()
        zero_points = np.clip(np.rint(-self.low / scales), 0, 255)
        return tuple(map(float, scales)), tuple(map(int, zero_points))


@dataclass(frozen=True)
class Stored:
    """Maps as unsigned integers.

    Attributes:
        bits: uint8, uint16 or uint32 of the maps' shape; 0 is the activation 0.
        num_clipped: values beyond the range of their channel's scale.
    """

    bits: np.ndarray
    num_clipped: int


def to_stored(maps: np.ndarray, layout: Layout) -> Stored:
    """Convert activations to the numbers they are stored as.

    Args:
        maps: float32 (..., channels), finite.
        layout: says the dtype, and for uint8 scales and zero points.

    Raises:
        FeatureError: a value is too large for float16.
    """
    if layout.dtype == "uint8":
        return _quantised(maps, layout)
    if layout.dtype == "float16":
        from pipelines.storage import kernels

        halves = np.empty(maps.shape, np.uint16)
        singles = np.ascontiguousarray(maps, np.float32).view(np.uint32)
        if kernels.to_half(singles.reshape(-1), halves.reshape(-1)):
            raise FeatureError(
                f"an activation of {_largest(maps):g} is out of float16's range of "
                f"{_FLOAT16_MAX:g}; use --dtype float32 or uint8"
            )
        return Stored(halves, 0)
    return Stored(np.ascontiguousarray(maps, np.float32).view(np.uint32), 0)


def _quantised(maps: np.ndarray, layout: Layout) -> Stored:
    scales = np.asarray(layout.scales, np.float32)
    zero_points = np.asarray(layout.zero_points, np.float32)
    with np.errstate(over="ignore"):  # beyond float32 is beyond the range
        steps = np.rint(maps / scales) + zero_points
    inside = np.clip(steps, 0, 255)
    counted = (inside - zero_points).astype(np.int16)
    return Stored(counted.astype(np.uint8), int(np.count_nonzero(steps != inside)))


def _largest(maps: np.ndarray) -> float:
    return float(np.abs(maps).max())
