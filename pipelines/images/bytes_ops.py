"""The bytes of an image file to the input of a network, as TensorFlow operations.

What `versions.Versions` does, for a graph that must run without this package. JPEG and PNG alone;
EXIF orientation is not applied, and there is no limit to the size of an image but TensorFlow's.
"""

from __future__ import annotations

from typing import Any

from pipelines.images import resize_ops
from pipelines.images.jpeg import JpegCodec
from pipelines.images.versions import Versions
from pipelines.storage.variants import ORIGINAL

_PNG = b"\x89PNG"
# TensorFlow's encoder knows chroma at full and at half resolution in both directions.
_IS_DOWNSAMPLED = {"4:2:0": True, "4:4:4": False}


def why_not(versions: Versions) -> str | None:
    """Say why TensorFlow cannot make these versions; None where it can."""
    codec = versions.codec
    if versions.branches == (ORIGINAL,):
        return None
    if not isinstance(codec, JpegCodec):
        return "the versions of the control set are made by this program alone"
    if codec.subsampling not in _IS_DOWNSAMPLED:
        return f"TensorFlow encodes no JPEG with chroma subsampling {codec.subsampling}"
    return None


def to_inputs(data: Any, versions: Versions) -> Any:
    """Decode an image, make its versions, resize them.

    Args:
        data: string scalar, a JPEG or PNG file.
        versions: which, and how; not where `why_not` says that it cannot be.

    Returns:
        uint8 tensor (branches, side, side, 3), RGB, 0..255.
    """
    import tensorflow as tf

    pixels = decode(data)
    codec, inputs = versions.codec, []
    for branch in versions.branches:
        image = pixels
        if isinstance(codec, JpegCodec) and branch != ORIGINAL:
            image = _compressed(pixels, codec.quality_of[branch], codec.subsampling)
        inputs.append(resize_ops.to_input(image, versions.protocol, versions.pillow))
    return tf.stack(inputs)


def decode(data: Any) -> Any:
    """Decode a JPEG or PNG file as `decode.decode_original` does, but for EXIF orientation.

    Args:
        data: string scalar.

    Returns:
        uint8 tensor (height, width, 1 or 3), 0..255.
    """
    import tensorflow as tf

    is_png = tf.equal(tf.strings.substr(data, 0, len(_PNG)), _PNG)
    is_known = tf.logical_or(is_png, tf.io.is_jpeg(data))
    with tf.control_dependencies(
        [
            tf.debugging.Assert(
                is_known,
                ["neither a JPEG nor a PNG file; its first bytes are", _first_bytes(data)],
            )
        ]
    ):
        data = tf.identity(data)
    pixels = tf.cond(is_png, lambda: _decode_png(data), lambda: _decode_jpeg(data))
    return tf.ensure_shape(pixels, (None, None, None))


def _first_bytes(data: Any) -> Any:
    """Return them as numbers: an error has to be text, and a file can be anything."""
    import tensorflow as tf

    return tf.io.decode_raw(tf.strings.substr(data, 0, 4), tf.uint8)


def _decode_jpeg(data: Any) -> Any:
    import tensorflow as tf

    return tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE", fancy_upscaling=True)


def _decode_png(data: Any) -> Any:
    """Decode at 16 bits, which holds 8 bits times 257, and come down as Pillow does."""
    import tensorflow as tf

    values = tf.cast(tf.io.decode_png(data, dtype=tf.uint16), tf.int32)
    channels = tf.shape(values)[2]
    is_gray, has_alpha = tf.equal(channels, 1), tf.equal(channels % 2, 0)
    levels = tf.cond(is_gray, lambda: (values + 128) // 257, lambda: values // 256)
    levels = tf.cond(has_alpha, lambda: _on_white(levels), lambda: levels)
    return tf.cast(levels, tf.uint8)


def _on_white(levels: Any) -> Any:
    """Lay colours on white by their alpha, the last channel, as Pillow's `paste` rounds it."""
    colours, alpha = levels[..., :-1], levels[..., -1:]
    total = 255 * (255 - alpha) + colours * alpha + 128
    return (total // 256 + total) // 256


def _compressed(pixels: Any, quality: int, subsampling: str) -> Any:
    """Encode as JPEG with the accurate DCT and the standard tables, and decode again."""
    import tensorflow as tf

    data = tf.io.encode_jpeg(
        pixels, quality=quality, chroma_downsampling=_IS_DOWNSAMPLED[subsampling]
    )
    return _decode_jpeg(data)
