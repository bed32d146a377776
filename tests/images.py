"""Image files for the tests: ordinary ones, odd ones that must decode, and bad ones that must not.

Functions without a path give the bytes of a file; `write_*` and `make_*` put files on disk.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

# The transposition that stores an upright image so that its EXIF orientation turns it back.
_STORED_BY_ORIENTATION = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(seed: int = 0, size: tuple[int, int] = (48, 64), channels: int = 3) -> np.ndarray:
    """Draw something that compresses like a photograph: smooth waves under fine texture.

    Args:
        seed: another seed gives another picture.
        size: (height, width) in pixels.
        channels: 1 for (height, width), 3 for (height, width, 3).

    Returns:
        uint8, no two of whose eight rotations and reflections are alike.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    waves = np.zeros((height, width, channels))
    for _ in range(4):
        fy, fx, phase = rng.uniform(0.5, 4.0, 3)
        wave = np.sin(2 * np.pi * (fy * y + fx * x + phase))
        waves += wave[:, :, np.newaxis] * rng.uniform(8, 24, channels)
    slope = 40 * (y + 2 * x - 1.5)[:, :, np.newaxis]
    noise = rng.normal(0, 6, (height, width, channels))
    pixels = np.clip(np.rint(128 + waves + slope + noise), 0, 255).astype(np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def to_file(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """Encode an image with Pillow as `kind`, such as "PNG" or "TIFF"."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def to_png(pixels: np.ndarray) -> bytes:
    return to_file(pixels, "PNG")


def to_jpeg(pixels: np.ndarray, quality: int = 95, **options: object) -> bytes:
    return to_file(pixels, "JPEG", quality=quality, **options)


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.write_bytes(to_png(pixels))
    return path


def write_jpeg(path: Path, pixels: np.ndarray, quality: int = 95) -> Path:
    path.write_bytes(to_jpeg(pixels, quality))
    return path


def truncated(data: bytes, share: float = 0.6) -> bytes:
    """Keep the first `share` of a file, as a broken download does."""
    return data[: int(len(data) * share)]


def cmyk_jpeg(seed: int = 0) -> bytes:
    return to_file(Image.fromarray(photo(seed)).convert("CMYK"), "JPEG", quality=95)


def gray_16_bit(seed: int = 0) -> np.ndarray:
    """Give uint16 (48, 64) that uses all 16 bits and holds 0 and 65,535."""
    values = np.random.default_rng(seed).integers(0, 65536, (48, 64), dtype=np.uint16)
    values[0, :2] = (0, 65535)
    return values


def gray_16_bit_png(seed: int = 0) -> bytes:
    return to_png(gray_16_bit(seed))


def rgba_png() -> bytes:
    """Three pixels of pure red: clear, half clear (alpha 128) and opaque."""
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 128], [255, 0, 0, 255]]], dtype=np.uint8)
    return to_png(pixels)


def palette_png() -> bytes:
    """Three palette pixels: a clear green, red, blue."""
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    image.putpalette([0, 255, 0, 255, 0, 0, 0, 0, 255])
    return to_file(image, "PNG", transparency=0)


def rotated_jpeg(orientation: int, pixels: np.ndarray) -> bytes:
    """Store an upright image turned, with the EXIF orientation (1..8) that undoes it."""
    image = Image.fromarray(pixels)
    method = _STORED_BY_ORIENTATION[orientation]
    stored = image if method is None else image.transpose(method)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return to_file(stored, "JPEG", quality=100, subsampling="4:4:4", exif=exif)


def bomb_png(width: int = 40_000, height: int = 30_000) -> bytes:
    """Give a PNG of about 100 bytes whose header declares 1,200 megapixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def animated_gif(frames: Sequence[int] = (30, 200)) -> bytes:
    """Give a GIF with one frame of each of these gray levels, 8 x 8 pixels."""
    images = [Image.fromarray(np.full((8, 8), level, dtype=np.uint8)) for level in frames]
    return to_file(images[0], "GIF", save_all=True, append_images=images[1:])


def write_bad_files(folder: Path) -> dict[str, Path]:
    """Write one file for each way to be no usable image.

    Returns:
        The paths under "empty", "truncated_jpeg", "truncated_png", "text" and "bomb".
    """
    contents = {
        "empty": ("empty.jpg", b""),
        "truncated_jpeg": ("truncated.jpg", truncated(to_jpeg(photo()))),
        "truncated_png": ("truncated.png", truncated(to_png(photo()))),
        "text": ("text.jpg", b"this is no image, whatever the name says\n"),
        "bomb": ("bomb.png", bomb_png()),
    }
    return {name: _write(folder / file, data) for name, (file, data) in contents.items()}


def write_odd_files(folder: Path) -> dict[str, Path]:
    """Write one file for each odd but usable kind of image.

    Returns:
        The paths under "png_named_jpg", "cmyk_jpeg", "gray_16_bit_png", "rgba_png",
        "palette_png", "rotated_jpeg" and "animated_gif".
    """
    contents = {
        "png_named_jpg": ("png.jpg", to_png(photo())),
        "cmyk_jpeg": ("cmyk.jpg", cmyk_jpeg()),
        "gray_16_bit_png": ("gray_16_bit.png", gray_16_bit_png()),
        "rgba_png": ("rgba.png", rgba_png()),
        "palette_png": ("palette.png", palette_png()),
        "rotated_jpeg": ("rotated.jpg", rotated_jpeg(6, photo())),
        "animated_gif": ("animated.gif", animated_gif()),
    }
    return {name: _write(folder / file, data) for name, (file, data) in contents.items()}


def make_class_folders(
    root: Path,
    classes: Sequence[str] = ("cat", "dog"),
    num_per_class: int = 4,
    size: tuple[int, int] = (24, 32),
) -> list[Path]:
    """Write `root/<class>/<class>_<number>.jpg`, brighter from class to class, so learnable.

    Returns:
        The paths of the images, class by class.
    """
    paths = []
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        shift = 120 * label / max(1, len(classes) - 1) - 60
        for number in range(num_per_class):
            pixels = photo(seed=label * num_per_class + number, size=size)
            tinted = np.clip(pixels + shift, 0, 255).astype(np.uint8)
            paths.append(write_jpeg(folder / f"{name}_{number:03d}.jpg", tinted))
    return paths


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
