"""Protocols: how an image of any size becomes the input of a network.

Two steps, kept apart so that only uint8 travels to the device: `to_input` does the geometry on
the CPU, `scale` the arithmetic next to the network. A published accuracy holds for one protocol
alone, so each protocol has a name and is part of a cache's fingerprint.

"slim" keeps the central 87.5% of each side and resizes that to a square, bilinear: the evaluation
protocol of TensorFlow-Slim (tensorflow/models, research/slim/preprocessing/
inception_preprocessing.py, `preprocess_for_eval`, central_fraction=0.875), with which the
accuracies of the Inception checkpoints were measured. "efficientnet" cuts a centred square of
size / (size + 32) of the shorter side and resizes it, bicubic (tensorflow/tpu,
models/official/efficientnet/preprocessing.py, `_decode_and_center_crop`, CROP_PADDING = 32).
EfficientNet-Lite0's published PyTorch port scales the shorter side to size + 32 and cuts the
centre out of that grid; the box here is that one. Cut to whole pixels of the source instead, the
network's probabilities on scikit-image's `chelsea`, `coffee` and `rocket` move by up to 0.06.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL
from PIL import Image

from pipelines.errors import ConfigError, ImageError

_SLIM_CROP_FRACTION = 0.875
_EFFICIENTNET_CROP_PADDING = 32

_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# What each scaling does, see `scale`; x is a pixel's value, 0..255.
FORMULAS = {
    "symmetric": "x / 127.5 - 1",
    "caffe": "BGR, then x - (103.939, 116.779, 123.68)",
    "torch": "(x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)",
    "raw": "x",
    "lite": "(x - 127) / 128",
}

# ImageNet means of BGR (caffe) and means and deviations of RGB (torch), as in
# keras.applications.imagenet_utils.
_CAFFE_MEAN = np.array([103.939, 116.779, 123.68], dtype=np.float32)
_TORCH_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_TORCH_INVERSE_STD = np.array([1 / 0.229, 1 / 0.224, 1 / 0.225], dtype=np.float32)


@dataclass(frozen=True)
class Protocol:
    """How one kind of network wants its images.

    Attributes:
        name: what the protocol is called.
        size: side of the square input in pixels.
        crop_fraction: kept share of a side, over 0 up to 1.
        interpolation: "bilinear" or "bicubic", always with antialiasing.
        scaling: "symmetric", "caffe", "torch", "raw" or "lite", see `scale`.
        keeps_aspect: crop a square out of the shorter side; else crop both sides alike and let
            the resize change the proportions.

    Raises:
        ConfigError: a field holds none of those.
    """

    name: str
    size: int
    crop_fraction: float
    interpolation: str
    scaling: str
    keeps_aspect: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"protocol {self.name}: size is {self.size}, expected at least 1")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(
                f"protocol {self.name}: crop fraction is {self.crop_fraction}, "
                "expected over 0 and at most 1"
            )
        if self.interpolation not in _INTERPOLATIONS:
            raise ConfigError(
                f"protocol {self.name}: interpolation {self.interpolation!r} is unknown; "
                f"choose one of {', '.join(_INTERPOLATIONS)}"
            )
        if self.scaling not in FORMULAS:
            raise ConfigError(
                f"protocol {self.name}: scaling {self.scaling!r} is unknown; "
                f"choose one of {', '.join(FORMULAS)}"
            )

    def describe(self) -> dict[str, Any]:
        """Name all that decides the input of the network, for the fingerprint of a cache."""
        return {
            **asdict(self),
            "antialias": True,
            "library": "pillow",
            "library_version": PIL.__version__,
        }


def for_backbone(scaling: str, size: int) -> Protocol:
    """Choose the protocol with which a kind of network was evaluated.

    Args:
        scaling: what the network was trained with, see `scale`.
        size: side of its square input in pixels.

    Returns:
        EfficientNet's protocol for "lite", TensorFlow-Slim's for all others.

    Raises:
        ConfigError: the scaling is unknown or the size is not positive.
    """
    if size < 1:
        raise ConfigError(f"input size is {size}, expected at least 1")
    if scaling == "lite":
        fraction = size / (size + _EFFICIENTNET_CROP_PADDING)
        return Protocol("efficientnet", size, fraction, "bicubic", scaling, keeps_aspect=True)
    return Protocol("slim", size, _SLIM_CROP_FRACTION, "bilinear", scaling)


def to_input(pixels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Crop the centre and resize it, in one pass with antialiasing.

    Grayscale is resized in its one channel and then repeated, a third of the work for the same
    values.

    Args:
        pixels: uint8, (height, width) grayscale or (height, width, 3) RGB, 0..255.
        protocol: geometry to apply.

    Returns:
        uint8, (size, size, 3), RGB, 0..255, contiguous.

    Raises:
        ImageError: the array is no such image or has no pixels.
    """
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_image or pixels.size == 0:
        raise ImageError(
            f"pixels are {pixels.dtype} {pixels.shape}; "
            "expected uint8 (height, width) or (height, width, 3)"
        )
    height, width = pixels.shape[:2]
    resized = Image.fromarray(pixels).resize(
        (protocol.size, protocol.size),
        resample=_INTERPOLATIONS[protocol.interpolation],
        box=_crop_box(height, width, protocol),
    )
    array = np.asarray(resized)
    return np.repeat(array[:, :, np.newaxis], 3, axis=2) if array.ndim == 2 else array.copy()


