"""What a version of an image changes: the difference as a picture, and where it is largest."""

from __future__ import annotations

import numpy as np

FACTORS = (16, 8, 4, 2, 1)
_MIDDLE = 128  # no difference
_ROOM = 120  # of a difference on either side of the middle
_QUANTILE = 0.995  # the few values beyond are cut off rather than leaving all others pale


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Give an image three channels.

    Args:
        pixels: uint8 (height, width) or (height, width, 3), 0..255.

    Returns:
        uint8 (height, width, 3).
    """
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=2)


def fitted(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize a version to the size of its original, where it has another one.

    Args:
        pixels: uint8 (height, width, 3).
        shape: of the original.
    """
    from PIL import Image

    if pixels.shape[:2] == tuple(shape[:2]):
        return pixels
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def difference(original: np.ndarray, version: np.ndarray) -> tuple[np.ndarray, int]:
    """Draw the version minus the original, amplified, on a middle gray.

    Args:
        original: uint8 (height, width, 3).
        version: uint8, the same shape.

    Returns:
        uint8 (height, width, 3), 128 where nothing changed; and how many times it is amplified:
        the largest of `FACTORS` that cuts off no more than half a per cent of the values.
    """
    change = version.astype(np.int16) - original
    most = float(np.quantile(np.abs(change), _QUANTILE))
    factor = next((factor for factor in FACTORS if factor * most <= _ROOM), FACTORS[-1])
    drawn = np.clip(_MIDDLE + factor * change.astype(np.int32), 0, 255)
    return drawn.astype(np.uint8), factor


def most_changed(original: np.ndarray, version: np.ndarray, side: int) -> tuple[int, int, int, int]:
    """Find the square that the version changes most.

    Args:
        original: uint8 (height, width, 3).
        version: uint8, the same shape.
        side: of the square, in pixels; less where the image is smaller.

    Returns:
        Top, left, height and width; the first from the top left among equals.
    """
    change = np.abs(version.astype(np.int64) - original).sum(axis=2)
    height, width = (min(side, length) for length in change.shape)
    sums = np.pad(change.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = (sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]) + sums[
        :-height, :-width
    ]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top), int(left), height, width
