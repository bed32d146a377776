"""The versions of the control set as files: PNG, so that nothing of them is lost.

Pillow encodes with zlib's run-length strategy. On four colour photographs of 500x375, shifted by
half a pixel, that came to 0.44 of the pixels' bytes in 11 to 15 ms a file; the default strategy to
0.49 in 18 to 27 ms at level 1, 0.44 in 67 ms at level 6 and 0.44 in 270 ms at level 9. On gray
solar cells of 300x300 it was the smallest, too (0.32; the others 0.40, 0.34 and 0.34), and the
fastest. With this strategy the level decides nothing but a byte of the header.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL
from PIL import Image, PngImagePlugin, features

from pipelines.errors import ImageError
from pipelines.images import control
from pipelines.images.control import Change
from pipelines.images.jpeg import check_pixels

_LEVEL = 1


@dataclass(frozen=True)
class ControlCodec:
    """Change one image in several ways, and keep each version as a PNG file.

    Attributes:
        changes: one a version.
    """

    changes: tuple[Change, ...] = control.CHANGES

    format: ClassVar[str] = "png"
    size_to_original: ClassVar[float] = 29.0

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the versions in the order of `encode`, "control_01" and so on."""
        return tuple(f"control_{i:02d}" for i in range(1, len(self.changes) + 1))

    def encode(self, pixels: np.ndarray) -> list[bytes]:
        """Change one image in every way.

        Args:
            pixels: uint8, (height, width) grayscale or (height, width, 3) RGB, 0..255.

        Returns:
            A PNG file for each change; of one channel for grayscale.

        Raises:
            ImageError: the array is no such image, or too large for a JPEG: both sets take the
                same images.
        """
        return [_encode_png(version) for version in self.versions(pixels, self.variant_names)]

    def versions(self, pixels: np.ndarray, names: Sequence[str]) -> Iterator[np.ndarray]:
        """Give the pixels of some versions, as reading their files back would.

        Args:
            pixels: as `encode` takes them.
            names: of the versions.

        Raises:
            ImageError: as `encode` does.
        """
        check_pixels(pixels)
        change_of = dict(zip(self.variant_names, self.changes, strict=True))
        for name in names:
            yield change_of[name].apply(pixels)

    def in_words(self, name: str) -> str:
        """Say what a version is."""
        return dict(zip(self.variant_names, self.changes, strict=True))[name].in_words()

    def describe(self) -> dict[str, Any]:
        """Name all that decides the bytes of a version, for the fingerprint of a cache."""
        return {
            "format": self.format,
            "library": "pillow",
            "library_version": PIL.__version__,
            "zlib_version": features.version("zlib"),
            "zlib_ng_version": _zlib_ng_version(),
            "strategy": "rle",
            "compress_level": _LEVEL,
            "changes": [control.to_json(change) for change in self.changes],
        }

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> ControlCodec:
        """Make it from what `describe` gives, whatever libraries were there.

        Raises:
            ConfigError: a change is unknown.
            KeyError: it does not describe one.
        """
        return cls(tuple(control.from_json(change) for change in described["changes"]))


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG as this package encodes them.

    Args:
        data: one PNG file of 8 bits, grayscale or RGB.

    Returns:
        uint8, (height, width) or (height, width, 3), 0..255.

    Raises:
        ImageError: the data are empty, cut short or damaged, or no such PNG.
    """
    if not data:
        raise ImageError("the PNG is empty, 0 bytes")
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            mode = image.mode
            pixels = np.array(image)
    # Fed with damaged bytes, Pillow raises OSError, SyntaxError, ValueError, struct.error and
    # others, and documents no closed list.
    except Exception as error:
        raise ImageError(f"damaged PNG: {error}") from error
    if mode not in ("L", "RGB"):
        raise ImageError(f"the PNG has pixels of type {mode}; expected 8 bits, gray or RGB")
    return pixels


def _encode_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    try:
        image.save(file, "PNG", compress_level=_LEVEL, compress_type=zlib.Z_RLE)
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(f"cannot be encoded as PNG: {error}") from error
    return file.getvalue()


def _zlib_ng_version() -> str | None:
    """Return the version of zlib-ng, which newer Pillows are built with in zlib's place."""
    return features.version("zlib_ng") if "zlib_ng" in features.features else None
