"""Feature shards: which columns hold a node's feature maps, and how maps become columns and back.

Format version 1; a row an image, the plan's order; numbers little-endian.

    id, label           string, int32
    encoding "dense"    a binary column a branch: values, row-major
    encoding "sparse"   three binary columns a branch: `<branch>.values`, `<branch>.channels`
                        (uint16), `<branch>.counts` (uint16 a pixel); see `sparse.py`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import FeatureError
from pipelines.storage.sparse import MAX_CHANNELS, SparseMaps, to_dense, to_dtype, to_sparse

FORMAT_VERSION = 1
SUFFIX = "parquet"
COMPRESSION = "zstd"
_PARTS = ("values", "channels", "counts")


@dataclass(frozen=True)
class Layout:
    """How the feature maps of one node are stored.

    Attributes:
        shape: of one map, (height, width, channels) or (channels,).
        branches: names, in the order of the branch axis.
        dtype: "float16" or "float32".
        encoding: "sparse" or "dense".
        rows_per_group: images in a row group, the unit of reading.
    """

    shape: tuple[int, ...]
    branches: tuple[str, ...]
    dtype: str
    encoding: str
    rows_per_group: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        """Build a layout from plan.json's details."""
        return cls(
            tuple(value["shape"]),
            tuple(value["branches"]),
            value["dtype"],
            value["encoding"],
            value["rows_per_group"],
        )

    @property
    def num_values(self) -> int:
        """Numbers in one map."""
        return int(np.prod(self.shape))

    @property
    def decoded_dtype(self) -> str:
        """What `decode` gives: the stored dtype for dense maps, float32 for sparse ones."""
        return self.dtype if self.encoding == "dense" else "float32"

    def columns(self, branch: str) -> list[str]:
        """Return the names of the columns that hold a branch."""
        if self.encoding == "dense":
            return [branch]
        return [f"{branch}.{part}" for part in _PARTS]

    def schema(self) -> pa.Schema:
        """Return the columns of a shard."""
        fixed = [("id", pa.string()), ("label", pa.int32())]
        names = [name for branch in self.branches for name in self.columns(branch)]
        return pa.schema([*fixed, *((name, pa.binary()) for name in names)])


@dataclass(frozen=True)
class EncodedRows:
    """Some images' feature maps as columns.

    Attributes:
        columns: binary arrays, in the order of the layout's schema behind id and label.
        nnz: numbers in the maps that are not zero.
    """

    columns: list[pa.Array]
    nnz: int


def encode(maps: np.ndarray, layout: Layout) -> EncodedRows:
    """Turn feature maps into columns.

    Args:
        maps: float32, (images, branches, *shape).
        layout: how they are stored.

    Raises:
        FeatureError: a value cannot be stored.
    """
    columns: list[pa.Array] = []
    num_images, num_channels = maps.shape[0], layout.shape[-1]
    for i in range(len(layout.branches)):
        flat = maps[:, i].reshape(num_images, layout.num_values)
        if layout.encoding == "dense":
            columns.append(_equal_cells(to_dtype(flat, layout.dtype)))
        else:
            pixels = flat.reshape(num_images, layout.num_values // num_channels, num_channels)
            columns += _sparse_cells(to_sparse(pixels, layout.dtype))
    return EncodedRows(columns, int(np.count_nonzero(maps)))


def decode(columns: Mapping[str, pa.Array], layout: Layout, branches: Sequence[str]) -> np.ndarray:
    """Turn columns back into feature maps.

    Args:
        columns: the branches' columns by name, all of one length.
        layout: how they are stored.
        branches: which of the layout's branches, in the order wanted.

    Returns:
        (images, branches, *shape); the stored dtype for dense maps, float32 for sparse ones.

    Raises:
        FeatureError: the columns do not fit the layout.
    """
    num_rows = len(columns[layout.columns(branches[0])[0]])
    maps = np.empty((num_rows, len(branches), *layout.shape), layout.decoded_dtype)
    for i, branch in enumerate(branches):
        cells = [columns[name] for name in layout.columns(branch)]
        if layout.encoding == "dense":
            values = _content(cells[0], layout.dtype)
            _check_length(values, num_rows * layout.num_values, branch)
            maps[:, i] = values.reshape(num_rows, *layout.shape)
        else:
            counts = _content(cells[2], "uint16")
            num_pixels = layout.num_values // layout.shape[-1]
            _check_length(counts, num_rows * num_pixels, branch)
            sparse_maps = SparseMaps(
                _content(cells[0], layout.dtype),
                _content(cells[1], "uint16"),
                counts.reshape(num_rows, num_pixels),
            )
            dense = to_dense(sparse_maps, layout.shape[-1])
            maps[:, i] = dense.reshape(num_rows, *layout.shape)
    return maps


def measure(maps: np.ndarray, layout: Layout) -> int:
    """Return the bytes that `maps` take on disk in this layout, compressed as a shard is."""
    encoded = encode(maps, layout)
    return sum(
        len(pa.compress(buffer, codec=COMPRESSION, asbytes=True))
        for column in encoded.columns
        if (buffer := column.buffers()[2]) is not None and buffer.size
    )


def can_be_sparse(shape: Sequence[int]) -> bool:
    """Tell whether a channel index of this shape fits 16 bits."""
    return shape[-1] <= MAX_CHANNELS


def _equal_cells(values: np.ndarray) -> pa.Array:
    """Make a binary array of one cell a row of `values` (images, numbers)."""
    ends = np.full(values.shape[0], values.shape[1] * values.itemsize)
    return _cells(values, ends)


def _sparse_cells(maps: SparseMaps) -> list[pa.Array]:
    nnz = maps.counts.sum(axis=1, dtype=np.int64)
    return [
        _cells(maps.values, nnz * maps.values.itemsize),
        _cells(maps.channels, nnz * 2),
        _equal_cells(maps.counts),
    ]


def _cells(values: np.ndarray, sizes_bytes: np.ndarray) -> pa.Array:
    offsets = np.zeros(len(sizes_bytes) + 1, np.int32)
    np.cumsum(sizes_bytes, out=offsets[1:])
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(), len(sizes_bytes), [None, pa.py_buffer(offsets), data])


def _content(cells: pa.Array, dtype: str) -> np.ndarray:
    """Return the bytes of all cells, end to end, as numbers (without a copy)."""
    _, offset_buffer, data = cells.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[cells.offset : cells.offset + len(cells) + 1]
    itemsize = np.dtype(dtype).itemsize
    size_bytes = int(offsets[-1] - offsets[0])
    if size_bytes % itemsize:
        raise FeatureError(f"{size_bytes} bytes are no whole number of {dtype}; shard is damaged")
    if size_bytes == 0:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, size_bytes // itemsize, int(offsets[0]))


def _check_length(values: np.ndarray, expected: int, branch: str) -> None:
    if values.size != expected:
        raise FeatureError(
            f"branch {branch}: {values.size} numbers, expected {expected}; the shard is damaged"
        )
