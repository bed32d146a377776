"""The layout chosen from the first images: encoding, scales, rows of a group, and the reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from shards import make_maps, write_shard

from pipelines.errors import FeatureError
from pipelines.storage import cells, formats, probe
from pipelines.storage.dtypes import Ranges
from pipelines.storage.layout import DTYPES, ENCODINGS, Layout
from pipelines.storage.probe import Choice, Probe
from pipelines.storage.rows import Shard

FORMATS = pytest.mark.parametrize("format", formats.FORMATS)
NUM_IMAGES = 8


def asked(shape=(4, 4, 32), dtype="float16", encoding="auto", format="parquet") -> Layout:
    return Layout(shape, ("original", "q010"), dtype, encoding, format, 1)


def draw(density: float, shape=(4, 4, 32), seed: int = 0) -> np.ndarray:
    """Draw maps of both signs, `density` of whose numbers are not zero."""
    rng = np.random.default_rng(seed)
    size = (NUM_IMAGES, 2, *shape)
    return rng.normal(0, 1, size).astype(np.float32) * (rng.random(size) < density)


def choose(layout: Layout, *batches: np.ndarray) -> Choice:
    """Show batches of maps to a probe, as an extract does."""
    found = Probe(layout)
    for maps in batches if found.needs_ranges else ():
        found.see(maps)
    for maps in batches:
        found.measure(maps)
    return found.choice()


@pytest.mark.parametrize("dtype", DTYPES)
@FORMATS
@pytest.mark.parametrize(
    ("density", "expected"), [(0.1, "sparse"), (0.3, "sparse"), (0.97, "dense"), (1.0, "dense")]
)
def test_choice_takes_the_encoding_that_takes_less(density, expected, format, dtype):
    found = choose(asked(dtype=dtype, format=format), draw(density))
    sizes = found.details["size_bytes"]
    assert found.layout.encoding == expected
    assert sizes[expected] <= sizes["sparse" if expected == "dense" else "dense"] / 0.95


@FORMATS
def test_choice_sizes_are_those_of_the_compressed_columns(format):
    maps = draw(0.3)
    found = choose(asked(format=format), maps[:3], maps[3:])
    for encoding in ENCODINGS:
        layout = asked(encoding=encoding, format=format)
        expected = sum(
            formats.of(layout).compressed_size(column)
            for part in (maps[:3], maps[3:])
            for column in cells.encode(part, layout).cells.values()
        )
        assert found.details["size_bytes"][encoding] == expected
    assert found.row_bytes == found.details["size_bytes"][found.layout.encoding] / NUM_IMAGES


@pytest.mark.parametrize("encoding", ENCODINGS)
@FORMATS
def test_choice_size_is_close_to_the_shards(encoding, format, tmp_path):
    layout = Layout((7, 7, 64), ("original", "q010"), "float16", encoding, format, 16)
    maps = make_maps(layout, 16)  # few different numbers: what compresses them shows in the size
    receipt = write_shard(Shard(tmp_path / "a", "a", layout), maps)
    found = choose(layout, maps)
    assert found.row_bytes * 16 == pytest.approx(receipt.size_bytes, rel=0.15)


def test_choice_little_gain_does_not_pay_for_a_mask():
    layout = asked()
    sizes = {"sparse": 96, "dense": 100}
    found = Probe(layout)
    found._sizes, found._num_images = sizes, 1
    assert found.choice().layout.encoding == "dense"
    found._sizes = {"sparse": 95, "dense": 100}
    assert found.choice().layout.encoding == "sparse"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_choice_encoding_asked_for_is_taken_whatever_the_sizes(encoding, density):
    found = choose(asked(encoding=encoding), draw(density))
    assert found.layout.encoding == encoding
    assert found.row_bytes == found.details["size_bytes"][encoding] / NUM_IMAGES


@pytest.mark.parametrize(
    ("encoding", "density", "words"),
    [
        ("auto", 0.1, "sparse is the smaller"),
        ("auto", 1.0, "dense is simpler, sparse saves less than 5%"),
        ("sparse", 1.0, "sparse is as asked"),
        ("dense", 0.1, "dense is as asked"),
    ],
)
def test_choice_reason_names_both_sizes(encoding, density, words):
    found = choose(asked(encoding=encoding), draw(density))
    taken = found.layout.encoding
    (other,) = set(ENCODINGS) - {taken}
    size, more = (found.details["size_bytes"][name] / NUM_IMAGES / 1000 for name in (taken, other))
    measured = f"{size:.1f} kB {taken} against {more:.1f} kB {other} an image"
    assert found.details["reason"] == f"{words}: {measured} on the first {NUM_IMAGES}"
    assert found.details["num_images"] == NUM_IMAGES


def test_choice_floats_leave_the_rest_of_what_was_asked():
    layout = asked()
    found = choose(layout, draw(0.1)).layout
    assert dataclasses.replace(found, encoding="auto", rows_per_group=1) == layout


def test_choice_uint8_scales_are_of_all_that_was_seen():
    first, second = draw(0.5), 3 * draw(0.5, seed=1)
    found = choose(asked(dtype="uint8"), first, second).layout
    expected = Ranges.of(np.concatenate([first, second])).quantisation()
    assert (found.scales, found.zero_points) == expected


def test_choice_uint8_sizes_are_those_in_the_scales():
    maps = draw(0.5)
    found = choose(asked(dtype="uint8", encoding="dense"), maps[:2], maps[2:])
    expected = sum(
        formats.of(found.layout).compressed_size(column)
        for part in (maps[:2], maps[2:])
        for column in cells.encode(part, found.layout).cells.values()
    )
    assert found.details["size_bytes"]["dense"] == expected


@pytest.mark.parametrize(("dtype", "expected"), [("uint8", True), ("float16", False)])
def test_needs_ranges_for_uint8_alone(dtype, expected):
    assert Probe(asked(dtype=dtype)).needs_ranges is expected


@FORMATS
def test_choice_groups_take_about_12_mib_as_cells_whatever_the_format(format):
    layout = asked((4096,), "float32", "dense", format)
    found = choose(layout, np.zeros((NUM_IMAGES, 2, 4096), np.float32))
    assert found.layout.rows_per_group == (12 << 20) // (2 * 4 * 4096)


def test_choice_large_maps_have_a_row_a_group(monkeypatch):
    monkeypatch.setattr(probe, "_GROUP_BYTES", 10)
    assert choose(asked(), draw(1.0)).layout.rows_per_group == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_probe_value_that_is_no_number_names_image_and_branch(dtype):
    maps = draw(0.5)
    maps[3, 1, 0, 0, 0] = np.nan
    found = Probe(asked(dtype=dtype))
    take = found.see if found.needs_ranges else found.measure
    with pytest.raises(FeatureError, match=r"^img-3, branch q010: an activation is not a finite"):
        take(maps, [f"img-{i}" for i in range(NUM_IMAGES)])


def test_probe_value_out_of_float16_names_image_and_branch():
    maps = draw(0.5)
    maps[3, 1, 0, 0, 0] = 70_000
    with pytest.raises(FeatureError, match=r"^img-3, branch q010: an activation of 70000 is out"):
        Probe(asked()).measure(maps, [f"img-{i}" for i in range(NUM_IMAGES)])
