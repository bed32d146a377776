"""Pillow's resize as TensorFlow operations: every pixel the same, at any size."""

from __future__ import annotations

import functools

import numpy as np
import PIL
import pytest

from pipelines.images import preprocess, resize_ops
from pipelines.images.preprocess import Protocol

PROTOCOLS = (
    preprocess.for_backbone("lite", 224),
    preprocess.for_backbone("symmetric", 299),
    Protocol("small", 32, 0.5, "bicubic", "raw"),
    Protocol("whole", 48, 1.0, "bilinear", "raw", keeps_aspect=True),
)
# Wide, tall, square; smaller and larger than what comes out; thin as a line; the size itself.
SIZES = (
    *((375, 500), (500, 375), (300, 300), (1200, 90), (90, 1200), (31, 33), (640, 480)),
    *((1, 1), (1, 40), (40, 1), (700, 3), (2, 5), (224, 224), (299, 299), (48, 48), (32, 32)),
)


@functools.cache
def compiled(protocol: Protocol, pillow: str):
    import tensorflow as tf

    return tf.function(
        lambda pixels: resize_ops.to_input(pixels, protocol, pillow),
        input_signature=[tf.TensorSpec((None, None, None), tf.uint8)],
        autograph=False,
    )


def noise(size: tuple[int, int], channels: int, seed: int = 0) -> np.ndarray:
    """Draw pixels whose every bit matters: what is rounded or cut wrongly shows."""
    rng = np.random.default_rng([*size, channels, seed])
    return rng.integers(0, 256, (*size, channels), dtype=np.uint8)


def by_pillow(pixels: np.ndarray, protocol: Protocol) -> np.ndarray:
    return preprocess.to_input(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_to_input_any_size_gives_pillows_pixels(protocol, channels):
    resize = compiled(protocol, PIL.__version__)
    rng = np.random.default_rng(1)
    drawn = [tuple(int(side) for side in rng.integers(1, 900, 2)) for _ in range(15)]
    for size in (*SIZES, *drawn):
        pixels = noise(size, channels)
        np.testing.assert_array_equal(resize(pixels), by_pillow(pixels, protocol), str(size))


@pytest.mark.parametrize("size", [(500, 200), (900, 100)])
def test_to_input_as_pillow_12_has_the_horizontal_pass_first(size):
    """A tall image is the other way round turned by 90 degrees, where both versions agree."""
    protocol = Protocol("square", 64, 1.0, "bicubic", "raw")
    tall = noise(size, 3)
    turned = tall.transpose(1, 0, 2)
    old, new = (compiled(protocol, version) for version in ("12.3.0", "13.0.0"))
    np.testing.assert_array_equal(old(turned), new(turned))
    assert np.any(old(tall).numpy() != new(tall).numpy())
    # The passes of the turned image, each along the other side.
    np.testing.assert_array_equal(new(tall), old(turned).numpy().transpose(1, 0, 2))
