"""Original images that cannot be used: damaged, too large or of a kind that is not read."""

import struct

import images
import numpy as np
import pytest
from PIL import ExifTags, Image

from pipelines.errors import ImageError
from pipelines.images.decode import decode_original, sniff

PHOTO = images.photo()
GRAY = images.photo(channels=1)


def _webp_header(width, height):
    """Give a WebP of nothing but an extended header (VP8X) with this canvas size."""
    body = bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    chunk = b"VP8X" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "^the file is empty, 0 bytes$"),
        ("truncated_jpeg", "^damaged jpeg data: image file is truncated"),
        ("truncated_png", "^damaged png data: image file is truncated"),
        ("text", "^not an image of a supported format"),
        ("bomb", r"^image is 1,200.0 megapixels \(40000 x 30000\), the limit is 100$"),
    ],
)
def test_decode_original_bad_file_raises_with_its_reason(name, reason, tmp_path):
    data = images.write_bad_files(tmp_path)[name].read_bytes()

    with pytest.raises(ImageError, match=reason):
        decode_original(data)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95, 0.99])
def test_decode_original_jpeg_cut_anywhere_raises(progressive, share):
    jpeg = images.to_jpeg(PHOTO, progressive=progressive)

    with pytest.raises(ImageError, match="damaged jpeg data"):
        decode_original(images.truncated(jpeg, share))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_decode_original_other_format_cut_anywhere_raises(kind, share):
    with pytest.raises(ImageError, match=f"damaged {kind.lower()} data"):
        decode_original(images.truncated(images.to_file(PHOTO, kind), share))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("TIFF", np.float32), ("TIFF", np.int32)], ids=["float", "int32"]
)
def test_decode_original_32_bit_pixels_raise(kind, dtype):
    data = images.to_file(np.zeros((4, 4), dtype=dtype), kind)

    with pytest.raises(ImageError, match="unsupported tiff pixel type"):
        decode_original(data)


def test_decode_original_lab_raises():
    data = images.to_file(Image.new("LAB", (4, 4)), "TIFF")

    with pytest.raises(ImageError, match="unsupported tiff pixel type LAB"):
        decode_original(data)


@pytest.mark.parametrize(
    ("tag", "value"),
    [(ExifTags.Base.PhotometricInterpretation, 0), (ExifTags.Base.BitsPerSample, 12)],
    ids=["white_is_zero", "12_bit"],
)
def test_decode_original_16_bit_tiff_of_another_meaning_raises(tag, value):
    data = bytearray(images.to_file(images.gray_16_bit(), "TIFF"))
    entry = data.index(struct.pack("<HHI", tag, 3, 1))
    data[entry + 8 : entry + 10] = struct.pack("<H", value)

    with pytest.raises(ImageError, match="expected 16 bits with black as zero"):
        decode_original(bytes(data))


@pytest.mark.parametrize("kind", ["EPS", "TGA", "ICO", "PCX", "SGI", "JPEG2000"])
def test_decode_original_format_outside_the_list_raises(kind):
    data = images.to_file(PHOTO, kind)

    assert sniff(data) is None
    with pytest.raises(ImageError, match="not an image of a supported format"):
        decode_original(data)


def test_decode_original_limit_is_exact():
    data = images.to_png(np.zeros((1000, 1000), dtype=np.uint8))

    assert decode_original(data, max_megapixels=1.0).shape == (1000, 1000)
    with pytest.raises(ImageError, match=r"1.0 megapixels .* the limit is 0.99"):
        decode_original(data, max_megapixels=0.99)


def test_decode_original_jpeg_over_the_limit_raises():
    with pytest.raises(ImageError, match=r"\(64 x 48\), the limit is 0.001"):
        decode_original(images.to_jpeg(PHOTO), max_megapixels=0.001)


def test_decode_original_size_that_pillow_warns_of_is_silent():
    data = images.bomb_png(10_000, 9_500)

    # Warnings are errors here: Pillow's own, from 89.5 megapixels, would show as the reason.
    with pytest.raises(ImageError, match="truncated"):
        decode_original(data)


def test_decode_original_huge_webp_raises():
    with pytest.raises(ImageError, match=r"over 179 megapixels|damaged webp"):
        decode_original(_webp_header(1 << 24, 1 << 7))


def test_decode_original_damaged_bytes_raise_nothing_but_image_errors():
    rng = np.random.default_rng(0)
    files = [images.to_file(PHOTO, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM")]
    outcomes = set()
    for data in files:
        for _ in range(60):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 400), 4):
                damaged[position] = rng.integers(0, 256)
            try:
                pixels = decode_original(bytes(damaged), max_megapixels=5)
                outcomes.add(pixels.dtype)
            except ImageError as error:
                assert str(error)
                outcomes.add(ImageError)

    assert outcomes == {np.dtype(np.uint8), ImageError}
