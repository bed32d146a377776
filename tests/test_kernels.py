"""The compiled loops on their own: every bit in its place, and nothing outside, whatever comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.storage import kernels

NUM_VALUES, NUM_CHANNELS = 70, 7  # two words of a mask, the last with six bits in use
GUARD = 0xABCD


def planes_of(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
    """Split numbers by byte, the lowest first."""
    split = numbers.astype(numbers.dtype.newbyteorder("<")).view(np.uint8)
    split = split.reshape(-1, numbers.itemsize)
    return tuple(np.ascontiguousarray(split[:, i]) for i in range(numbers.itemsize))


class Sparse:
    """Four cells of 70 uint16 each, that a test may spoil; row i is `maps[i]`."""

    def __init__(self, num_channels: int = NUM_CHANNELS) -> None:
        self.num_channels, num_pixels = num_channels, NUM_VALUES // num_channels
        rng = np.random.default_rng(0)
        self.maps = (rng.integers(1, 2**16, (4, 70)) * (rng.random((4, 70)) < 0.4)).astype("u2")
        channels_first = self.maps.reshape(4, num_pixels, num_channels).transpose(0, 2, 1)
        channels_first = channels_first.reshape(4, 70)
        packed = np.packbits(channels_first != 0, axis=1, bitorder="little")
        self.masks = [np.append(row, np.zeros(7, np.uint8)) for row in packed]
        self.values = [row[row != 0] for row in channels_first]

    def expand(self, rows: list[int]) -> tuple[int, np.ndarray, np.ndarray]:
        """Write rows into branch 1 of 3; returns the answer, what is there, and all around it."""
        around = np.full((len(rows) + 4, 3, NUM_VALUES), GUARD, np.uint16)
        out = around[2:-2]
        answer = kernels.expand_sparse(
            np.concatenate(self.masks),
            np.cumsum([0, *map(len, self.masks)]),
            planes_of(np.concatenate(self.values)),
            np.cumsum([0, *map(len, self.values)]),
            np.array(rows, np.int64),
            self.num_channels,
            False,
            out,
            1,
        )
        found = out[:, 1].copy()
        out[:, 1] = GUARD
        return answer, found, around


def more_mask(cells: Sparse) -> None:
    cells.masks[2] = np.append(cells.masks[2], np.zeros(8, np.uint8))


def less_mask(cells: Sparse) -> None:
    cells.masks[2] = cells.masks[2][:8]


def no_mask(cells: Sparse) -> None:
    cells.masks[2] = cells.masks[2][:0]


def bit_beyond(cells: Sparse) -> None:
    cells.masks[2][8] |= 1 << 6  # position 70, and a value for it
    cells.values[2] = np.append(cells.values[2], np.uint16(1))


def highest_bit(cells: Sparse) -> None:
    cells.masks[2][15] |= 1 << 7
    cells.values[2] = np.append(cells.values[2], np.uint16(1))


def fewer_values(cells: Sparse) -> None:
    cells.values[2] = cells.values[2][:-1]


def no_values(cells: Sparse) -> None:
    cells.values[2] = cells.values[2][:0]


def more_values(cells: Sparse) -> None:
    cells.values[2] = np.append(cells.values[2], np.uint16(1))


ANY_PIXELS = pytest.mark.parametrize("num_channels", [NUM_CHANNELS, 1, NUM_VALUES])
SPOILED = [
    *(more_mask, less_mask, no_mask, bit_beyond, highest_bit),
    *(fewer_values, no_values, more_values),
]


@ANY_PIXELS
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 0], [2, 2]])
def test_expand_sparse_whole_cells_fill_one_branch_of_those_rows(rows, num_channels):
    cells = Sparse(num_channels)
    answer, found, around = cells.expand(rows)
    assert answer == kernels.GOOD
    np.testing.assert_array_equal(found, cells.maps[rows])
    assert (around == GUARD).all()


@ANY_PIXELS
@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_expand_sparse_cell_that_does_not_fit_is_told_by_its_row(spoil, num_channels):
    cells = Sparse(num_channels)
    spoil(cells)
    answer, found, around = cells.expand([3, 1, 2, 0])
    assert answer == 2
    np.testing.assert_array_equal(found[:2], cells.maps[[3, 1]])
    assert (around == GUARD).all()


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_expand_sparse_cell_that_does_not_fit_and_is_not_asked_for_is_no_matter(spoil):
    cells = Sparse()
    spoil(cells)
    answer, found, _ = cells.expand([3, 1, 0])
    assert answer == kernels.GOOD
    np.testing.assert_array_equal(found, cells.maps[[3, 1, 0]])


def test_expand_sparse_random_bytes_never_write_outside():
    rng = np.random.default_rng(1)
    num_bad = 0
    for _ in range(500):
        cells = Sparse()
        cells.masks = [
            rng.integers(0, 256, 8 * size, np.uint8) for size in rng.choice([0, 1, 2, 2, 2, 3], 4)
        ]
        if rng.random() < 0.5:
            cells.masks = [np.append(m[:8], np.zeros(8, np.uint8)) for m in cells.masks]
        sizes = [int(np.unpackbits(mask).sum()) + rng.integers(-1, 2) for mask in cells.masks]
        cells.values = [rng.integers(1, 2**16, max(0, size), np.uint16) for size in sizes]
        answer, _, around = cells.expand([0, 1, 2, 3])
        assert (around == GUARD).all()
        num_bad += answer != kernels.GOOD
    assert 300 < num_bad < 500


def test_expand_sparse_maps_of_one_value_and_of_none():
    mask = np.zeros(16, np.uint8)
    mask[0] = 1
    for num_channels, num_values in ((1, 1), (64, 64), (3, 12)):
        out = np.full((2, 1, num_values), 9, np.uint8 if num_values == 1 else np.uint32)
        words = -(-num_values // 64) * 8
        masks = np.concatenate([mask[:words], np.zeros(words, np.uint8)])
        values = np.array([7], out.dtype)
        answer = kernels.expand_sparse(
            masks,
            np.array([0, words, 2 * words]),
            planes_of(values),
            np.array([0, 1, 1]),
            np.array([0, 1]),
            num_channels,
            False,
            out,
            0,
        )
        assert answer == kernels.GOOD
        assert out[0, 0].tolist() == [7] + [0] * (num_values - 1)
        assert not out[1].any()


def all_halves() -> np.ndarray:
    """Return every finite float16, subnormal ones and both zeros included."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return halves[np.isfinite(halves)]


