"""Memory used again: never while anybody holds an array, or a view of one."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from pipelines.storage.buffers import ALIGNMENT, Buffers

SIZE = 16_000  # bytes of an array of 4 x 1000


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_empty_is_an_array_that_can_be_written(dtype):
    array = Buffers(SIZE).empty((2, 3, 5), dtype)
    array[:] = 7
    assert (array.shape, array.dtype, array.sum()) == ((2, 3, 5), dtype, 210)


def test_empty_begins_where_a_tensor_may():
    buffers = Buffers(SIZE)
    arrays = [buffers.empty((number, 3), np.float16) for number in range(1, 40)]
    assert [address(array) % ALIGNMENT for array in arrays] == [0] * 39
    del arrays[:20]
    assert address(buffers.empty((2, 3), np.float16)) % ALIGNMENT == 0


def test_empty_array_given_up_is_used_again():
    buffers = Buffers(SIZE)
    first = address(buffers.empty((4, 1000), np.float32))
    kept = np.ones((4, 1000), np.float32)  # what comes from elsewhere would take the same place
    assert address(buffers.empty((1000, 4), np.float32)) == first
    assert kept.all()


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[1:],
        lambda array: array.reshape(-1),
        lambda array: array[::2].T,
        lambda array: array.view(np.uint8),
        lambda array: memoryview(array),
    ],
)
def test_empty_array_of_which_a_view_is_held_is_not_used_again(view):
    buffers = Buffers(2 * SIZE)
    array = buffers.empty((4, 1000), np.float32)
    array[:] = 3
    held = view(array)
    before = np.array(held)
    del array
    gc.collect()
    for _ in range(3):
        buffers.empty((4, 1000), np.float32)[:] = 9
    np.testing.assert_array_equal(np.array(held), before)


def test_empty_array_that_is_larger_is_new_and_a_smaller_one_is_part_of_it():
    buffers = Buffers(SIZE)
    first = address(buffers.empty((4, 1000), np.float32))
    small, large = buffers.empty((2,), np.float32), buffers.empty((9, 1000), np.float32)
    assert address(small) == first != address(large)
    small[:], large[:] = 2, 3
    assert small.tolist() == [2, 2]
    assert (large == 3).all()


def test_take_back_keeps_no_more_than_the_limit():
    buffers = Buffers(99)
    arrays = [buffers.empty((10,), np.float32) for _ in range(5)]
    assert len({address(array) for array in arrays}) == 5
    del arrays
    assert len(buffers._free) == 2
    buffers.rest(79)
    assert len(buffers._free) == 1
    buffers.empty((10,), np.float32)
    assert len(buffers._free) == 1
    buffers.rest(0)
    buffers.empty((10,), np.float32)
    assert len(buffers._free) == 0
