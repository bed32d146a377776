"""Format version 1, as the first release wrote it: read ever after, never written again.

    dense     a binary column a branch: the values, row-major
    sparse    three: `<branch>.values`, `<branch>.channels` (uint16), `<branch>.counts` (uint16, how
              many values each pixel has)

What is read becomes cells of today's layout at once, so that nothing else has to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipelines.errors import FeatureError
from pipelines.storage import cells as today
from pipelines.storage.cells import Cells
from pipelines.storage.layout import Layout

_PARTS = ("values", "channels", "counts")


def columns(layout: Layout, branches: Sequence[str]) -> list[str]:
    """Return the names of the columns that hold some branches."""
    if layout.encoding == "dense":
        return list(branches)
    return [f"{branch}.{part}" for branch in branches for part in _PARTS]


def schema(layout: Layout) -> pa.Schema:
    """Return the columns of a shard."""
    fixed = [("id", pa.string()), ("label", pa.int32())]
    return pa.schema([*fixed, *((name, pa.binary()) for name in columns(layout, layout.branches))])


def to_cells(
    old: Mapping[str, Cells], layout: Layout, branches: Sequence[str]
) -> Mapping[str, Cells]:
    """Turn columns of version 1 into cells of today's layout.

    Raises:
        FeatureError: the columns do not fit the layout.
    """
    new: dict[str, Cells] = {}
    for branch in branches:
        found = [old[name] for name in columns(layout, [branch])]
        maps = _dense(found[0], layout) if layout.encoding == "dense" else _sparse(found, layout)
        new.update(zip(layout.columns([branch]), today.of_bits(maps, layout), strict=True))
    return new


def _dense(values: Cells, layout: Layout) -> np.ndarray:
    numbers = _numbers(values, layout.dtype)
    if len(numbers) != len(values) * layout.num_values:
        raise FeatureError(f"{len(numbers)} numbers, expected {len(values) * layout.num_values}")
    return numbers.reshape(len(values), layout.num_positions, layout.num_channels)


def _sparse(found: Sequence[Cells], layout: Layout) -> np.ndarray:
    """Expand compressed sparse rows, a row a pixel.

    Bits are laid down, no number is added: threads that TensorFlow starts take subnormal ones for
    zero in any sum.
    """
    values, channels = _numbers(found[0], layout.dtype), _numbers(found[1], "<u2")
    counts = _numbers(found[2], "<u2")
    num_values = int(counts.sum(dtype=np.int64))
    num_pixels = len(found[0]) * layout.num_positions
    fits = len(counts) == num_pixels and num_values == len(values) == len(channels)
    if not fits or (len(channels) and int(channels.max()) >= layout.num_channels):
        raise FeatureError("values, channels and counts do not make maps; the shard is damaged")
    bits = values.view(f"u{values.itemsize}")
    dense = np.zeros((num_pixels, layout.num_channels), bits.dtype)
    dense[np.repeat(np.arange(num_pixels), counts), channels] = bits
    return dense.reshape(len(found[0]), layout.num_positions, layout.num_channels)


def _numbers(cells: Cells, dtype: str) -> np.ndarray:
    data = cells.data[cells.offsets[0] : cells.offsets[-1]]
    if len(data) % np.dtype(dtype).itemsize:
        raise FeatureError(f"{len(data)} bytes are no whole number of {dtype}; shard is damaged")
    return data.view(dtype)
