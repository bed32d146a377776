"""The changes of the control set: exact pixels, by hand and against a second way of computing."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext

import numpy as np
import pytest
from images import photo

from pipelines.errors import ConfigError
from pipelines.images import control
from pipelines.images.control import CHANGES, Crop, Gamma, Shift

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 8), (48, 64)]


def levels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def random_pixels(height: int, width: int, channels: int) -> np.ndarray:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(height).integers(0, 256, shape, dtype=np.uint8)


def shifted_one_by_one(pixels: np.ndarray, right: int, down: int) -> np.ndarray:
    """Average the neighbours of every pixel, in Python's own whole numbers."""
    out = np.empty_like(pixels)
    for place in np.ndindex(pixels.shape):
        y, x, *channel = place
        found = [
            int(pixels[(max(y - i, 0), max(x - j, 0), *channel)])
            for i in range(down + 1)
            for j in range(right + 1)
        ]
        out[place] = (2 * sum(found) + len(found)) // (2 * len(found))
    return out


def test_changes_are_ten_in_this_order():
    assert [change.in_words() for change in CHANGES] == [
        *("half a pixel further right", "half a pixel further down"),
        "half a pixel further right and down",
        *(f"the middle {share}% of each side" for share in (96, 92, 88)),
        *("gamma 0.7", "gamma 0.85", "gamma 1.2", "gamma 1.45"),
    ]


def test_shift_right_is_the_average_with_the_pixel_before():
    found = Shift(1, 0).apply(levels([10, 20, 23, 255], [0, 255, 0, 1]))
    np.testing.assert_array_equal(found, levels([10, 15, 22, 139], [0, 128, 128, 1]))


def test_shift_down_is_the_average_with_the_pixel_above():
    found = Shift(0, 1).apply(levels([10, 0], [13, 255], [255, 254]))
    np.testing.assert_array_equal(found, levels([10, 0], [12, 128], [134, 255]))


def test_shift_both_is_one_average_of_four():
    found = Shift(1, 1).apply(levels([0, 1], [0, 0]))
    # Rounded twice, (0 + 1 + 1) / 2 and so on, the last pixel would be 1.
    np.testing.assert_array_equal(found, levels([0, 1], [0, 0]))
    found = Shift(1, 1).apply(levels([0, 1], [1, 0]))
    np.testing.assert_array_equal(found, levels([0, 1], [1, 1]))


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SHAPES[:-1])
def test_shift_equals_the_average_pixel_by_pixel(height, width, channels, right, down):
    pixels = random_pixels(height, width, channels)
    found = Shift(right, down).apply(pixels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, shifted_one_by_one(pixels, right, down))


def test_shift_moves_the_picture_right_and_down():
    pixels = np.zeros((9, 9), np.uint8)
    pixels[4, 4] = 200
    y, x = np.indices(pixels.shape)
    found = Shift(1, 1).apply(pixels)
    assert found.sum() == 200
    assert ((found * y).sum() / 200, (found * x).sum() / 200) == (4.5, 4.5)


def test_crop_keeps_the_middle():
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    np.testing.assert_array_equal(Crop(88).apply(pixels), pixels[:9, 1:19])  # 8.8 and 17.6
    np.testing.assert_array_equal(Crop(50).apply(pixels), pixels[2:7, 5:15])


@pytest.mark.parametrize(
    ("share", "expected"),
    [(96, (360, 480)), (92, (345, 460)), (88, (330, 440))],
)
def test_crop_keeps_the_share_of_each_side(share, expected):
    pixels = photo(size=(375, 500))
    found = Crop(share).apply(pixels)
    assert found.shape == (*expected, 3)
    top, left = (375 - expected[0]) // 2, (500 - expected[1]) // 2
    rest = pixels[top : top + expected[0], left : left + expected[1]]
    np.testing.assert_array_equal(found, rest)


@pytest.mark.parametrize("gamma", [70, 85, 120, 145, 100, 1, 1000])
def test_gamma_table_is_the_formula_to_fifty_digits(gamma):
    with localcontext() as context:
        context.prec = 50
        exponent = Decimal(gamma) / 100
        expected = [
            int((255 * (Decimal(x) / 255) ** exponent).quantize(Decimal(1), ROUND_HALF_UP))
            for x in range(256)
        ]
    assert list(control.gamma_table(gamma)) == expected


@pytest.mark.parametrize(
    ("gamma", "expected"),
    # 255 (x / 255)^gamma of 10: 26.42, 16.25, 5.23, 2.33; of 128: 157.40, 141.94, 111.52, 93.87
    [(70, (26, 157)), (85, (16, 142)), (120, (5, 112)), (145, (2, 94))],
)
def test_gamma_of_some_levels_is_this(gamma, expected):
    found = Gamma(gamma).apply(levels([0, 10, 128, 255]))
    np.testing.assert_array_equal(found, levels([0, *expected, 255]))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.in_words())
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_change_takes_any_size_and_leaves_the_original(change, height, width, channels):
    pixels = photo(3, (height, width), channels)
    before = pixels.copy()
    found = change.apply(pixels)
    np.testing.assert_array_equal(pixels, before)
    assert (found.dtype, found.ndim, found.shape[2:]) == (np.uint8, pixels.ndim, pixels.shape[2:])
    assert min(found.shape) >= 1
    is_kept = not isinstance(change, Crop)
    assert (found.shape == pixels.shape) or not is_kept


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.in_words())
def test_change_of_a_photograph_differs_from_it_and_is_still_like_it(change):
    pixels = photo(4, (60, 80))
    found = change.apply(pixels)
    if found.shape == pixels.shape:
        difference = np.abs(found.astype(int) - pixels)
        assert difference.any()
        assert np.corrcoef(found.ravel(), pixels.ravel())[0, 1] > 0.9
    else:
        assert found.shape < pixels.shape


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.in_words())
def test_change_goes_through_json(change):
    assert control.from_json(control.to_json(change)) == change


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "blur", "radius": 2}, "known kinds: shift, crop, gamma"),
        ({"keep_percent": 96}, "known kinds"),
        ({"kind": "crop", "keep_percent": 96.5}, "is unknown"),
        ({"kind": "crop", "keep_percent": True}, "is unknown"),
        ({"kind": "crop", "keep_percent": 100}, "100 percent is outside 1 to 99"),
        ({"kind": "gamma", "gamma_percent": 0}, "0 hundredths are outside 1 to 1000"),
        ({"kind": "shift", "right": 0, "down": 0}, "not twice 0"),
        ({"kind": "shift", "right": 2, "down": 0}, "expected 0 or 1 half pixels"),
    ],
)
def test_from_json_of_an_unknown_change_raises(value, message):
    with pytest.raises(ConfigError, match=message):
        control.from_json(value)


def test_from_json_without_an_amount_raises():
    with pytest.raises(TypeError, match="keep_percent"):
        control.from_json({"kind": "crop"})
