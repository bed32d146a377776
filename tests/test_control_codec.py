"""The versions of the control set as PNG files: nothing is lost, and what is damaged is told."""

from __future__ import annotations

import io

import numpy as np
import pytest
from images import photo, to_file, to_png
from PIL import Image

from pipelines.errors import ImageError
from pipelines.images import control
from pipelines.images.control_codec import ControlCodec, decode_png


def test_names_are_numbered_in_the_order_of_the_changes():
    names = ControlCodec().variant_names
    assert names == tuple(f"control_{number:02d}" for number in range(1, 11))
    assert ControlCodec(control.CHANGES[:2]).variant_names == names[:2]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_encode_writes_png_that_others_read_pixel_by_pixel(channels, mode):
    pixels = photo(5, channels=channels)
    for file, change in zip(ControlCodec().encode(pixels), control.CHANGES, strict=True):
        with Image.open(io.BytesIO(file)) as image:
            assert (image.format, image.mode) == ("PNG", mode)
            np.testing.assert_array_equal(np.asarray(image), change.apply(pixels))


def test_describe_names_what_decides_the_bytes():
    described = ControlCodec().describe()
    assert (described["format"], described["library"]) == ("png", "pillow")
    assert described["zlib_version"]
    assert described["changes"][2:4] == [
        {"kind": "shift", "right": 1, "down": 1},
        {"kind": "crop", "keep_percent": 96},
    ]
    assert described != ControlCodec(control.CHANGES[:9]).describe()


@pytest.mark.parametrize("file", [b"no image", to_file(photo(), "JPEG")])
def test_decode_png_of_something_else_raises(file):
    with pytest.raises(ImageError, match="damaged PNG"):
        decode_png(file)


def test_decode_png_with_a_changed_byte_raises():
    file = bytearray(to_png(photo()))
    file[len(file) // 2] ^= 0x55
    with pytest.raises(ImageError, match="damaged PNG"):
        decode_png(bytes(file))


def test_decode_png_of_other_pixels_than_are_written_raises():
    file = to_file(Image.fromarray(photo()).convert("RGBA"), "PNG")
    with pytest.raises(ImageError, match="pixels of type RGBA; expected 8 bits, gray or RGB"):
        decode_png(file)
