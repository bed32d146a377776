"""Feature maps as binary cells and back; what a cell holds, `layout.py` says.

The thesis keeps each value that is not zero with its position (Algorithm 3). Here the positions
are a mask, a bit for each, and numbers are split by byte: the upper bytes, which hold the exponent,
compress well once the noise of the lower ones is out of their way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipelines.errors import FeatureError
from pipelines.storage import dtypes
from pipelines.storage.columns import Cells, Part
from pipelines.storage.layout import Layout

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True)
class EncodedRows:
    """Some images' feature maps as cells.

    Attributes:
        cells: by column.
        nnz: for each branch, how many of the float32 activations are not zero; stored as float32,
            -0.0 counts, too.
        num_clipped: values beyond the range of their channel's scale (uint8).
    """

    cells: Mapping[str, Cells]
    nnz: tuple[int, ...]
    num_clipped: int


def encode(maps: np.ndarray, layout: Layout, names: Sequence[str] | None = None) -> EncodedRows:
    """Turn feature maps into cells.

    Args:
        maps: float32 (images, branches, *shape), unitless.
        layout: how they are stored.
        names: of the images, for messages.

    Raises:
        FeatureError: a value cannot be stored; names the first image and branch.
    """
    cells: dict[str, Cells] = {}
    nnz, num_clipped = [], 0
    check_finite(maps, layout.branches, names)
    for i, branch in enumerate(layout.branches):
        branch_maps = maps[:, i].reshape(len(maps), layout.num_positions, layout.num_channels)
        try:
            stored = dtypes.to_stored(branch_maps, layout)
        except FeatureError as error:
            raise _named(error, branch_maps, branch, layout, names) from error
        cells.update(zip(layout.columns([branch]), of_bits(stored.bits, layout), strict=True))
        is_kept = (stored.bits if layout.dtype == "float32" else branch_maps) != 0
        nnz.append(int(np.count_nonzero(is_kept)))  # of numbers it is ten times slower
        num_clipped += stored.num_clipped
    return EncodedRows(cells, tuple(nnz), num_clipped)


def check_finite(
    maps: np.ndarray, branches: Sequence[str], names: Sequence[str] | None = None
) -> None:
    """Refuse what no dtype can hold.

    Args:
        maps: float32 (images, branches, *shape).
        branches: names.
        names: of the images, for the message.

    Raises:
        FeatureError: a value is NaN or infinite; names the first image and branch.
    """
    if np.isfinite(maps).all():
        return
    is_bad = ~np.isfinite(maps).reshape(*maps.shape[:2], -1).all(axis=2)
    row, branch = np.argwhere(is_bad)[0]
    raise FeatureError(
        f"{names[row] if names else f'number {row}'}, branch {branches[branch]}: an activation is "
        "not a finite number; check the weights and the preprocessing"
    )


def of_bits(numbers: np.ndarray, layout: Layout) -> list[Cells]:
    """Return the parts that one branch's stored numbers become, (images, pixels, channels)."""
    bits = numbers.view(_UNSIGNED[numbers.itemsize])
    return _sparse(bits) if layout.encoding == "sparse" else _dense(bits)


def decode(
    cells: Mapping[str, Cells],
    layout: Layout,
    branches: Sequence[str],
    rows: np.ndarray,
    dtype: str,
) -> np.ndarray:
    """Turn cells back into feature maps; see `decode_into`.

    Returns:
        (images, branches, *shape) in `dtype`, which is "float32" or the stored one.

    Raises:
        ConfigError: it is another dtype.
        FeatureError: the cells do not fit the layout.
    """
    layout.check_dtype(dtype)
    out = np.empty((len(rows), len(branches), *layout.shape), dtype)
    decode_into(out, Part(cells, rows, np.arange(len(rows))), layout, branches)
    return out


def decode_into(out: np.ndarray, part: Part, layout: Layout, branches: Sequence[str]) -> None:
    """Turn cells back into feature maps.

    Args:
        out: (images, branches, *shape), float32 or the stored dtype; the part's images are written.
        part: of the branches' columns.
        layout: how they are stored.
        branches: in the order wanted.

    Raises:
        FeatureError: the cells do not fit the layout.
    """
    dtype = out.dtype.name
    out = out.reshape(len(out), len(branches), layout.num_values)
    bits, is_half = (
        out.view(_UNSIGNED[out.itemsize]),
        (layout.dtype, dtype) == ("float16", "float32"),
    )
    names, size = layout.columns(branches), len(layout.parts)
    for i, branch in enumerate(branches):
        columns = [part.cells[name] for name in names[i * size : (i + 1) * size]]
        if layout.dtype == "uint8" and dtype == "float32":
            fits = _dequantise(columns, part, layout, out, i)
        else:
            fits = _expand(columns, part, layout, is_half, bits, i)
        if not fits:
            raise _misfit(branch)


@dataclass(frozen=True)
class SparseMaps:
    """Maps as masks and values.

    Attributes:
        masks: uint8 (images, branches, bytes).
        values: (nnz,) in the stored dtype, in the order of the masks' bits.
    """

    masks: np.ndarray
    values: np.ndarray


