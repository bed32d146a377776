"""Maps to cells and back: what the dtype keeps comes back, in any shape, branch and row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from shards import BRANCHES, LAYOUTS, kept, make_layout, make_maps

from pipelines.errors import ConfigError, FeatureError
from pipelines.storage import cells
from pipelines.storage.cells import Cells
from pipelines.storage.columns import Part
from pipelines.storage.layout import DTYPES, ENCODINGS, Layout

IN_PARQUET = {name: layout for name, layout in LAYOUTS.items() if layout.format == "parquet"}
SHAPES = [(2, 3, 8), (1, 1, 5), (17,), (1,), (9, 9, 1), (7, 7, 65), (8, 8, 64), (3, 5, 7)]
MISFIT = r"^branch q010: masks and values do not fit; the shard is damaged$"
ALL = pytest.mark.parametrize("layout", IN_PARQUET.values(), ids=IN_PARQUET)


def whole(columns: dict[str, Cells], rows: np.ndarray) -> Part:
    """Return some rows as a batch of their own."""
    return Part(columns, rows, np.arange(len(rows)))


def of_shape(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """Return the layout for another shape, with scales and zero points that differ."""
    if layout.dtype != "uint8":
        return dataclasses.replace(layout, shape=shape)
    channels = range(shape[-1])
    return dataclasses.replace(
        layout,
        shape=shape,
        scales=tuple(0.01 * (c % 5 + 1) for c in channels),
        zero_points=tuple(37 * c % 256 for c in channels),
    )


def random_maps(layout: Layout, num_images: int) -> np.ndarray:
    """Draw maps of both signs with about half their numbers zero, float32."""
    rng = np.random.default_rng(num_images)
    shape = (num_images, len(layout.branches), *layout.shape)
    return (rng.normal(0, 2, shape) * rng.integers(0, 2, shape)).astype(np.float32)


def there_and_back(
    maps: np.ndarray, layout: Layout, rows=None, branches=None, dtype="float32"
) -> np.ndarray:
    encoded = cells.encode(maps, layout).cells
    cells.check_shape(encoded, layout, layout.branches)
    index = np.arange(len(maps)) if rows is None else np.array(rows, np.int64)
    return cells.decode(encoded, layout, branches or layout.branches, index, dtype)


@pytest.mark.parametrize("num_images", [0, 1, 9])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@ALL
def test_decode_encoded_maps_are_what_the_dtype_keeps(layout, shape, num_images):
    layout = of_shape(layout, shape)
    maps = random_maps(layout, num_images)
    back = there_and_back(maps, layout)
    assert (back.shape, back.dtype) == (maps.shape, np.float32)
    assert back.tobytes() == kept(maps, layout).tobytes()


@pytest.mark.parametrize("shape", [(1,), (64,), (65,), (3, 3, 7)], ids=str)
@pytest.mark.parametrize("value", [0, 1.5])
@ALL
def test_decode_maps_all_zero_or_without_any_come_back(layout, value, shape):
    layout = of_shape(layout, shape)
    maps = np.full((3, 3, *shape), value, np.float32)
    np.testing.assert_array_equal(there_and_back(maps, layout), kept(maps, layout))


@ALL
def test_decode_strided_maps_are_read_in_their_order(layout):
    maps = np.repeat(make_maps(layout, 4), 2, axis=0)[::2, ::-1]
    np.testing.assert_array_equal(there_and_back(maps, layout), maps)


@pytest.mark.parametrize("branches", [("q050", "original"), ("q010",)])
@ALL
def test_decode_some_branches_come_in_the_order_asked(layout, branches):
    maps = make_maps(layout, 6)
    back = there_and_back(maps, layout, branches=branches)
    chosen = [layout.branches.index(name) for name in branches]
    np.testing.assert_array_equal(back, maps[:, chosen])


@pytest.mark.parametrize("rows", [[5], [8, 0, 3], [2, 2, 2], []])
@ALL
def test_decode_some_rows_come_in_the_order_asked(layout, rows):
    maps = make_maps(layout, 9)
    np.testing.assert_array_equal(there_and_back(maps, layout, rows), maps[rows])


@ALL
def test_decode_parts_joined_are_the_images_of_both(layout):
    maps = make_maps(layout, 9)
    encoded = cells.encode(maps, layout).cells
    joined = {
        name: Cells.joined([column.part(6, 9), column.part(1, 3)])
        for name, column in encoded.items()
    }
    back = cells.decode(joined, layout, layout.branches, np.arange(5), "float32")
    np.testing.assert_array_equal(back, maps[[6, 7, 8, 1, 2]])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decode_in_the_stored_float16_is_the_same_numbers(encoding):
    layout = LAYOUTS[f"{encoding}-float16"]
    maps = random_maps(layout, 5)
    back = there_and_back(maps, layout, dtype="float16")
    assert back.dtype == np.float16
    assert back.tobytes() == kept(maps, layout).astype(np.float16).tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decode_in_the_stored_uint8_is_the_bytes_behind_the_zero_point(encoding):
    layout = LAYOUTS[f"{encoding}-uint8"]
    maps = make_maps(layout, 5)
    back = there_and_back(maps, layout, dtype="uint8")
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, (maps * 4).astype(np.uint8))  # none is negative


@pytest.mark.parametrize(
    ("name", "asked"), [("dense-float32", "float16"), ("sparse-uint8", "float16")]
)
def test_decode_in_another_dtype_is_an_error(name, asked):
    layout = LAYOUTS[name]
    with pytest.raises(
        ConfigError, match=f"stored as {layout.dtype}; read that or float32, not {asked}"
    ):
        there_and_back(make_maps(layout, 1), layout, dtype=asked)


def test_encode_sparse_cells_are_a_mask_over_channels_and_the_bytes_in_its_order():
    layout = Layout((1, 2, 4), ("original",), "float16", "sparse", "parquet", 1)
    maps = np.zeros((2, 1, 1, 2, 4), np.float32)
    maps[0, 0, 0, 1, 2] = 1  # channel 2, pixel 1: bit 5
    maps[1, 0, 0, 0, 3], maps[1, 0, 0, 1, 0] = -3, 2  # bits 6 and 1
    encoded = cells.encode(maps, layout).cells
    assert list(encoded) == ["original.mask", "original.byte0", "original.byte1"]
    masks, *planes = (list(map(bytes, column)) for column in encoded.values())
    assert masks == [bytes([1 << 5, *[0] * 7]), bytes([1 << 6 | 1 << 1, *[0] * 7])]
    expected = [np.array(numbers, "<f2").tobytes() for numbers in ([1], [2, -3])]
    assert planes == [[numbers[i::2] for numbers in expected] for i in range(2)]


def test_encode_thesis_example_keeps_five_values_and_positions():
    # Thesis, section 4.1: value = [5, 7, 2, 12, 1], position = [6, 7, 11, 14, 19]; the loop of
    # Algorithm 3 as printed stops one short and would lose the last.
    example = [0, 0, 0, 0, 0, 0, 5, 7, 0, 0, 0, 2, 0, 0, 12, 0, 0, 0, 0, 1]
    layout = Layout((20,), ("original",), "float16", "sparse", "parquet", 1)
    maps = np.array(example, np.float32).reshape(1, 1, 20)
    encoded = cells.encode(maps, layout).cells
    kept = cells.take_sparse([whole(encoded, np.arange(1))], layout, layout.branches)
    bits = np.unpackbits(kept.masks[0, 0], bitorder="little")
    assert np.flatnonzero(bits).tolist() == [6, 7, 11, 14, 19]
    assert kept.values.tolist() == [5, 7, 2, 12, 1]
    np.testing.assert_array_equal(there_and_back(maps, layout), maps)


def test_encode_dense_cells_are_one_image_row_major_split_by_byte():
    layout = Layout((2, 1, 2), ("original", "q010"), "float32", "dense", "parquet", 1)
    maps = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 1, 2)
    encoded = cells.encode(maps, layout).cells
    for name, numbers in (("original", [8, 9, 10, 11]), ("q010", [12, 13, 14, 15])):
        expected = np.array(numbers, "<f4").tobytes()
        found = [bytes(encoded[f"{name}.byte{i}"][1]) for i in range(4)]
        assert found == [expected[i::4] for i in range(4)]


@ALL
def test_encode_nnz_counts_the_activations_of_each_branch(layout):
    maps = random_maps(layout, 5) + np.float32(0)  # which makes -0.0 plain 0
    maps[:, 1] = 0
    maps[0, 1, 0, 0, 0] = 1e-9  # too small for float16 and uint8, and an activation all the same
    expected = np.count_nonzero(maps, axis=(0, 2, 3, 4))
    assert cells.encode(maps, layout).nnz == tuple(expected) and expected[1] == 1


@ALL
def test_encode_nnz_counts_minus_zero_where_it_is_stored(layout):
    maps = np.full((2, 3, *layout.shape), -0.0, np.float32)
    num_kept = maps[:, 0].size if layout.dtype == "float32" else 0
    assert cells.encode(maps, layout).nnz == (num_kept,) * 3


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("value", [1e-9, -1e-9, -0.0])
def test_encode_number_too_small_for_float16_takes_no_place_of_its_own(value, encoding):
    layout = LAYOUTS[f"{encoding}-float16"]
    maps = np.full((1, 3, *layout.shape), value, np.float32)
    assert there_and_back(maps, layout).tobytes() == bytes(maps.nbytes)
    sizes = {len(cells.encode(maps, layout).cells[f"q010.byte{i}"].data) for i in range(2)}
    assert sizes == {0 if encoding == "sparse" else layout.num_values}


@ALL
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_encode_not_finite_names_image_and_branch(layout, value):
    maps = make_maps(layout, 3)
    maps[2, 1, 1, 2, 7] = value
    message = "^c.png, branch q010: an activation is not a finite number; check the weights and "
    with pytest.raises(FeatureError, match=message):
        cells.encode(maps, layout, ["a.png", "b.png", "c.png"])
    with pytest.raises(FeatureError, match=r"^number 2, branch q010: "):
        cells.encode(maps, layout)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encode_out_of_float16_names_the_first_image_and_branch(encoding):
    layout = LAYOUTS[f"{encoding}-float16"]
    maps = make_maps(layout, 4)
    maps[2, 1, 0, 0, 0], maps[3, 1, 0, 0, 0], maps[0, 2, 0, 0, 0] = -123_456, 1e30, 1e30
    message = r"^c, branch q010: an activation of 123456 is out of float16's range of 65504; use "
    with pytest.raises(FeatureError, match=message):
        cells.encode(maps, layout, ["a", "b", "c", "d"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_take_sparse_gives_masks_and_values_as_they_are_stored(dtype):
    layout = make_layout(dtype, "sparse", shape=(3, 3, 7))
    maps = make_maps(layout, 6)
    encoded = cells.encode(maps, layout).cells
    rows = np.array([4, 1])
    found = cells.take_sparse([whole(encoded, rows)], layout, ("q050", "original"))
    assert found.masks.shape == (2, 2, layout.mask_bytes)
    assert found.values.dtype == dtype
    channels_first = maps[rows][:, [2, 0]].transpose(0, 1, 4, 2, 3).reshape(2, 2, -1)
    bits = np.unpackbits(found.masks, axis=2, bitorder="little")[..., : layout.num_values]
    np.testing.assert_array_equal(bits, channels_first != 0)
    factor = 4 if dtype == "uint8" else 1
    np.testing.assert_array_equal(found.values, factor * channels_first[channels_first != 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_take_sparse_of_several_parts_is_that_of_the_images_together(dtype):
    layout = make_layout(dtype, "sparse", shape=(3, 3, 7))
    encoded = cells.encode(random_maps(layout, 6), layout).cells
    first = {name: column.part(0, 2) for name, column in encoded.items()}
    second = {name: column.part(2, 6) for name, column in encoded.items()}
    parts = [
        Part(second, np.array([3, 0, 1]), np.array([0, 2, 4])),
        Part(first, np.array([1, 0]), np.array([1, 3])),
    ]
    found = cells.take_sparse(parts, layout, BRANCHES)
    expected = cells.take_sparse([whole(encoded, np.array([5, 1, 2, 0, 3]))], layout, BRANCHES)
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_array_equal(found.values, expected.values)


@ALL
@pytest.mark.parametrize("dtype", ["float32", "stored"])
def test_decode_into_writes_the_parts_places_and_no_other(layout, dtype):
    dtype = layout.dtype if dtype == "stored" else dtype
    encoded = cells.encode(make_maps(layout, 5), layout).cells
    out = np.full((7, 2, *layout.shape), 77, dtype)
    part = Part(encoded, np.array([4, 0, 2]), np.array([6, 1, 3]))
    cells.decode_into(out, part, layout, BRANCHES[1:])
    found = cells.decode(encoded, layout, BRANCHES[1:], np.arange(5), dtype)
    np.testing.assert_array_equal(out[part.places], found[part.rows])
    assert (out[[0, 2, 4, 5]] == 77).all()


def resized(column: Cells, by: int) -> Cells:
    """Make the first cell longer or shorter."""
    sizes = np.diff(column.offsets) + [by, 0]
    return Cells.of_sizes(np.zeros(sizes.sum(), np.uint8), sizes)


@ALL
def test_check_shape_whole_cells_pass(layout):
    cells.check_shape(cells.encode(make_maps(layout, 2), layout).cells, layout, layout.branches)


@pytest.mark.parametrize("by", [-1, 8])
@pytest.mark.parametrize(
    ("layout", "part"),
    [(layout, part) for layout in IN_PARQUET.values() for part in layout.parts],
)
def test_check_shape_cell_of_another_length_names_the_branch(layout, part, by):
    damaged = dict(cells.encode(make_maps(layout, 2), layout).cells)
    damaged[f"q010.{part}"] = resized(damaged[f"q010.{part}"], by)
    with pytest.raises(FeatureError, match=MISFIT):
        cells.check_shape(damaged, layout, ("original", "q010"))
    cells.check_shape(damaged, layout, ("original", "q050"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_values_missing_name_the_branch(dtype):
    layout = LAYOUTS[f"sparse-{dtype}"]
    encoded = dict(cells.encode(make_maps(layout, 2), layout).cells)
    for name in layout.columns(["q010"])[1:]:
        sizes = np.diff(encoded[name].offsets) - [1, 0]
        encoded[name] = Cells.of_sizes(encoded[name].data[1:], sizes)
    with pytest.raises(FeatureError, match=MISFIT):
        cells.check_shape(encoded, layout, layout.branches)
    with pytest.raises(FeatureError, match=MISFIT):
        cells.decode(encoded, layout, layout.branches, np.arange(2), "float32")


def test_cells_part_and_item_are_the_bytes_between_offsets():
    column = Cells.of_sizes(np.arange(10, dtype=np.uint8), np.array([3, 0, 5, 2]))
    assert len(column) == 4
    assert [bytes(cell) for cell in column] == [b"\0\1\2", b"", b"\3\4\5\6\7", b"\x08\t"]
    assert [bytes(cell) for cell in column.part(1, 3)] == [b"", b"\3\4\5\6\7"]
    assert len(column.part(2, 2)) == 0


def test_cells_cannot_be_written_to():
    data = np.zeros(4, np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        Cells.of_sizes(data, np.array([4])).data[0] = 1
    data[0] = 1  # whose bytes they are may go on
