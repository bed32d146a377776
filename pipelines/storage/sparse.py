"""Feature maps as values and positions (thesis, Algorithm 3), a batch at a time.

The thesis keeps each non-zero value with its position in the flattened map. Here a position is a
channel index within its pixel, and each pixel has a count of its values: 16 bits instead of 32,
and exactly the compressed sparse rows that scipy expands at memory speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pipelines.errors import FeatureError

MAX_CHANNELS = 65_535


@dataclass(frozen=True)
class SparseMaps:
    """Feature maps of several images without their zeros.

    Attributes:
        values: (nnz,) float16 or float32, non-zero activations, images and pixels in order.
        channels: (nnz,) uint16, the channel of each value, ascending within a pixel.
        counts: (images, pixels) uint16, how many values each pixel has.
    """

    values: np.ndarray
    channels: np.ndarray
    counts: np.ndarray


def to_sparse(maps: np.ndarray, dtype: str) -> SparseMaps:
    """Keep the non-zero activations of some feature maps.

    Args:
        maps: float32, (images, pixels, channels), any sign, unitless.
        dtype: "float16" or "float32", how values are kept.

    Raises:
        FeatureError: a value is not finite, or too large for `dtype`.
    """
    num_images, num_pixels, num_channels = maps.shape
    flat = np.ascontiguousarray(maps).reshape(-1)
    kept = np.flatnonzero(flat != 0)
    per_pixel = np.bincount(kept // num_channels, minlength=num_images * num_pixels)
    return SparseMaps(
        to_dtype(flat[kept], dtype),
        (kept % num_channels).astype(np.uint16),
        per_pixel.astype(np.uint16).reshape(num_images, num_pixels),
    )


def to_dense(maps: SparseMaps, num_channels: int) -> np.ndarray:
    """Put the values back in their places.

    Returns:
        float32, (images, pixels, channels).

    Raises:
        FeatureError: counts, channels and values do not fit each other.
    """
    starts = np.zeros(maps.counts.size + 1, np.int64)
    np.cumsum(maps.counts, out=starts[1:])
    fits = starts[-1] == maps.values.size == maps.channels.size
    if not fits or (maps.channels.size and int(maps.channels.max()) >= num_channels):
        raise FeatureError(
            f"{maps.values.size} values, {maps.channels.size} channels and counts that sum to "
            f"{starts[-1]} do not make maps of {num_channels} channels; the shard is damaged"
        )
    rows = sparse.csr_matrix(
        (maps.values.astype(np.float32, copy=False), maps.channels.astype(np.int32), starts),
        shape=(maps.counts.size, num_channels),
    )
    return rows.toarray().reshape(*maps.counts.shape, num_channels)


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Convert activations to the dtype they are stored in.

    Args:
        values: float32, any shape.
        dtype: "float16" or "float32".

    Raises:
        FeatureError: a value is not finite, or becomes infinite in `dtype`.
    """
    if not np.isfinite(values).all():
        raise FeatureError(
            "an activation is not a finite number; check the weights and the preprocessing"
        )
    with np.errstate(over="ignore"):
        stored = values.astype(dtype, copy=False)
    if dtype == "float16" and not np.isfinite(stored).all():
        largest = float(np.abs(values).max())
        raise FeatureError(
            f"an activation of {largest:g} is out of float16's range of 65504; use --dtype float32"
        )
    return stored