def take_sparse(parts: Sequence[Part], layout: Layout, branches: Sequence[str]) -> SparseMaps:
    """Return some images' maps as they are stored, their values' bytes put together again.

    Args:
        parts: of the branches' columns, checked by `check_shape`; together, all of some images.
        layout: how they are stored.
        branches: in the order wanted.

    """
    from pipelines.storage import kernels

    num_images = sum(len(part.rows) for part in parts)
    masks = np.empty((num_images, len(branches), layout.mask_bytes), np.uint8)
    sizes = np.empty((num_images, len(branches)), np.int64)
    for part, (i, branch) in product(parts, enumerate(branches)):
        mask, lowest, *_ = (part.cells[name] for name in layout.columns([branch]))
        masks[part.places, i] = mask.data.reshape(-1, layout.mask_bytes)[part.rows]
        sizes[part.places, i] = lowest.offsets[part.rows + 1] - lowest.offsets[part.rows]
    starts = np.cumsum(sizes).reshape(sizes.shape) - sizes
    bits = np.empty(int(sizes.sum()), _UNSIGNED[layout.itemsize])
    for part, (i, branch) in product(parts, enumerate(branches)):
        _, *planes = (part.cells[name] for name in layout.columns([branch]))
        data = tuple(plane.data for plane in planes)
        kernels.gather(data, planes[0].offsets, part.rows, starts[part.places, i], bits)
    return SparseMaps(masks, bits.view(layout.dtype))


def check_shape(cells: Mapping[str, Cells], layout: Layout, branches: Sequence[str]) -> None:
    """Check that cells have the lengths that layout and masks say, before any is expanded.

    Raises:
        FeatureError: they have not.
    """
    for branch in branches:
        columns = [cells[name] for name in layout.columns([branch])]
        if layout.encoding == "sparse":
            masks, *columns = columns
            fits = _fit(masks, columns[0], layout)
        else:
            fits = bool((np.diff(columns[0].offsets) == layout.num_values).all())
        if not fits or any(not np.array_equal(columns[0].offsets, c.offsets) for c in columns[1:]):
            raise _misfit(branch)


def _fit(masks: Cells, values: Cells, layout: Layout) -> bool:
    """Tell whether masks are whole, and have as many bits as there are values."""
    from pipelines.storage import kernels

    if len(masks) != len(values) or not (np.diff(masks.offsets) == layout.mask_bytes).all():
        return False
    rows = masks.data[masks.offsets[0] : masks.offsets[-1]].reshape(-1, layout.mask_bytes)
    return kernels.find_misfit(rows, np.diff(values.offsets), layout.num_values) == kernels.GOOD


def _sparse(bits: np.ndarray) -> list[Cells]:
    """Encode (images, pixels, channels) as masks and planes over (channels, pixels)."""
    from pipelines.storage import kernels

    num_images, num_values = len(bits), bits[0].size if len(bits) else 0
    masks = np.zeros((num_images, -(-num_values // 64)), "<u8")
    values = np.empty(bits.size + 1, bits.dtype)  # one more: what is not kept is written, too
    sizes = np.empty(num_images, np.int64)
    count = kernels.pack(np.ascontiguousarray(bits), masks, values, sizes)
    mask_sizes = np.full(num_images, masks.shape[1] * 8)
    mask_cells = Cells.of_sizes(masks.view(np.uint8).reshape(-1), mask_sizes)
    return [mask_cells, *_planes(values[:count], sizes)]


def _dense(bits: np.ndarray) -> list[Cells]:
    return _planes(bits.reshape(-1), np.full(len(bits), bits[0].size if len(bits) else 0))


def _planes(values: np.ndarray, sizes: np.ndarray) -> list[Cells]:
    split = values.astype(values.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    split = split.reshape(-1, values.itemsize)
    planes = (np.ascontiguousarray(split[:, i]) for i in range(values.itemsize))
    return [Cells.of_sizes(plane, sizes) for plane in planes]


def _expand(
    columns: Sequence[Cells], part: Part, layout: Layout, is_half: bool, out: np.ndarray, index: int
) -> bool:
    """Write one branch of a part's images; tell if its cells fit."""
    from pipelines.storage import kernels

    if layout.encoding == "dense":
        planes = tuple([column.data for column in columns])
        kernels.expand_dense(planes, part.rows, is_half, out, index, part.places)
        return True
    masks, *rest = columns
    bad = kernels.expand_sparse(
        masks.data,
        masks.offsets,
        tuple([column.data for column in rest]),
        rest[0].offsets,
        part.rows,
        layout.num_channels,
        is_half,
        out,
        index,
        part.places,
    )
    return bad == kernels.GOOD


def _dequantise(
    columns: Sequence[Cells], part: Part, layout: Layout, out: np.ndarray, index: int
) -> bool:
    from pipelines.storage import kernels

    stored = np.empty((len(part.rows), 1, layout.num_values), np.uint8)
    fits = _expand(
        columns, Part(part.cells, part.rows, np.arange(len(stored))), layout, False, stored, 0
    )
    scales, zero_points = (
        np.asarray(layout.scales, np.float32),
        np.asarray(layout.zero_points, np.int32),
    )
    kernels.dequantise(stored, scales, zero_points, out, index, part.places)
    return fits


def _misfit(branch: str) -> FeatureError:
    return FeatureError(f"branch {branch}: masks and values do not fit; the shard is damaged")


def _named(
    error: FeatureError,
    maps: np.ndarray,
    branch: str,
    layout: Layout,
    names: Sequence[str] | None,
) -> FeatureError:
    """Say which image an error is about: the first one that raises it alone."""
    for row, image in enumerate(maps):
        try:
            dtypes.to_stored(image, layout)
        except FeatureError as found:
            name = names[row] if names else f"number {row}"
            return FeatureError(f"{name}, branch {branch}: {found}")
    return error
