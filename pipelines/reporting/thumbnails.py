"""Small pictures as data URIs, for a page that needs no other file."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

_QUALITY = 82


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scale an image down until its longer side has at most so many pixels; never up.

    Args:
        pixels: uint8 (height, width, 3).
        side: in pixels.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def data_uri(pixels: np.ndarray, side: int) -> str:
    """Encode an image as WebP inside a URI.

    Args:
        pixels: uint8 (height, width, 3).
        side: the longer side has at most so many pixels.

    Returns:
        A `data:` URI.
    """
    file = io.BytesIO()
    Image.fromarray(shrink(pixels, side)).save(file, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
