"""Photographs of the size and weight of ImageNet's, made from those that scikit-image ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# A common size in ILSVRC-2012. At this quality and noise the files have about its mean weight: a
# training archive of 138 GB holds 1,281,167 images, 108 KB each.
_SIZE = (500, 375)
_QUALITY = 97
_NOISE = 4.0  # deviation of a sensor's noise: a picture that was scaled up lacks fine texture


def write(folder: Path, num_images: int, seed: int = 0) -> None:
    """Write JPEG photographs, half of them in each of two class folders.

    Each is a random part of a picture, scaled to 500 x 375, perhaps mirrored, with noise.

    Args:
        folder: made here.
        num_images: how many.
        seed: the same seed gives the same files.
    """
    from skimage import data

    pictures = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    generator = np.random.default_rng(seed)
    for i in range(num_images):
        class_dir = folder / ("even", "odd")[i % 2]
        class_dir.mkdir(parents=True, exist_ok=True)
        image = _make(pictures[i // 2 % len(pictures)], generator)
        image.save(class_dir / f"{i:06d}.jpg", "JPEG", quality=_QUALITY, subsampling="4:2:0")


def _make(picture: np.ndarray, generator: np.random.Generator) -> Image.Image:
    """Cut and scale one part of a uint8 (height, width, 3) RGB picture."""
    height, width = picture.shape[:2]
    part = generator.uniform(0.7, 1.0) * min(width / _SIZE[0], height / _SIZE[1])
    box_width, box_height = part * _SIZE[0], part * _SIZE[1]
    left = generator.uniform(0, width - box_width)
    top = generator.uniform(0, height - box_height)
    image = Image.fromarray(picture).resize(
        _SIZE,
        Image.Resampling.LANCZOS,
        box=(left, top, min(width, left + box_width), min(height, top + box_height)),
    )
    pixels = np.asarray(image, np.float32)
    pixels = pixels + generator.normal(0, _NOISE, pixels.shape).astype(np.float32)
    if generator.random() < 0.5:
        pixels = pixels[:, ::-1]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
