"""`preprocess.to_input` as TensorFlow operations: the same crop, and Pillow's resize, bit by bit.

Pillow resizes in two passes, one for each side, each rounding to uint8, with weights as whole
numbers of 22 bits (Pillow 13.0, src/libImaging/Resample.c: `precompute_coeffs`,
`normalize_coeffs_8bpc`, `ImagingResampleInner`). The box is single precision there, all else
double. Which pass comes first changed with version 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.images.preprocess import Protocol

_BITS = 22  # PRECISION_BITS, 32 - 8 - 2
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_VERTICAL_FIRST = 13  # of Pillow, from which on a tall image is made lower first


def to_input(pixels: Any, protocol: Protocol, pillow: str) -> Any:
    """Crop the centre and resize it, as `preprocess.to_input` does.

    Args:
        pixels: uint8 tensor (height, width, 1 or 3), of any size.
        protocol: geometry to apply.
        pillow: version to follow, such as "13.0.0".

    Returns:
        uint8 tensor (size, size, 3).
    """
    import tensorflow as tf

    size, interpolation = protocol.size, protocol.interpolation
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    left, top, right, bottom = _crop_box(height, width, protocol)
    across = _weights(width, left, right, size, interpolation)
    down = _weights(height, top, bottom, size, interpolation)

    def horizontal_first() -> Any:
        return _resample_rows(_turned(_resample_rows(_turned(pixels), *across)), *down)

    def vertical_first() -> Any:
        return _turned(_resample_rows(_turned(_resample_rows(pixels, *down)), *across))

    if int(pillow.partition(".")[0]) < _VERTICAL_FIRST:
        resized = horizontal_first()
    else:
        is_tall = tf.logical_and(height > size, height - size > 2 * (width - size))
        resized = tf.cond(is_tall, vertical_first, horizontal_first)
    return tf.broadcast_to(resized, (size, size, 3))


def _crop_box(height: Any, width: Any, protocol: Protocol) -> tuple[Any, Any, Any, Any]:
    """Do what `preprocess._crop_box` does; float64 scalars, left, top, right and bottom."""
    import tensorflow as tf

    height, width = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    size, fraction = protocol.size, protocol.crop_fraction
    if not protocol.keeps_aspect:
        left = tf.floor((width - width * fraction) / 2)
        top = tf.floor((height - height * fraction) / 2)
        return left, top, width - left, height - top
    factor = round(size / fraction) / tf.minimum(height, width)
    scaled_height, scaled_width = tf.round(height * factor), tf.round(width * factor)
    top, left = tf.floor((scaled_height - size) / 2), tf.floor((scaled_width - size) / 2)
    return (
        left * width / scaled_width,
        top * height / scaled_height,
        tf.minimum(width, (left + size) * width / scaled_width),
        tf.minimum(height, (top + size) * height / scaled_height),
    )


def _weights(length: Any, start: Any, stop: Any, size: int, interpolation: str) -> tuple[Any, Any]:
    """Say which pixels of a side make each new one, and how much each counts.

    Args:
        length: int32 scalar, of the side in pixels.
        start: float64 scalar, where the crop begins.
        stop: float64 scalar, where it ends.
        size: new length.
        interpolation: "bilinear" or "bicubic".

    Returns:
        int32 (most, size): positions, and weights in parts of 2 ** 22, 0 behind the last.
    """
    import tensorflow as tf

    start, stop = tf.cast(start, tf.float32), tf.cast(stop, tf.float32)
    scale = tf.cast(stop - start, tf.float64) / size
    filter_scale = tf.maximum(scale, 1.0)
    support = _SUPPORT[interpolation] * filter_scale
    centers = tf.cast(start, tf.float64) + (tf.range(size, dtype=tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(centers - support + 0.5, tf.int32), 0)
    behind = tf.minimum(tf.cast(centers + support + 0.5, tf.int32), length)
    most = tf.cast(tf.math.ceil(support), tf.int32) * 2 + 1
    positions = first + tf.range(most)[:, tf.newaxis]
    away = (tf.cast(positions, tf.float64) - centers + 0.5) * (1.0 / filter_scale)
    weights = _FILTERS[interpolation](tf.abs(away))
    weights = tf.where(positions < behind, weights, tf.zeros_like(weights))
    weights = weights / tf.reduce_sum(weights, axis=0)
    # Half a unit away from zero, then cut: what C does with a cast.
    rounded = tf.cast(weights * 2.0**_BITS + tf.sign(weights) * 0.5, tf.int32)
    return tf.minimum(positions, length - 1), rounded


def _resample_rows(pixels: Any, positions: Any, weights: Any) -> Any:
    """Make new rows, uint8 (size, width, channels), each of some old ones; whole numbers alone."""
    import tensorflow as tf

    def add(i: Any, total: Any) -> tuple[Any, Any]:
        rows = tf.cast(tf.gather(pixels, positions[i]), tf.int32)
        return i + 1, total + rows * weights[i][:, tf.newaxis, tf.newaxis]

    shape = tf.concat([tf.shape(positions)[1:], tf.shape(pixels)[1:]], axis=0)
    half = tf.fill(shape, 1 << (_BITS - 1))
    num = tf.shape(positions)[0]
    # One weight after the other: all at once would take the memory of several images.
    loop = tf.while_loop(
        lambda i, _: i < num,
        add,
        (tf.constant(0), half),
        shape_invariants=(tf.TensorShape(()), tf.TensorShape((None, None, None))),
        parallel_iterations=1,
    )
    total = tf.bitwise.right_shift(loop[1], _BITS)
    return tf.cast(tf.clip_by_value(total, 0, 255), tf.uint8)


def _turned(pixels: Any) -> Any:
    import tensorflow as tf

    return tf.transpose(pixels, (1, 0, 2))


def _bilinear(away: Any) -> Any:
    import tensorflow as tf

    return tf.where(away < 1.0, 1.0 - away, tf.zeros_like(away))


def _bicubic(away: Any) -> Any:
    """Keys's kernel with a = -0.5, in the order of operations that Pillow has."""
    import tensorflow as tf

    a = -0.5
    near = ((a + 2.0) * away - (a + 3.0)) * away * away + 1.0
    far = (((away - 5.0) * away + 8.0) * away - 4.0) * a
    return tf.where(away < 1.0, near, tf.where(away < 2.0, far, tf.zeros_like(away)))


_FILTERS: dict[str, Callable[[Any], Any]] = {"bilinear": _bilinear, "bicubic": _bicubic}
