"""What a layout says of its maps: columns, sizes, and the words of plan.json."""

from __future__ import annotations

import dataclasses
import json

import pytest
from shards import LAYOUTS

from pipelines.storage.layout import Layout

ALL = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@ALL
def test_layout_through_plan_json_is_the_same(layout):
    value = json.loads(json.dumps({**layout.to_json(), "node": "avg_pool"}))
    assert Layout.from_json(value, 2) == layout


def test_layout_of_version_1_has_no_format_and_is_parquet():
    details = {
        "shape": [7],
        "branches": ["a"],
        "dtype": "float16",
        "encoding": "dense",
        "rows_per_group": 3,
    }
    layout = Layout.from_json(details, 1)
    assert layout == Layout((7,), ("a",), "float16", "dense", "parquet", 3, version=1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_to_json_of_floats_has_no_scales_and_never_a_version(dtype):
    value = LAYOUTS[f"dense-{dtype}"].to_json()
    assert set(value) == {"shape", "branches", "dtype", "encoding", "format", "rows_per_group"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sparse-float32", ["mask", "byte0", "byte1", "byte2", "byte3"]),
        ("sparse-float16", ["mask", "byte0", "byte1"]),
        ("sparse-uint8", ["mask", "byte0"]),
        ("dense-float32", ["byte0", "byte1", "byte2", "byte3"]),
        ("dense-float16", ["byte0", "byte1"]),
        ("dense-uint8", ["byte0"]),
    ],
)
def test_columns_are_a_mask_where_sparse_and_a_plane_a_byte(name, parts):
    columns = LAYOUTS[name].columns(["q050", "original"])
    assert columns == [f"{branch}.{part}" for branch in ("q050", "original") for part in parts]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1,), 8), ((64,), 8), ((65,), 16), ((7, 7, 65), 400), ((2, 3, 8), 8), ((8, 8, 2048), 16384)],
)
def test_mask_bytes_are_whole_words_of_64_bits(shape, expected):
    assert dataclasses.replace(LAYOUTS["sparse-float16"], shape=shape).mask_bytes == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((5,), (5, 5, 1)), ((2, 3, 8), (48, 8, 6)), ((1, 1, 1), (1, 1, 1))]
)
def test_layout_counts_values_channels_and_positions(shape, expected):
    layout = dataclasses.replace(LAYOUTS["dense-float32"], shape=shape)
    assert (layout.num_values, layout.num_channels, layout.num_positions) == expected
    assert layout.raw_bytes == 4 * layout.num_values
