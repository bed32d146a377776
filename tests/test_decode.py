"""Original images: every supported kind decodes one documented way."""

import concurrent.futures
import io
import warnings

import images
import numpy as np
import pytest
from PIL import ExifTags, Image

from pipelines.errors import ImageError
from pipelines.images import decode
from pipelines.images.decode import decode_original, sniff
from pipelines.images.jpeg import decode_jpeg

PHOTO = images.photo()
GRAY = images.photo(channels=1)


def _with_stray_bytes(jpeg, marker):
    """Put 40 bytes that belong to no segment in front of a marker, as some programs do."""
    position = jpeg.rindex(marker)
    return jpeg[:position] + bytes(40) + jpeg[position:]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_decode_original_lossless_rgb_comes_back_unchanged(kind, options):
    decoded = decode_original(images.to_file(PHOTO, kind, **options))

    np.testing.assert_array_equal(decoded, PHOTO)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_decode_original_lossless_grayscale_stays_one_channel(kind):
    np.testing.assert_array_equal(decode_original(images.to_file(GRAY, kind)), GRAY)


@pytest.mark.parametrize("pixels", [PHOTO, GRAY], ids=["rgb", "grayscale"])
@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"progressive": True}])
def test_decode_original_jpeg_equals_variant_decoder(pixels, options):
    jpeg = images.to_jpeg(pixels, **options)

    decoded = decode_original(jpeg)

    np.testing.assert_array_equal(decoded, decode_jpeg(jpeg))
    np.testing.assert_array_equal(decoded, Image.open(io.BytesIO(jpeg)))


@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xda"], ids=["end", "scan"])
def test_decode_original_jpeg_with_stray_bytes_falls_back_to_the_same_pixels(marker):
    jpeg = images.to_jpeg(PHOTO)
    stray = _with_stray_bytes(jpeg, marker)
    with pytest.raises(ImageError, match="extraneous bytes"):
        decode_jpeg(stray)

    np.testing.assert_array_equal(decode_original(stray), decode_original(jpeg))


def test_decode_original_cmyk_jpeg_becomes_rgb():
    data = images.cmyk_jpeg()

    decoded = decode_original(data)

    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert decoded.shape == PHOTO.shape
    # Chroma is lossy; a missed inversion of Adobe's CMYK would be off by more than 100.
    assert np.abs(decoded.astype(int) - PHOTO).mean() < 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_decode_original_16_bit_grayscale_is_divided_by_257_and_rounded(kind):
    values = images.gray_16_bit()

    decoded = decode_original(images.to_file(values, kind))

    np.testing.assert_array_equal(decoded, np.rint(values / 257.0))
    assert decoded.dtype == np.uint8
    assert decoded[0, 0] == 0
    assert decoded[0, 1] == 255


def test_decode_original_16_bit_big_endian_tiff_reads_the_same():
    values = images.gray_16_bit()
    data = images.to_file(
        Image.frombytes("I;16B", (64, 48), values.astype(">u2").tobytes()), "TIFF"
    )

    np.testing.assert_array_equal(decode_original(data), np.rint(values / 257.0))


def test_decode_original_16_bit_pgm_reads_the_same():
    values = images.gray_16_bit()
    data = b"P5\n64 48\n65535\n" + values.astype(">u2").tobytes()

    np.testing.assert_array_equal(decode_original(data), np.rint(values / 257.0))


def test_decode_original_16_bit_transparent_value_becomes_white():
    values = images.gray_16_bit()

    decoded = decode_original(images.to_file(values, "PNG", transparency=0))

    assert decoded[0, 0] == 255
    np.testing.assert_array_equal(decoded[values > 0], np.rint(values[values > 0] / 257.0))


def test_decode_original_rgba_is_laid_on_white():
    decoded = decode_original(images.rgba_png())

    np.testing.assert_array_equal(decoded, [[[255, 255, 255], [255, 127, 127], [255, 0, 0]]])


def test_decode_original_gray_with_alpha_is_laid_on_white_in_one_channel():
    pixels = np.array([[[0, 0], [0, 128], [0, 255]]], dtype=np.uint8)
    data = images.to_png(pixels)

    np.testing.assert_array_equal(decode_original(data), [[255, 127, 0]])


def test_decode_original_transparent_gray_level_becomes_white():
    pixels = np.array([[10, 20]], dtype=np.uint8)

    decoded = decode_original(images.to_file(pixels, "PNG", transparency=10))

    np.testing.assert_array_equal(decoded, [[255, 20]])


