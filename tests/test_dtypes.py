"""Numbers as they are stored: exact, rounded to nearest, or in 255 steps of each channel."""

from __future__ import annotations

import re

import numpy as np
import pytest
from shards import make_layout

from pipelines.errors import FeatureError
from pipelines.storage import dtypes
from pipelines.storage.dtypes import Ranges
from pipelines.storage.layout import Layout


def stored(values, dtype: str) -> np.ndarray:
    """Store some values as one channel and give their bits."""
    layout = make_layout(dtype, "dense", shape=(1,))
    return dtypes.to_stored(np.array(values, np.float32)[:, np.newaxis], layout).bits[:, 0]


def scaled(ranges: Ranges) -> Layout:
    """Return a layout of uint8 with scales for these ranges."""
    scales, zero_points = ranges.quantisation()
    shape = (len(scales),)
    return Layout(shape, ("a",), "uint8", "dense", "parquet", 1, scales, zero_points)


def activations(bits: np.ndarray, layout: Layout) -> np.ndarray:
    """Turn stored bytes back, by the formula of the format."""
    zero_points = np.array(layout.zero_points)
    return ((bits + zero_points) % 256 - zero_points) * np.array(layout.scales)


def test_to_stored_float32_keeps_every_bit():
    bits = np.array([0x80000000, 1, 0x007FFFFF, 0x7F7FFFFF, 0xC2F6E979], np.uint32)
    values = bits.view(np.float32)  # -0.0, two subnormal ones, the largest, and -123.456
    found = dtypes.to_stored(values, make_layout("float32", "dense"))
    assert (found.bits.tolist(), found.num_clipped) == (bits.tolist(), 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 + 2**-11, 1),  # half way goes to the even one
        (1 + 3 * 2**-11, 1 + 2**-9),
        (1 + 2**-11 + 2**-20, 1 + 2**-10),
        (-0.1, -0.0999755859375),
        (2**-24, 2**-24),  # the smallest subnormal number
        (2**-24 * 0.51, 2**-24),
        (2**-24 * 0.49, 0),
        (1023.4 * 2**-24, 1023 * 2**-24),  # the largest subnormal one
        (65_519.9, 65_504),
        (-65_519.9, -65_504),
    ],
)
def test_to_stored_float16_rounds_to_nearest(value, expected):
    assert stored([value], "float16").view(np.float16)[0] == expected


def test_to_stored_float16_zero_of_either_sign_is_plus_zero():
    values = [-0.0, -(2.0**-26), -(2.0**-25), -(2.0**-140), 0, -(2.0**-24)]
    assert stored(values, "float16").tolist() == [0, 0, 0, 0, 0, 0x8001]


@pytest.mark.parametrize("value", [65_520, -70_000, 1e30])
def test_to_stored_out_of_float16_names_the_value_and_the_flag(value):
    name = re.escape(f"{abs(value):g}")
    message = rf"{name} is out of float16's range of 65504; use --dtype float32 or uint8"
    with pytest.raises(FeatureError, match=message):
        stored([1, value, -2], "float16")


def test_ranges_of_maps_are_each_channels_with_zero_counted_in():
    maps = np.array([[[1, -2, 0]], [[3, -5, 0]]], np.float32)
    ranges = Ranges.of(maps)
    assert ranges.low.tolist() == [0, -5, 0]
    assert ranges.high.tolist() == [3, 0, 0]


def test_ranges_joined_are_what_both_have_seen():
    first, second = (Ranges.of(np.array([row], np.float32)) for row in ([1, -2, 4], [3, -1, -4]))
    joined = first.joined(second)
    assert joined.low.tolist() == [0, -2, -4]
    assert joined.high.tolist() == [3, 0, 4]


def test_quantisation_spreads_255_steps_over_each_channel():
    low, high = np.array([0, -51, -255], np.float32), np.array([510, 204, 0], np.float32)
    assert Ranges(low, high).quantisation() == ((2, 1, 1), (0, 51, 255))


