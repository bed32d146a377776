"""Values and positions: round trips that lose nothing, and numbers that cannot be stored."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from pipelines.errors import FeatureError
from pipelines.storage.sparse import SparseMaps, to_dense, to_dtype, to_sparse

DTYPES = ("float16", "float32")


def make_maps(shape: tuple[int, ...], density: float, seed: int = 0) -> np.ndarray:
    """Draw maps of both signs, float32, `density` of whose numbers are not zero."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 3, shape).astype(np.float32)
    return np.where(rng.random(shape) < density, values, np.float32(0))


def test_to_sparse_thesis_example_keeps_five_values_and_positions():
    # Thesis, section 4.1: value = [5, 7, 2, 12, 1], position = [6, 7, 11, 14, 19]; the loop of
    # Algorithm 3 as printed stops one short and would lose the last.
    example = [0, 0, 0, 0, 0, 0, 5, 7, 0, 0, 0, 2, 0, 0, 12, 0, 0, 0, 0, 1]
    maps = np.array(example, np.float32).reshape(1, 1, 20)
    kept = to_sparse(maps, "float16")
    assert kept.values.tolist() == [5, 7, 2, 12, 1]
    assert kept.channels.tolist() == [6, 7, 11, 14, 19]
    assert kept.counts.tolist() == [[5]]
    np.testing.assert_array_equal(to_dense(kept, 20), maps)


def test_to_sparse_several_pixels_count_per_pixel_and_channel_in_pixel():
    maps = np.array([[[0, 3, 0], [0, 0, 0]], [[1, 0, 2], [0, 0, -4]]], np.float32)
    kept = to_sparse(maps, "float32")
    assert kept.values.tolist() == [3, 1, 2, -4]
    assert kept.channels.tolist() == [1, 0, 2, 2]
    assert kept.counts.tolist() == [[1, 0], [2, 1]]
    assert (kept.channels.dtype, kept.counts.dtype) == (np.uint16, np.uint16)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(3, 4, 7), (1, 1, 1), (5, 1, 2048), (2, 49, 65), (0, 4, 3)])
def test_to_dense_float32_is_bit_exact(shape, density):
    maps = make_maps(shape, density)
    back = to_dense(to_sparse(maps, "float32"), shape[-1])
    assert back.dtype == np.float32
    assert back.shape == shape
    assert back.tobytes() == maps.tobytes()


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_to_dense_float16_equals_astype(density):
    maps = make_maps((4, 9, 33), density) * np.float32(1e-3)
    back = to_dense(to_sparse(maps, "float16"), 33)
    np.testing.assert_array_equal(back, maps.astype(np.float16).astype(np.float32))


def test_to_sparse_strided_maps_are_read_in_their_order():
    maps = make_maps((3, 2, 4, 5), 0.4)[:, 1]
    np.testing.assert_array_equal(to_dense(to_sparse(maps, "float32"), 5), maps)


def test_to_dense_last_channel_of_the_widest_map_keeps_its_place():
    maps = np.zeros((1, 2, 65_535), np.float32)
    maps[0, 1, -1] = 1.5
    kept = to_sparse(maps, "float32")
    assert kept.channels.tolist() == [65_534]
    np.testing.assert_array_equal(to_dense(kept, 65_535), maps)


def test_to_sparse_full_widest_pixel_count_fits():
    kept = to_sparse(np.ones((1, 1, 65_535), np.float32), "float16")
    assert kept.counts.tolist() == [[65_535]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_to_sparse_not_finite_is_an_error(dtype, value):
    maps = make_maps((2, 3, 4), 0.3)
    maps[1, 2, 3] = value
    with pytest.raises(FeatureError, match="not a finite number; check the weights and the prep"):
        to_sparse(maps, dtype)


@pytest.mark.parametrize("value", [65_520, -70_000, 1e30])
def test_to_dtype_out_of_float16_names_the_value_and_the_flag(value):
    values = np.array([1, value, -2], np.float32)
    name = re.escape(f"{abs(value):g}")
    with pytest.raises(FeatureError, match=rf"{name} is out of float16.*--dtype float32"):
        to_dtype(values, "float16")
    assert to_dtype(values, "float32").tolist() == values.tolist()


def test_to_dtype_largest_float16_is_kept():
    values = np.array([65_519, -65_504], np.float32)  # half way to the next step rounds to even
    assert to_dtype(values, "float16").tolist() == [65_504, -65_504]


@pytest.mark.parametrize(
    "change",
    [
        {"values": np.ones(2, np.float32)},
        {"channels": np.zeros(4, np.uint16)},
        {"counts": np.array([[1, 1]], np.uint16)},
        {"channels": np.array([0, 1, 5], np.uint16)},
    ],
)
def test_to_dense_parts_that_do_not_fit_are_an_error(change):
    whole = SparseMaps(
        np.ones(3, np.float32), np.array([0, 1, 4], np.uint16), np.array([[1, 2]], np.uint16)
    )
    assert to_dense(whole, 5).sum() == 3
    with pytest.raises(FeatureError, match="do not make maps of 5 channels; the shard is damaged"):
        to_dense(dataclasses.replace(whole, **change), 5)
