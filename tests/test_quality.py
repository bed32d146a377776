"""The quality factor of a JPEG from its quantisation tables."""

import json

import numpy as np
import pytest
import simplejpeg
from images import cmyk_jpeg, photo, to_file, to_jpeg, to_png, truncated
from PIL import Image

from pipelines.images.jpeg import quality_table
from pipelines.images.quality import estimate_quality, qf_histogram

EVERY_QF = range(1, 101)


def with_tables(*tables, channels=3):
    """Encode a JPEG with quantisation tables of our own; Pillow writes 16 bits where needed."""
    flat = [[int(step) for step in np.ravel(table)] for table in tables]
    return to_file(photo(channels=channels), "JPEG", qtables=flat)


def unlimited_table(qf, chroma=False):
    """Scale as libjpeg does when it is not held to baseline files: steps up to 32,767."""
    scale = 5000 // qf if qf < 50 else 200 - 2 * qf
    return np.clip((quality_table(50, chroma) * scale + 50) // 100, 1, 32767)


def header_end(jpeg):
    """Find where the header of a JPEG ends: behind the segment that begins the first scan."""
    scan = jpeg.index(b"\xff\xda")
    return scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("progressive", [False, True])
def test_estimate_quality_every_quality_of_pillow_is_exact(channels, progressive):
    pixels = photo(channels=channels)

    found = [estimate_quality(to_jpeg(pixels, qf, progressive=progressive)) for qf in EVERY_QF]

    assert found == list(EVERY_QF)


@pytest.mark.parametrize("colorspace", ["GRAY", "RGB"])
def test_estimate_quality_every_quality_of_simplejpeg_is_exact(colorspace):
    pixels = photo()[:, :, :1].copy() if colorspace == "GRAY" else photo()

    found = [
        estimate_quality(simplejpeg.encode_jpeg(pixels, qf, colorspace, "420")) for qf in EVERY_QF
    ]

    assert found == list(EVERY_QF)


@pytest.mark.parametrize("channels", [1, 3])
def test_estimate_quality_every_quality_in_16_bit_tables_is_exact(channels):
    tables = [[unlimited_table(qf), unlimited_table(qf, chroma=True)] for qf in EVERY_QF]

    found = [estimate_quality(with_tables(*pair, channels=channels)) for pair in tables]

    assert found == list(EVERY_QF)


def test_with_tables_low_quality_writes_16_bit_tables():
    marker, length, precision = (b"\xff\xdb", b"\x00\x83", b"\x10")  # 2 + 1 + 64 * 2 bytes
    assert marker + length + precision in with_tables(unlimited_table(5), unlimited_table(5))


@pytest.mark.parametrize("progressive", [False, True])
def test_estimate_quality_cmyk_is_exact(progressive):
    image = Image.fromarray(photo()).convert("CMYK")

    assert estimate_quality(to_file(image, "JPEG", quality=37, progressive=progressive)) == 37
    assert estimate_quality(cmyk_jpeg()) == 95


def test_estimate_quality_rgb_without_chroma_is_exact():
    assert estimate_quality(to_jpeg(photo(), 64, keep_rgb=True)) == 64


def test_estimate_quality_mpo_gives_the_first_picture():
    first, second = (Image.fromarray(photo(seed)) for seed in (0, 1))
    data = to_file(first, "MPO", quality=81, save_all=True, append_images=[second])

    assert data.count(b"\xff\xd8\xff") >= 2
    assert estimate_quality(data) == 81


def test_estimate_quality_photoshop_tables_rise_with_its_settings():
    """No table of libjpeg is among them; the factors of the same PSNR are 36 to 98 and 78 to 95."""
    image = Image.fromarray(photo())
    web = ["web_low", "web_medium", "web_high", "web_very_high", "web_maximum"]
    settings = ["low", "medium", "high", "maximum"]

    found = {
        name: estimate_quality(to_file(image, "JPEG", quality=name)) for name in web + settings
    }

    assert [found[name] for name in web] == [40, 67, 83, 93, 99]
    assert [found[name] for name in settings] == [72, 80, 87, 93]


@pytest.mark.parametrize("qf", [10, 25, 50, 75, 90])
def test_estimate_quality_scale_with_other_rounding_gives_the_nearest(qf):
    """As in encoders that round up; also the thesis's eq. 2.4 rounds where libjpeg divides."""
    percent = 5000 / qf if qf < 50 else 200 - 2 * qf
    luma, chroma = (
        np.clip(np.ceil(quality_table(50, is_chroma) * percent / 100 + 0.2), 1, 255)
        for is_chroma in (False, True)
    )

    assert not np.array_equal(luma, quality_table(qf))
    assert estimate_quality(with_tables(luma, chroma)) == pytest.approx(qf, abs=3)


def test_estimate_quality_chroma_table_counts():
    luma = quality_table(60)

    assert estimate_quality(with_tables(luma, channels=1)) == 60
    assert estimate_quality(with_tables(luma, quality_table(20, chroma=True))) < 60


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xff\xd8\xff",
        b"this is no image\n",
        to_png(photo()),
        to_file(photo(), "WEBP"),
    ],
    ids=["empty", "one byte", "signature", "text", "png", "webp"],
)
def test_estimate_quality_no_jpeg_is_none(data):
    assert estimate_quality(data) is None