@pytest.mark.parametrize("is_sparse", [False, True])
def test_expand_half_of_every_finite_number_is_exact(is_sparse):
    halves = all_halves()
    bits = halves.view(np.uint16)
    out = np.zeros((1, 1, len(halves)), np.uint32)
    rows = np.array([0])
    if is_sparse:
        kept = bits[bits != 0]
        packed = np.packbits(bits != 0, bitorder="little")
        masks = np.zeros(-(-len(packed) // 8) * 8, np.uint8)
        masks[: len(packed)] = packed
        offsets = np.array([0, len(kept)])
        answer: Any = kernels.expand_sparse(
            masks, np.array([0, len(masks)]), planes_of(kept), offsets, rows, 1, True, out, 0
        )
        assert answer == kernels.GOOD
    else:
        kernels.expand_dense(planes_of(bits), rows, True, out, 0)
    assert out.tobytes() == halves.astype(np.float32).tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_expand_dense_rows_fill_one_branch_in_the_order_asked(dtype):
    numbers = np.random.default_rng(2).integers(0, np.iinfo(dtype).max, (5, 6), dtype)
    around = np.full((6, 3, 6), GUARD % 256, dtype)
    out = around[1:-1]
    kernels.expand_dense(planes_of(numbers), np.array([4, 0, 0, 2]), False, out, 2)
    np.testing.assert_array_equal(out[:, 2], numbers[[4, 0, 0, 2]])
    out[:, 2] = GUARD % 256
    assert (around == GUARD % 256).all()


def test_dequantise_every_byte_and_zero_point_is_the_formula():
    stored = np.repeat(np.arange(256, dtype=np.uint8), 256).reshape(4, 1, -1)
    scales = np.random.default_rng(3).uniform(1e-3, 9, 256).astype(np.float32)
    zero_points = np.arange(256, dtype=np.int32)
    out = np.full((4, 2, stored.shape[2]), -1, np.float32)
    kernels.dequantise(stored, scales, zero_points, out, 1)
    steps = (stored.reshape(-1, 256).astype(np.int32) + zero_points) % 256 - zero_points
    expected = (steps.astype(np.float32) * scales).reshape(4, -1)
    assert out[:, 1].tobytes() == expected.tobytes()
    assert (out[:, 0] == -1).all()


def test_gather_lays_cells_where_they_belong():
    numbers = np.arange(1000, 1010, dtype=np.uint16)
    offsets = np.array([0, 3, 3, 7, 10])
    out = np.zeros(12, np.uint16)
    kernels.gather(planes_of(numbers), offsets, np.array([3, 1, 0]), np.array([6, 0, 1]), out)
    assert out.tolist() == [0, 1000, 1001, 1002, 0, 0, 1007, 1008, 1009, 0, 0, 0]


@pytest.mark.parametrize("num_values", [64, 65, 100, 128])
def test_find_misfit_masks_with_as_many_bits_as_values_fit(num_values):
    rng = np.random.default_rng(num_values)
    bits = rng.random((50, num_values)) < rng.random((50, 1)) ** 2
    bits[0], bits[1] = True, False
    masks = np.zeros((50, -(-num_values // 64) * 8), np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    masks[:, : packed.shape[1]] = packed
    sizes = bits.sum(axis=1)
    assert kernels.find_misfit(masks, sizes, num_values) == kernels.GOOD
    assert kernels.find_misfit(masks, sizes - (np.arange(50) == 7), num_values) == 7
    assert kernels.find_misfit(masks, sizes + (np.arange(50) >= 9), num_values) == 9


def test_find_misfit_bit_beyond_the_map_is_found():
    masks = np.zeros((4, 16), np.uint8)
    masks[2, 8] = 1 << 6  # position 70
    sizes = np.array([0, 0, 1, 0])
    assert kernels.find_misfit(masks, sizes, 70) == 2
    assert kernels.find_misfit(masks, sizes, 71) == kernels.GOOD


def test_compiled_where_nothing_can_be_kept_on_disk_runs_all_the_same():
    namespace: dict[str, Any] = {}
    exec("def double(number):\n    return 2 * number", namespace)  # lies in no file
    assert kernels._compiled(namespace["double"])(21) == 42
