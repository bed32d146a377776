"""What every codec of a set of variants does, JPEG and that of the control set alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
from images import photo

from pipelines.errors import ImageError, ManifestError
from pipelines.images import codecs
from pipelines.images.codecs import Codec
from pipelines.images.control_codec import ControlCodec
from pipelines.images.jpeg import MAX_SIDE_PIXELS, JpegCodec

CODECS = {
    "jpeg": JpegCodec(),
    "jpeg of 4:2:2": JpegCodec((10, 50), "4:2:2"),
    "control": ControlCodec(),
}
SIZES = [(1, 1), (5, 7), (48, 64)]
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


@every_codec
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_versions_are_what_the_files_hold(codec: Codec, size, channels):
    pixels = photo(2, size, channels)
    decode = codecs.decoder_of(codec.describe())
    files = codec.encode(pixels)
    versions = list(codec.versions(pixels, codec.variant_names))
    assert len(files) == len(versions) == len(codec.variant_names)
    for file, version in zip(files, versions, strict=True):
        assert (version.dtype, version.ndim) == (np.uint8, pixels.ndim)
        np.testing.assert_array_equal(decode(file), version)


@every_codec
def test_versions_come_in_the_order_of_their_names(codec: Codec):
    every = dict(
        zip(codec.variant_names, codec.versions(photo(), codec.variant_names), strict=True)
    )
    names = [codec.variant_names[1], codec.variant_names[0]]
    for name, version in zip(names, codec.versions(photo(), names), strict=True):
        np.testing.assert_array_equal(version, every[name])


@every_codec
def test_versions_all_differ(codec: Codec):
    versions = [v.tobytes() for v in codec.versions(photo(), codec.variant_names)]
    assert len({*versions, photo().tobytes()}) == len(codec.variant_names) + 1


@every_codec
def test_encode_twice_gives_the_same_bytes_and_of_a_view_those_of_its_copy(codec: Codec):
    view = photo()[::-1, ::2]
    assert codec.encode(view) == codec.encode(view.copy()) == codec.encode(view)


@every_codec
def test_description_gives_the_codec_back(codec: Codec):
    described = json.loads(json.dumps(codec.describe()))
    assert codecs.from_description(described) == codec
    assert codecs.from_description({**described, "library_version": "0.1"}) == codec


@every_codec
def test_every_variant_has_words_of_its_own(codec: Codec):
    assert len({codec.in_words(name) for name in codec.variant_names}) == len(codec.variant_names)


@every_codec
@pytest.mark.parametrize("shape", [(0, 4), (4, 0, 3), (1, MAX_SIDE_PIXELS + 1)])
def test_encode_side_out_of_range_raises(codec: Codec, shape):
    with pytest.raises(ImageError, match="a JPEG has 1 to 65,500 a side"):
        codec.encode(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match="a JPEG has 1 to 65,500 a side"):
        next(codec.versions(np.zeros(shape, np.uint8), codec.variant_names))


@every_codec
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_decoder_of_a_truncated_file_raises(codec: Codec, share):
    decode = codecs.decoder_of(codec.describe())
    for file in codec.encode(photo()):
        with pytest.raises(ImageError, match=r"damaged (JPEG|PNG): |is empty, 0 bytes"):
            decode(file[: int(len(file) * share)])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"set": "jpeg", "qualities": [10, 50], "subsampling": "4:4:4"}, ((10, 50), "4:4:4")),
        ({"set": "control", "qualities": [10, 50], "subsampling": "4:4:4"}, None),
    ],
)
def test_of_settings_takes_the_set_that_is_asked_for(settings, expected):
    asked = JpegCodec(*expected) if expected else ControlCodec()
    assert codecs.of_settings(settings) == asked


@pytest.mark.parametrize("function", [codecs.from_description, codecs.decoder_of])
def test_format_of_a_newer_program_is_named(function):
    message = "variants of format webp: this program knows jpeg and png alone; update the program"
    with pytest.raises(ManifestError, match=message):
        function({"format": "webp"})


def test_decoder_of_a_set_that_names_no_format_is_for_jpeg():
    (jpeg,) = JpegCodec((90,)).encode(photo())
    assert codecs.decoder_of({"name": "jpeg"})(jpeg).shape == (48, 64, 3)
