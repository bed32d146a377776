"""JPEG variants: how the ten qualities are encoded, and how they are decoded again.

Everything a JPEG library is free to choose is pinned here, because the defaults differ between
libraries and each choice moves pixels: the accurate integer DCT ("islow"), chroma subsampling,
smooth ("fancy") chroma upsampling, and the quantisation tables of ITU-T T.81, Annex K, scaled by
the formula of the Independent JPEG Group. A grayscale image stays a one-component JPEG.

Pillow encodes and simplejpeg decodes, each where the other cannot be used. simplejpeg's encoder
has no accurate DCT below quality 96 (`fastdct=False` leaves TurboJPEG its default, the fast one;
at quality 90 that changes half of all pixel values of a photograph). Pillow's decoder ignores
damage that simplejpeg reports, and holds the interpreter lock for longer. On whole files the two
decoders give the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL
import simplejpeg
from PIL import Image, features

from pipelines.errors import ConfigError, ImageError

DEFAULT_QUALITIES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)

# libjpeg's JPEG_MAX_DIMENSION (jmorecfg.h); the format itself would allow 65,535.
MAX_SIDE_PIXELS = 65_500

_SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")

# ITU-T T.81, Annex K, tables K.1 and K.2, in natural (row-major) order.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def quality_table(qf: int, chroma: bool = False) -> np.ndarray:
    """Give the quantisation table of one quality factor (thesis, eq. 2.2 and 2.4).

    The thesis writes a rounding, libjpeg divides whole numbers (jcparam.c,
    `jpeg_add_quant_table`); this is libjpeg's, which is what the variants hold.

    Args:
        qf: quality factor, 1..100.
        chroma: the table of the colour difference components instead of the brightness one.

    Returns:
        int64, (8, 8): (vertical, horizontal) frequency, steps of 1..255.

    Raises:
        ConfigError: the quality factor is no whole number from 1 to 100.
    """
    qf = _parse_quality(qf)
    scale = 5000 // qf if qf < 50 else 200 - 2 * qf
    base = np.array(_CHROMA_TABLE if chroma else _LUMA_TABLE, dtype=np.int64)
    return np.clip((base * scale + 50) // 100, 1, 255)


def parse_qualities(values: Iterable[object]) -> tuple[int, ...]:
    """Check quality factors and sort them.

    Args:
        values: whole numbers, or text that holds one each.

    Returns:
        The quality factors, ascending.

    Raises:
        ConfigError: none given, one given twice, or one that is no whole number from 1 to 100.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ConfigError(
            f"qualities: {values!r} is no list; give whole numbers from 1 to 100, such as [10, 20]"
        )
    qualities = [_parse_quality(value) for value in values]
    if not qualities:
        raise ConfigError("qualities: none given; give at least one whole number from 1 to 100")
    duplicates = sorted({qf for qf in qualities if qualities.count(qf) > 1})
    if duplicates:
        listed = ", ".join(map(str, duplicates))
        raise ConfigError(f"qualities: {listed} given more than once; give each quality once")
    return tuple(sorted(qualities))


def _parse_quality(value: object) -> int:
    is_number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    is_text = isinstance(value, str) and value.strip().isascii() and value.strip().isdigit()
    if not (is_number or is_text):
        raise ConfigError(f"qualities: {value!r} is not a whole number from 1 to 100")
    qf = int(str(value))
    if not 1 <= qf <= 100:
        raise ConfigError(f"qualities: {qf} is outside 1 to 100")
    return qf


