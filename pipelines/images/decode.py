"""Original images: from the bytes of a file to pixels, one documented way for each kind.

| found in the file | becomes |
|---|---|
| 8-bit grayscale, bilevel | one channel |
| 8-bit RGB, palette, CMYK and YCCK, YCbCr | RGB (CMYK by Pillow's `convert`, without a profile) |
| 16-bit grayscale | one channel, each value divided by 257 and rounded |
| 16-bit colour (PNG, TIFF, PPM) | RGB, as Pillow reads it: 8 bits a channel |
| alpha channel, transparent colour or palette entry | laid on white |
| EXIF orientation | applied |
| animation, pages, MPO | the first frame |
| ICC profile | not applied, as in TensorFlow's and Keras's image loaders |
| 32-bit integers, floating point, Lab, 12-bit samples | an error |

Pixels of 8-bit JPEGs with one or three components come from the decoder that also reads the
variants, so that nothing but the compression differs between them. A JPEG that it refuses (some
files of ImageNet hold stray bytes between segments) goes to Pillow, which gives the same pixels
for a whole file, forgives stray bytes and refuses a file cut short.

Formats are recognised by content. Readers are called directly instead of through `Image.open`:
no format outside the list can be reached, and Pillow's own size check, a warning that threads
cannot silence one by one, does not run in place of ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import PIL
import simplejpeg
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipelines.errors import ImageError
from pipelines.images.jpeg import decode_jpeg, describe_decoder

_Result = TypeVar("_Result")

# The JPEG reader also takes MPO, whose first picture is a plain JPEG.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
}
# Pillow's mode -> the mode without alpha that it becomes.
_OPAQUE_MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
_ALPHA_MODES = {"LA": "L", "La": "L", "RGBA": "RGB", "RGBa": "RGB", "PA": "RGB"}
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_SIGNATURE_BYTES = 16
_MAX_REASON_CHARS = 200


def sniff(data: bytes) -> str | None:
    """Name the format of an image file by its first bytes, cheaply and without decoding.

    Args:
        data: the file, or at least its first 16 bytes.

    Returns:
        "jpeg" (also for MPO), "png", "gif", "bmp", "tiff", "webp" or "ppm"; None for all else.
    """
    prefix = bytes(data[:_SIGNATURE_BYTES])
    for name, reader in _READERS.items():
        accept = Image.OPEN[reader.format or ""][1]
        # A text in place of True is how Pillow says that it was built without the format.
        if accept is not None and accept(prefix) is True:
            return name
    return None


def decode_original(data: bytes, *, max_megapixels: float = 100.0) -> np.ndarray:
    """Decode one image file as the table at the top of this module says.

    Safe to call from many threads at once; they run side by side in the decoders.

    Args:
        data: the whole file, of any origin; nothing in it is trusted.
        max_megapixels: largest accepted size in millions of pixels, read from the header before
            any pixel is decoded.

    Returns:
        uint8, (height, width) grayscale or (height, width, 3) RGB, 0..255, contiguous.

    Raises:
        ImageError: the file is empty, no image, of an unsupported kind, too large, cut short or
            damaged; the message is the reason alone, the caller knows the name of the file.
    """
    if not data:
        raise ImageError("the file is empty, 0 bytes")
    name = sniff(data)
    if name is None:
        raise ImageError(f"not an image of a supported format ({', '.join(_READERS)})")
    image = _guarded(name, lambda: _READERS[name](io.BytesIO(data)))
    _check_size(image.size, max_megapixels)
    pixels = _decode_jpeg(data, image) if name == "jpeg" else None
    if pixels is None:
        _guarded(name, image.load)
        pixels = _to_pixels(name, image)
    return np.ascontiguousarray(_upright(pixels, _orientation(image)))


def describe() -> dict[str, Any]:
    """Name the libraries that decide the pixels of an original, for the fingerprint of a cache."""
    return {
        "jpeg": describe_decoder(),
        "other": {"library": "pillow", "library_version": PIL.__version__},
        "alpha": "white",
        "exif_orientation": "applied",
        "icc_profile": "ignored",
    }


def _guarded(name: str, call: Callable[[], _Result]) -> _Result:
    """Run one of Pillow's steps; whatever it raises is a fault of the file."""
    try:
        return call()
    except Image.DecompressionBombError as error:
        megapixels = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ImageError(f"image is over {megapixels:,.0f} megapixels, Pillow's limit") from error
    # Fed with hostile bytes, Pillow raises OSError, SyntaxError, ValueError, struct.error,
    # zlib.error, MemoryError, KeyError and others, and documents no closed list.
    except Exception as error:
        words = " ".join(str(error).split()).lower()
        if not any(letter.isalpha() for letter in words):
            words = f"{type(error).__name__} {words}".strip()
        raise ImageError(f"damaged {name} data: {words[:_MAX_REASON_CHARS]}") from error


def _check_size(size: tuple[int, int], max_megapixels: float) -> None:
    width, height = size
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise ImageError(
            f"image is {megapixels:,.1f} megapixels ({width} x {height}), "
            f"the limit is {max_megapixels:,g}"
        )


def _decode_jpeg(data: bytes, image: ImageFile.ImageFile) -> np.ndarray | None:
    """Decode like a variant, or give None where only Pillow can."""
    if image.mode not in ("L", "RGB"):
        return None
    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        # Two readers of one header could be told two sizes; only the checked one may be decoded.
        if (width, height) != image.size:
            return None
        return decode_jpeg(data)
    except (ValueError, ImageError):
        return None


def _to_pixels(name: str, image: ImageFile.ImageFile) -> np.ndarray:
    """Turn a loaded image into uint8 (height, width) or (height, width, 3)."""
    mode = image.mode
    # Pillow reads 16-bit PGM, and before its version 11 16-bit PNG, as 32-bit numbers.
    if mode in _SIXTEEN_BIT_MODES or (mode == "I" and name in ("png", "ppm")):
        return _from_16_bit(image)
    if mode in _ALPHA_MODES or "transparency" in image.info:
        target = {**_OPAQUE_MODES, **_ALPHA_MODES}.get(mode)
        if target is not None:
            return _guarded(name, lambda: _on_white(image, target))
    if mode in _OPAQUE_MODES:
        return _guarded(name, lambda: np.asarray(image.convert(_OPAQUE_MODES[mode])))
    raise ImageError(f"unsupported {name} pixel type {mode}; expected 8 or 16 bits a channel")


def _on_white(image: Image.Image, target: str) -> np.ndarray:
    with_alpha = image.convert("LA" if target == "L" else "RGBA")
    white = Image.new(target, image.size, "white")
    white.paste(with_alpha.convert(target), mask=with_alpha.getchannel("A"))
    return np.asarray(white)


def _from_16_bit(image: ImageFile.ImageFile) -> np.ndarray:
    """Divide by 257 and round: 0 stays 0, 65535 becomes 255, each level is as wide as any."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))
    # Pillow neither stretches 12-bit samples nor turns "white is zero" around at this depth.
    if tuple(bits) != (16,) or tags.get(ExifTags.Base.PhotometricInterpretation, 1) == 0:
        raise ImageError("unsupported tiff pixel type; expected 16 bits with black as zero")
    values = np.asarray(image).astype(np.uint32)
    pixels = ((values + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = 255
    return pixels


def _orientation(image: ImageFile.ImageFile) -> int:
    """Read the EXIF orientation, 1..8; TIFF pixels are upright once loaded and read as 1."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    # A camera's broken metadata do not spoil its pixels, and Pillow raises all sorts here.
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (Exif 2.32, tag 0x0112: where row 0 and column 0 were shot)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