def test_estimate_quality_cut_anywhere_in_the_header_is_none():
    jpeg = to_jpeg(photo(), 75)

    found = {estimate_quality(jpeg[:size]) for size in range(header_end(jpeg))}

    assert found == {None}


def test_estimate_quality_cut_behind_the_header_still_has_its_quality():
    jpeg = to_jpeg(photo(), 75)

    assert estimate_quality(jpeg[: header_end(jpeg)]) == 75
    assert estimate_quality(truncated(jpeg)) == 75


def test_estimate_quality_component_without_its_table_is_none():
    jpeg = bytearray(to_jpeg(photo(), 75))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 12] = 3  # the table of the first component; only 0 and 1 are in the file

    assert estimate_quality(bytes(jpeg)) is None


def test_estimate_quality_frame_without_its_components_is_none():
    jpeg = to_jpeg(photo(), 75)
    frame = jpeg.index(b"\xff\xc0")
    cut = jpeg[: frame + 2] + b"\x00\x08" + jpeg[frame + 4 : frame + 10] + jpeg[frame + 19 :]

    assert estimate_quality(cut) is None


def test_estimate_quality_step_of_zero_is_none():
    jpeg = bytearray(to_jpeg(photo(channels=1), 75))
    jpeg[jpeg.index(b"\xff\xdb") + 20] = 0

    assert estimate_quality(bytes(jpeg)) is None


def test_estimate_quality_damaged_header_never_raises():
    jpeg = to_jpeg(photo(), 75, exif=Image.Exif())
    rng = np.random.default_rng(0)

    found = set()
    for _ in range(3000):
        damaged = bytearray(jpeg)
        for position in rng.integers(0, header_end(jpeg) + 8, rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        found.add(estimate_quality(bytes(damaged)))

    assert None in found
    assert found - {None} <= set(EVERY_QF)


def test_estimate_quality_huge_declared_size_neither_warns_nor_decodes():
    jpeg = bytearray(to_jpeg(photo(), 75))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # 65,535 x 65,535 pixels

    assert estimate_quality(bytes(jpeg)) == 75


def test_qf_histogram_counts_each_quality_and_the_unknown():
    histogram = qf_histogram(iter([96, 75, None, 96, 100, 9, None, 96]))

    assert histogram == {
        "num_images": 8,
        "num_unknown": 2,
        "num_by_qf": {"9": 1, "75": 1, "96": 3, "100": 1},
    }
    assert list(histogram["num_by_qf"]) == ["9", "75", "96", "100"]
    assert json.loads(json.dumps(histogram)) == histogram


def test_qf_histogram_no_images_is_empty():
    assert qf_histogram([]) == {"num_images": 0, "num_unknown": 0, "num_by_qf": {}}


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_qf_histogram_impossible_quality_raises(quality):
    with pytest.raises(ValueError, match=f"quality factor {quality}, expected 1 to 100 or None"):
        qf_histogram([75, quality])
