"""Arrays handed to TensorFlow: without a copy where they may lie, and with the same numbers."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from pipelines.execution.tensors import to_tensor
from pipelines.storage.buffers import ALIGNMENT, Buffers

SHAPE = (3, 5, 7)


def batch(dtype: str = "float32") -> np.ndarray:
    array = Buffers().empty(SHAPE, dtype)
    array[:] = np.arange(array.size).reshape(SHAPE)
    return array


def beside(array: np.ndarray) -> np.ndarray:
    """Return a copy whose memory begins where no tensor's may."""
    memory = np.empty(array.nbytes + 2 * ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT + 4
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32"])
def test_to_tensor_of_a_batch_is_its_own_memory(dtype):
    array = batch(dtype)
    tensor = to_tensor(array)
    assert tensor.dtype.name == dtype
    np.testing.assert_array_equal(tensor, array)
    array[2, 4, 6] = 77  # not to be done while it is in use: it shows whose memory that is
    assert tensor[2, 4, 6].numpy() == 77


def test_to_tensor_of_a_batch_keeps_its_memory_from_being_used_again():
    buffers = Buffers(1 << 20)
    array = buffers.empty(SHAPE, np.float32)
    array[:] = 3
    tensor = to_tensor(array)
    del array
    gc.collect()
    for _ in range(3):
        buffers.empty(SHAPE, np.float32)[:] = 9
    assert (tensor.numpy() == 3).all()


def test_to_tensor_given_up_lets_the_memory_be_used_again():
    buffers = Buffers(1 << 20)
    array = buffers.empty(SHAPE, np.float32)
    address = array.ctypes.data
    tensor = to_tensor(array)
    del array, tensor
    gc.collect()
    assert buffers.empty(SHAPE, np.float32).ctypes.data == address


@pytest.mark.parametrize(
    "change",
    [
        beside,
        lambda array: array[:, ::2],
        lambda array: array.transpose(2, 0, 1),
        lambda array: array[:0],
        lambda array: np.broadcast_to(array[0], SHAPE),  # cannot be written to
    ],
)
def test_to_tensor_of_what_no_tensor_may_lie_in_is_a_copy(change):
    array = change(batch())
    tensor = to_tensor(array)
    expected = array.copy()
    if array.flags.writeable:
        array[:] = -1
    np.testing.assert_array_equal(tensor, expected)


def test_to_tensor_of_a_tensor_is_that_tensor():
    tensor = to_tensor(batch())
    assert to_tensor(tensor) is tensor