def test_decode_original_transparent_colour_becomes_white():
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)

    decoded = decode_original(images.to_file(pixels, "PNG", transparency=(1, 2, 3)))

    np.testing.assert_array_equal(decoded, [[[255, 255, 255], [4, 5, 6]]])


def test_decode_original_palette_becomes_rgb_and_its_clear_entry_white():
    decoded = decode_original(images.palette_png())

    np.testing.assert_array_equal(decoded, [[[255, 255, 255], [255, 0, 0], [0, 0, 255]]])


def test_decode_original_bilevel_becomes_grayscale():
    image = Image.fromarray(np.array([[0, 255, 255]], dtype=np.uint8)).convert("1")

    for kind in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode_original(images.to_file(image, kind)), [[0, 255, 255]])


def test_decode_original_animated_gif_gives_the_first_frame():
    decoded = decode_original(images.animated_gif((30, 200)))

    assert decoded.shape[:2] == (8, 8)
    assert (decoded == 30).all()


def test_decode_original_paged_tiff_gives_the_first_page():
    pages = [Image.fromarray(PHOTO), Image.fromarray(GRAY)]
    data = images.to_file(pages[0], "TIFF", save_all=True, append_images=pages[1:])

    np.testing.assert_array_equal(decode_original(data), PHOTO)


def test_decode_original_mpo_gives_the_first_picture():
    pages = [Image.fromarray(PHOTO), Image.fromarray(GRAY)]
    data = images.to_file(pages[0], "MPO", save_all=True, append_images=pages[1:])

    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert sniff(data) == "jpeg"
    assert decode_original(data).shape == PHOTO.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_original_rotated_jpeg_comes_upright(orientation):
    decoded = decode_original(images.rotated_jpeg(orientation, PHOTO))

    assert decoded.shape == PHOTO.shape
    assert decoded.flags.c_contiguous
    assert np.abs(decoded.astype(int) - PHOTO).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_decode_original_rotated_lossless_file_comes_upright_once(kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = Image.fromarray(PHOTO).transpose(Image.Transpose.ROTATE_90)
    options = {"lossless": True} if kind == "WEBP" else {}

    decoded = decode_original(images.to_file(stored, kind, exif=exif, **options))

    np.testing.assert_array_equal(decoded, PHOTO)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_decode_original_orientation_out_of_range_is_ignored(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    jpeg = images.to_jpeg(PHOTO, exif=exif)

    np.testing.assert_array_equal(decode_original(jpeg), decode_original(images.to_jpeg(PHOTO)))


def test_decode_original_broken_exif_keeps_the_pixels():
    jpeg = images.to_jpeg(PHOTO, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff broken")

    with warnings.catch_warnings():
        # Pillow warns of metadata that it cannot read; whether it does is not the point here.
        warnings.simplefilter("ignore")
        decoded = decode_original(jpeg)

    np.testing.assert_array_equal(decoded, decode_original(images.to_jpeg(PHOTO)))


def test_decode_original_colour_profile_is_not_applied():
    plain, tagged = images.to_png(PHOTO), images.to_file(PHOTO, "PNG", icc_profile=b"profile")

    assert b"iCCP" in tagged
    np.testing.assert_array_equal(decode_original(tagged), decode_original(plain))


def test_decode_original_wrong_extension_reads_by_content(tmp_path):
    paths = images.write_odd_files(tmp_path)

    np.testing.assert_array_equal(decode_original(paths["png_named_jpg"].read_bytes()), PHOTO)


def test_decode_original_many_threads_give_the_same_pixels():
    files = [images.to_jpeg(images.photo(seed)) for seed in range(8)] + [images.to_png(PHOTO)]
    alone = [decode_original(data) for data in files]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode_original, files * 10))

    for index, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, alone[index % len(files)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_sniff_each_format_names_it(kind):
    assert sniff(images.to_file(PHOTO, kind)) == kind.lower()


@pytest.mark.parametrize("data", [b"", b"\xff", b"hello", b"%!PS-Adobe", b"8BPS\x00\x01"])
def test_sniff_no_image_gives_none(data):
    assert sniff(data) is None


def test_describe_names_both_decoders():
    described = decode.describe()

    assert described["jpeg"]["library"] == "simplejpeg"
    assert described["other"]["library"] == "pillow"