def test_quantisation_silent_channel_gets_the_widest_scale():
    low, high = np.array([0, 0, -255], np.float32), np.array([510, 0, 0], np.float32)
    assert Ranges(low, high).quantisation() == ((2, 2, 1), (0, 0, 255))


def test_quantisation_channel_whose_step_would_be_no_number_is_silent():
    high = np.array([1e-43, 255], np.float32)
    assert Ranges(np.zeros(2, np.float32), high).quantisation() == ((1, 1), (0, 0))


def test_quantisation_all_channels_silent_has_steps_of_one():
    nothing = np.zeros(3, np.float32)
    assert Ranges(nothing, nothing).quantisation() == ((1, 1, 1), (0, 0, 0))


def test_quantisation_whole_range_of_float32_has_finite_scales():
    largest = np.full(1, np.finfo(np.float32).max)
    scales, zero_points = Ranges(-largest, largest).quantisation()
    assert scales[0] == pytest.approx(2 * float(largest[0]) / 255)
    assert zero_points in ((127,), (128,))


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_to_stored_uint8_inside_the_range_is_at_most_half_a_step_off(sign):
    rng = np.random.default_rng(sign + 1)
    maps = rng.normal(0, 3, (500, 6)).astype(np.float32) * np.array([1, 9, 1e-4, 1e6, 1, 1], "f")
    maps = np.abs(maps) * sign if sign else maps
    layout = scaled(Ranges.of(maps))
    found = dtypes.to_stored(maps, layout)
    steps = np.abs(activations(found.bits, layout) - maps) / np.array(layout.scales)
    assert 0.4 < steps.max() <= 0.5 + 1e-4
    assert found.num_clipped == 0


def test_to_stored_uint8_zero_is_byte_zero_in_channels_of_any_sign():
    maps = np.array([[5, -5, 2, 0], [0, 0, 0, 0], [-0.0] * 4, [1, -1, -9, 0]], np.float32)
    layout = scaled(Ranges.of(maps))
    assert len(set(layout.zero_points)) > 2
    bits = dtypes.to_stored(maps, layout).bits
    assert bits.dtype == np.uint8
    assert bits[1:3].tolist() == [[0, 0, 0, 0]] * 2
    assert (activations(bits, layout)[1:3] == 0).all()


def test_to_stored_uint8_both_ends_of_a_signed_channel_come_back():
    maps = np.array([[-64, 191], [191, -64], [0, 0]], np.float32)
    layout = scaled(Ranges.of(maps))
    bits = dtypes.to_stored(maps, layout).bits
    np.testing.assert_array_equal(activations(bits, layout), maps)


@pytest.mark.parametrize(("value", "kept"), [(300, 191), (-70, -64), (3e38, 191), (-3e38, -64)])
def test_to_stored_uint8_beyond_the_range_is_clipped_and_counted(value, kept):
    layout = scaled(Ranges(np.array([-64], np.float32), np.array([191], np.float32)))
    found = dtypes.to_stored(np.array([[value], [1], [value]], np.float32), layout)
    assert activations(found.bits, layout)[:, 0].tolist() == [kept, 1, kept]
    assert found.num_clipped == 2


def test_to_stored_uint8_value_too_large_for_its_steps_to_count_is_clipped():
    layout = scaled(Ranges(np.zeros(1, np.float32), np.full(1, 1e-3, np.float32)))
    found = dtypes.to_stored(np.array([[3e38]], np.float32), layout)
    assert (found.bits.tolist(), found.num_clipped) == ([[255]], 1)


def test_to_stored_uint8_silent_channel_that_speaks_up_keeps_what_fits():
    layout = scaled(Ranges(np.zeros(2, np.float32), np.array([510, 0], np.float32)))
    found = dtypes.to_stored(np.array([[4, 100], [0, 511]], np.float32), layout)
    assert activations(found.bits, layout).tolist() == [[4, 100], [0, 510]]
