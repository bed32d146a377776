"""Protocols: the geometry against two-pass references, the scaling against keras.applications."""

import numpy as np
import pytest
from images import photo
from PIL import Image

from pipelines.errors import ConfigError, ImageError
from pipelines.images.preprocess import Protocol, for_backbone, scale, to_input

SCALINGS = ("symmetric", "caffe", "torch", "raw", "lite")


def _batch():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow")


@pytest.mark.parametrize(
    ("scaling", "module"),
    [("symmetric", "inception_v3"), ("caffe", "vgg16"), ("torch", "densenet")],
)
def test_scale_equals_keras_applications(scaling, module, tensorflow):
    expected = getattr(tensorflow.keras.applications, module).preprocess_input(_batch().copy())

    actual = scale(_batch(), for_backbone(scaling, 3))

    # The sum of a few float32 roundings; a wrong constant is off by 1e-3 and more.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_scale_lite_maps_127_to_zero_and_255_to_one():
    batch = np.full((1, 1, 1, 3), (127, 255, 0), dtype=np.float32)

    scaled = scale(batch, for_backbone("lite", 1))

    np.testing.assert_array_equal(scaled, [[[[0, 1, -127 / 128]]]])


def test_scale_raw_changes_nothing():
    np.testing.assert_array_equal(scale(_batch(), for_backbone("raw", 3)), _batch())


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scale_tensor_in_a_function_equals_numpy(scaling, tensorflow):
    protocol = for_backbone(scaling, 3)

    @tensorflow.function
    def scaled(batch):
        return scale(tensorflow.cast(batch, tensorflow.float32), protocol)

    actual = scaled(tensorflow.constant(_batch().astype(np.uint8)))
    expected = scale(_batch(), protocol)

    assert actual.dtype == tensorflow.float32
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(actual.numpy(), expected)


def test_scale_uint8_raises():
    with pytest.raises(TypeError, match="batch is uint8, expected float32"):
        scale(_batch().astype(np.uint8), for_backbone("raw", 3))


@pytest.mark.parametrize("size", [(375, 500), (299, 299), (48, 31), (101, 53)])
def test_to_input_slim_resizes_the_region_of_central_crop(size, tensorflow):
    pixels = photo(size=size)
    central = tensorflow.image.central_crop(tensorflow.constant(pixels), 0.875).numpy()
    expected = Image.fromarray(central).resize((64, 64), Image.Resampling.BILINEAR)

    actual = to_input(pixels, for_backbone("symmetric", 64))

    # One pass sees the pixels around the box; the two-pass reference sees its cut edge.
    np.testing.assert_array_equal(actual[1:-1, 1:-1], np.asarray(expected)[1:-1, 1:-1])


@pytest.mark.parametrize("size", [(300, 451), (640, 427), (40, 57), (224, 224)])
def test_to_input_efficientnet_equals_scaling_then_cutting(size):
    pixels = photo(size=size)
    factor = 256 / min(size)
    height, width = (round(side * factor) for side in size)
    top, left = (height - 224) // 2, (width - 224) // 2
    whole = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    expected = np.asarray(whole)[top : top + 224, left : left + 224].astype(int)

    actual = to_input(pixels, for_backbone("lite", 224))

    # Pillow may pass over rows or columns first, which rounds some values the other way.
    assert np.abs(actual - expected).max() <= 1


@pytest.mark.parametrize("scaling", ["symmetric", "lite"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 5), (500, 3)])
def test_to_input_any_size_gives_a_square(scaling, size):
    network_input = to_input(photo(size=size), for_backbone(scaling, 32))

    assert network_input.shape == (32, 32, 3)
    assert network_input.dtype == np.uint8


@pytest.mark.parametrize("scaling", ["symmetric", "lite"])
def test_to_input_grayscale_equals_three_equal_channels(scaling):
    gray = photo(channels=1)
    protocol = for_backbone(scaling, 32)

    actual = to_input(gray, protocol)

    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, to_input(np.stack([gray] * 3, axis=2), protocol))


def test_to_input_whole_image_of_the_right_size_is_unchanged():
    pixels = photo(size=(32, 32))

    np.testing.assert_array_equal(
        to_input(pixels, Protocol("whole", 32, 1.0, "bilinear", "raw")), pixels
    )


def test_to_input_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((512, 512), dtype=np.uint8)
    stripes[:, ::2] = 255

    shrunk = to_input(stripes, Protocol("whole", 32, 1.0, "bilinear", "raw"))

    assert np.abs(shrunk.astype(int) - 127).max() <= 8


def test_to_input_interpolations_differ():
    pixels = photo(size=(32, 32))
    bilinear, bicubic = (
        to_input(pixels, Protocol("whole", 24, 1.0, interpolation, "raw"))
        for interpolation in ("bilinear", "bicubic")
    )

    assert (bilinear != bicubic).any()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_to_input_no_image_array_raises(pixels):
    with pytest.raises(ImageError, match="expected uint8"):
        to_input(pixels, for_backbone("raw", 8))


def test_for_backbone_lite_is_efficientnets_protocol():
    assert for_backbone("lite", 224) == Protocol(
        "efficientnet", 224, 0.875, "bicubic", "lite", keeps_aspect=True
    )


@pytest.mark.parametrize("scaling", ["symmetric", "caffe", "torch", "raw"])
def test_for_backbone_others_are_slims_protocol(scaling):
    assert for_backbone(scaling, 299) == Protocol("slim", 299, 0.875, "bilinear", scaling)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size is 0, expected at least 1"),
        ({"crop_fraction": 0.0}, "crop fraction is 0.0"),
        ({"crop_fraction": 1.5}, "crop fraction is 1.5"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' is unknown"),
        ({"scaling": "half"}, "scaling 'half' is unknown"),
    ],
)
def test_protocol_bad_field_raises(changes, message):
    fields = {
        "name": "mine",
        "size": 8,
        "crop_fraction": 1.0,
        "interpolation": "bilinear",
        "scaling": "raw",
    }

    with pytest.raises(ConfigError, match=message):
        Protocol(**{**fields, **changes})


def test_for_backbone_unknown_scaling_raises():
    with pytest.raises(ConfigError, match="choose one of symmetric, caffe, torch, raw, lite"):
        for_backbone("half", 8)


@pytest.mark.parametrize("size", [-32, 0])
@pytest.mark.parametrize("scaling", ["lite", "raw"])
def test_for_backbone_size_not_positive_raises(scaling, size):
    with pytest.raises(ConfigError, match="expected at least 1"):
        for_backbone(scaling, size)


def test_describe_names_every_field_and_the_library():
    described = for_backbone("lite", 224).describe()

    assert described["crop_fraction"] == 0.875
    assert described["interpolation"] == "bicubic"
    assert described["library"] == "pillow"
    assert described != for_backbone("lite", 192).describe()
