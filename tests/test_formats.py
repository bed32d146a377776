"""What every format keeps to, in every dtype and encoding: the numbers that went in come out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from shards import BRANCHES, LAYOUTS, kept, make_layout, make_maps, write_cache

from pipelines.errors import FeatureError
from pipelines.storage import formats
from pipelines.storage.cache import FeatureCache
from pipelines.storage.dtypes import Ranges
from pipelines.storage.layout import DTYPES, ENCODINGS, Layout

ALL = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
FORMATS = pytest.mark.parametrize("format", formats.FORMATS)
ENCODED = pytest.mark.parametrize("encoding", ENCODINGS)
# One number, one pixel, one channel, no multiple of 64, just one, just over.
SHAPES = [(1,), (2048,), (1, 1, 17), (9, 7, 1), (7, 7, 65), (8, 8, 64), (5, 13, 3)]


def with_scales_for(layout: Layout, maps: np.ndarray) -> Layout:
    """Return the layout for these maps, where it is uint8 with scales that hold all of them."""
    layout = dataclasses.replace(layout, shape=maps.shape[2:])
    if layout.dtype != "uint8":
        return layout
    scales, zero_points = Ranges.of(maps).quantisation()
    return dataclasses.replace(layout, scales=scales, zero_points=zero_points)


def draw(shape: tuple[int, ...], num_images: int = 9, density: float = 0.4) -> np.ndarray:
    """Draw maps of both signs, float32; one channel is silent where there are several."""
    rng = np.random.default_rng(num_images)
    size = (num_images, len(BRANCHES), *shape)
    maps = (rng.normal(0, 3, size) * (rng.random(size) < density)).astype(np.float32)
    if shape[-1] > 1:
        maps[..., 0] = 0
    return maps


def of_bits(bits: np.ndarray, dtype: type) -> np.ndarray:
    """Return numbers by their bits as maps of one pixel, float32."""
    return bits.view(dtype).astype(np.float32).reshape(-1, 3, 16)


def through(folder: Path, layout: Layout, maps: np.ndarray) -> np.ndarray:
    """Write maps as a cache of several shards and read them back."""
    write_cache(folder, layout, {"train": len(maps)}, 3, {"train": maps})
    batches = list(FeatureCache(folder).reader("train").in_order(4))
    return np.concatenate([batch.features for batch in batches])


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.tobytes() == expected.tobytes()


@ALL
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_format_maps_of_any_shape_come_back(layout, shape, tmp_path):
    maps = draw(shape)
    layout = with_scales_for(layout, maps)
    assert_same_bits(through(tmp_path, layout, maps), kept(maps, layout))


@ALL
@pytest.mark.parametrize("shape", [(1,), (64,), (7, 7, 65)], ids=str)
@pytest.mark.parametrize("density", [0, 1])
def test_format_maps_of_zeros_and_without_any_come_back(layout, shape, density, tmp_path):
    maps = draw(shape, density=density)
    layout = with_scales_for(layout, maps)
    assert_same_bits(through(tmp_path, layout, maps), kept(maps, layout))


@ALL
@pytest.mark.parametrize("num_images", [1, 3, 4, 12, 13])
@pytest.mark.parametrize("rows_per_group", [1, 4, 100])
def test_format_groups_of_any_size_come_back(layout, num_images, rows_per_group, tmp_path):
    layout = dataclasses.replace(layout, rows_per_group=rows_per_group)
    maps = make_maps(layout, num_images)
    np.testing.assert_array_equal(through(tmp_path, layout, maps), maps)


@FORMATS
@ENCODED
def test_format_float32_is_bit_exact(format, encoding, tmp_path):
    finite = np.random.default_rng(0).integers(0, 0x7F800000, 9 * 3 * 16, np.uint32)
    odd = [0x80000000, 0, 1, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x7F7FFFFF]
    finite[: len(odd)] = odd  # both zeros, subnormal numbers, the smallest normal and the largest
    finite[40::7] |= 0x80000000
    maps = of_bits(finite, np.float32)
    layout = make_layout("float32", encoding, format, (16,))
    assert_same_bits(through(tmp_path, layout, maps), maps)


@FORMATS
@ENCODED
def test_format_float16_holds_every_half_exactly(format, encoding, tmp_path):
    halves = np.arange(2**16, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]  # subnormal ones and zero, too
    halves = halves[halves != 0x8000]  # but for minus zero
    maps = of_bits(np.resize(halves, 1344 * 48), np.float16)
    layout = dataclasses.replace(
        make_layout("float16", encoding, format, (16,)), rows_per_group=500
    )
    assert_same_bits(through(tmp_path, layout, maps), maps)


@FORMATS
def test_format_minus_zero_takes_room_in_float32_alone(format, tmp_path):
    maps = np.full((40, 3, 8), -0.0, np.float32)
    maps[:, :, :4] = np.arange(1, 5)
    found = {}
    for dtype in DTYPES:
        layout = make_layout(dtype, "sparse", format, (8,))
        write_cache(tmp_path / dtype, layout, {"train": 40}, 1, {"train": maps})
        cache = FeatureCache(tmp_path / dtype)
        reader = cache.split("train", ["all"], 1 << 20)
        (batch,) = reader.sparse_in_order(40)
        size_bytes = batch.masks.nbytes + batch.values.nbytes
        assert cache.resident_bytes("train", ["all"]) == size_bytes
        assert cache.receipts[0].stats["nnz"] == len(batch.values)
        (dense,) = reader.in_order(40)
        assert np.signbit(dense.features).any() == (dtype == "float32")
        found[dtype] = len(batch.values)
    assert found == {"float32": 40 * 3 * 8, "float16": 40 * 3 * 4, "uint8": 40 * 3 * 4}


@FORMATS
@ENCODED
def test_format_float16_rounds_to_the_nearest_half(format, encoding, tmp_path):
    maps = np.zeros((2, 3, 16), np.float32)
    numbers = [1 + 2**-11, 1 + 3 * 2**-11, 65_519.9, -65_519.9, 2**-24 * 0.51, 2**-24 * 0.49, -0.1]
    expected = [1, 1 + 2**-9, 65_504, -65_504, 2**-24, 0, -0.0999755859375]
    maps[1, 2, : len(numbers)] = numbers
    found = through(tmp_path, make_layout("float16", encoding, format, (16,)), maps)
    assert found[1, 2, : len(expected)].tolist() == expected


@FORMATS
@ENCODED
def test_format_number_out_of_float16_names_the_image_and_branch(format, encoding, tmp_path):
    layout = make_layout("float16", encoding, format, (16,))
    maps = np.zeros((9, 3, 16), np.float32)
    maps[7, 1, 3] = -65_520
    message = r"^img-7, branch q010: an activation of 65520 is out of float16's range of 65504; use"
    with pytest.raises(FeatureError, match=message):
        through(tmp_path, layout, maps)
    assert not list(tmp_path.glob("*.tmp"))


@FORMATS
@ENCODED
def test_format_uint8_is_at_most_half_a_step_off_and_zero_stays_zero(format, encoding, tmp_path):
    maps = draw((3, 3, 16), 20)
    maps[..., 5] = -np.abs(maps[..., 5])  # below zero alone
    maps[..., 6] = np.abs(maps[..., 6])
    layout = with_scales_for(make_layout("uint8", encoding, format), maps)
    assert {0, 255} < set(layout.zero_points)
    found = through(tmp_path, layout, maps)
    steps = np.abs(found - maps) / np.array(layout.scales, np.float32)
    assert 0.4 < steps.max() <= 0.5 + 1e-4
    assert found[maps == 0].tobytes() == np.zeros((maps == 0).sum(), np.float32).tobytes()


@FORMATS
@ENCODED
def test_format_uint8_beyond_the_range_is_clipped_and_counted(format, encoding, tmp_path):
    inside = draw((16,), 9)
    layout = with_scales_for(make_layout("uint8", encoding, format), inside)
    maps = inside.copy()
    maps[[0, 4, 8], 1, 2] = [1e9, -1e9, 1e9]
    found = through(tmp_path, layout, maps)
    lowest, highest = -layout.zero_points[2], 255 - layout.zero_points[2]
    ends = np.array([highest, lowest, highest], np.float32) * np.float32(layout.scales[2])
    np.testing.assert_array_equal(found[[0, 4, 8], 1, 2], ends)
    receipts = FeatureCache(tmp_path).receipts
    assert sum(receipt.stats["num_clipped"] for receipt in receipts) == 3


@FORMATS
@ENCODED
def test_format_uint8_silent_channel_that_speaks_up_is_kept(format, encoding, tmp_path):
    first = draw((16,), 9)
    layout = with_scales_for(make_layout("uint8", encoding, format), first)
    maps = first.copy()
    maps[3, 0, 0] = 1.5  # channel 0 was silent
    step = max(layout.scales)
    assert through(tmp_path, layout, maps)[3, 0, 0] == pytest.approx(1.5, abs=step / 2)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "tfrecord" not in name])
def test_formats_give_the_same_rows_in_the_same_order(name, tmp_path):
    maps = draw((3, 3, 17), 30)
    found = []
    for format in formats.FORMATS:
        layout = with_scales_for(dataclasses.replace(LAYOUTS[name], format=format), maps)
        write_cache(tmp_path / format, layout, {"train": 30}, 4, {"train": maps})
        batches = list(FeatureCache(tmp_path / format).reader("train").in_order(7))
        found.append([(b.features.tobytes(), b.labels.tolist(), b.ids) for b in batches])
    assert found[0] == found[1]


def test_formats_have_suffixes_that_tell_them_apart():
    assert {name: module.SUFFIX for name, module in formats.FORMATS.items()} == {
        "parquet": "parquet",
        "tfrecord": "tfrecord",
    }