@dataclass(frozen=True)
class JpegCodec:
    """Encode one image at several quality factors.

    Attributes:
        qualities: quality factors, ascending, 1..100.
        subsampling: chroma resolution of colour images, "4:4:4", "4:2:2" or "4:2:0"; the last is
            what cameras and most encoders write, and what libjpeg defaults to.

    Raises:
        ConfigError: a quality or the subsampling is none of those, or qualities are not ascending.
    """

    qualities: tuple[int, ...] = DEFAULT_QUALITIES
    subsampling: str = "4:2:0"

    format: ClassVar[str] = "jpeg"
    size_to_original: ClassVar[float] = 4.7

    def __post_init__(self) -> None:
        ascending = parse_qualities(self.qualities)
        if tuple(self.qualities) != ascending:
            raise ConfigError(
                f"qualities: {list(self.qualities)} are not whole numbers in ascending order; "
                f"expected {list(ascending)}"
            )
        if self.subsampling not in _SUBSAMPLINGS:
            raise ConfigError(
                f"subsampling: {self.subsampling!r} is unknown; "
                f"choose one of {', '.join(_SUBSAMPLINGS)}"
            )

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the variants in the order of `encode`, such as "q010" and "q100"."""
        return tuple(self.quality_of)

    @property
    def quality_of(self) -> dict[str, int]:
        """The quality factor of each variant, by its name."""
        return {f"q{qf:03d}": qf for qf in self.qualities}

    def encode(self, pixels: np.ndarray) -> list[bytes]:
        """Encode one image at every quality factor; Pillow holds the interpreter lock meanwhile.

        Args:
            pixels: uint8, (height, width) grayscale or (height, width, 3) RGB, 0..255.

        Returns:
            One baseline JPEG file for each quality, in the order of `qualities`.

        Raises:
            ImageError: the array is no such image, or a side has no or over 65,500 pixels.
        """
        check_pixels(pixels)
        image = Image.fromarray(pixels)
        return [self._encode_one(image, qf) for qf in self.qualities]

    def versions(self, pixels: np.ndarray, names: Sequence[str]) -> Iterator[np.ndarray]:
        """Give the pixels of some variants, encoded and decoded again.

        Args:
            pixels: as `encode` takes them.
            names: of the variants.

        Raises:
            ImageError: as `encode` does.
        """
        check_pixels(pixels)
        image, quality_of = Image.fromarray(pixels), self.quality_of
        for name in names:
            yield decode_jpeg(self._encode_one(image, quality_of[name]))

    def in_words(self, name: str) -> str:
        """Say what a variant is."""
        return f"JPEG at quality {self.quality_of[name]}"

    def _encode_one(self, image: Image.Image, qf: int) -> bytes:
        file = io.BytesIO()
        try:
            image.save(
                file,
                "JPEG",
                quality=qf,
                # Pillow would write 2 x 2 sampling factors even for a single component.
                subsampling="4:4:4" if image.mode == "L" else self.subsampling,
                optimize=False,
                progressive=False,
            )
        except (OSError, ValueError, MemoryError) as error:
            raise ImageError(f"cannot be encoded as JPEG of quality {qf}: {error}") from error
        return file.getvalue()

    def describe(self) -> dict[str, Any]:
        """Name all that decides the bytes of a variant, for the fingerprint of a cache."""
        return {
            "format": self.format,
            "library": "pillow",
            "library_version": PIL.__version__,
            "libjpeg_turbo_version": features.version("libjpeg_turbo"),
            "dct": "islow",
            "huffman": "standard",
            "subsampling": self.subsampling,
            "qualities": list(self.qualities),
        }

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> JpegCodec:
        """Make it from what `describe` gives, whatever libraries were there.

        Raises:
            ConfigError: a quality or the subsampling is none.
            KeyError: it does not describe one.
        """
        return cls(tuple(described["qualities"]), described["subsampling"])


def describe_decoder() -> dict[str, Any]:
    """Name all that decides the pixels of a decoded variant, for the fingerprint of a cache."""
    return {
        "library": "simplejpeg",
        "library_version": simplejpeg.__version__,
        "dct": "islow",
        "upsampling": "fancy",
    }


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG as this package encodes them; other threads run meanwhile.

    The accurate inverse DCT and smooth chroma upsampling are pinned, and whatever libjpeg would
    only warn of is an error.

    Args:
        data: one JPEG file of one or three components of 8 bits.

    Returns:
        uint8, (height, width) for one component, (height, width, 3) RGB for three, 0..255.

    Raises:
        ImageError: the data are empty, cut short or damaged, or no such JPEG.
    """
    if not data:
        raise ImageError("the JPEG is empty, 0 bytes")
    try:
        is_gray = simplejpeg.decode_jpeg_header(data)[2].lower() == "gray"
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if is_gray else "RGB", fastdct=False, fastupsample=False
        )
    except (ValueError, MemoryError) as error:
        raise ImageError(f"damaged JPEG: {error}") from error
    return pixels[:, :, 0] if is_gray else pixels


def check_pixels(pixels: np.ndarray) -> None:
    """Make sure that pixels can be encoded.

    Args:
        pixels: uint8, (height, width) or (height, width, 3).

    Raises:
        ImageError: they are of another kind, or a side has no or over 65,500 pixels.
    """
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_image:
        raise ImageError(
            f"pixels are {pixels.dtype} {pixels.shape}; "
            "expected uint8 (height, width) or (height, width, 3)"
        )
    height, width = pixels.shape[:2]
    if not (1 <= height <= MAX_SIDE_PIXELS and 1 <= width <= MAX_SIDE_PIXELS):
        raise ImageError(
            f"image is {width} x {height} pixels; a JPEG has 1 to {MAX_SIDE_PIXELS:,} a side"
        )
