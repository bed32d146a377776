"""Arrays handed to TensorFlow, in their own memory where they lie as it wants them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.storage.buffers import ALIGNMENT


def to_tensor(array: Any) -> Any:
    """Return a tensor of an array's numbers.

    A copy of a batch costs as much time as reading it: its pages are new each time. So there is
    none where the array's memory begins where a tensor's may. The tensor holds the array; nobody
    may write to it meanwhile.

    Args:
        array: any shape and dtype; what is a tensor already is given back.
    """
    import tensorflow as tf

    if not isinstance(array, np.ndarray):
        return array
    is_fit = array.size and array.flags.c_contiguous and array.flags.writeable
    if is_fit and array.ctypes.data % ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)