def _crop_box(height: int, width: int, protocol: Protocol) -> tuple[float, float, float, float]:
    """Give the cropped region of the source as (left, top, right, bottom) in pixels.

    A crop of both sides starts at a whole pixel, rounded down as in `tf.image.central_crop`. A
    square crop is whole pixels of the scaled image, so that this one pass gives what scaling the
    whole image and then cutting it would.
    """
    fraction = protocol.crop_fraction
    if not protocol.keeps_aspect:
        left, top = int((width - width * fraction) / 2), int((height - height * fraction) / 2)
        return left, top, width - left, height - top
    size = protocol.size
    scaled_short = round(size / fraction)
    factor = scaled_short / min(height, width)
    scaled_height, scaled_width = round(height * factor), round(width * factor)
    top, left = (scaled_height - size) // 2, (scaled_width - size) // 2
    return (
        left * width / scaled_width,
        top * height / scaled_height,
        min(width, (left + size) * width / scaled_width),
        min(height, (top + size) * height / scaled_height),
    )


def scale(batch: Any, protocol: Protocol) -> Any:
    """Bring pixels to the range the network was trained with.

    Written with operators alone, so that a NumPy array and a tensor (also inside `tf.function`)
    take the same steps and give the same values. They are those of keras.applications'
    `preprocess_input` within 1e-6: `tf.function` turns a division by a constant into a
    multiplication, NumPy does not, so this multiplies everywhere.

    - symmetric: x / 127.5 - 1
    - caffe: BGR, minus the ImageNet means 103.939, 116.779, 123.68
    - torch: x / 255, minus the ImageNet means, over their deviations
    - raw: x
    - lite: (x - 127) / 128 (EfficientNet-Lite)

    Args:
        batch: float32 array or tensor, (batch, size, size, 3), RGB, 0..255.
        protocol: the scaling to apply.

    Returns:
        float32, of the kind and shape of `batch`.

    Raises:
        TypeError: the batch is not float32; cast it where it is to be computed.
    """
    if getattr(batch.dtype, "name", batch.dtype) != "float32":
        raise TypeError(f"batch is {batch.dtype}, expected float32; cast it on the device")
    if protocol.scaling == "symmetric":
        return batch * (1.0 / 127.5) - 1.0
    if protocol.scaling == "caffe":
        return batch[..., ::-1] - _CAFFE_MEAN
    if protocol.scaling == "torch":
        return (batch * (1.0 / 255.0) - _TORCH_MEAN) * _TORCH_INVERSE_STD
    if protocol.scaling == "lite":
        return (batch - 127.0) * (1.0 / 128.0)
    return batch
