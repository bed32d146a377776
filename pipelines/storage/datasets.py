"""Batches of a cache as tf.data, and the expansion of sparse ones on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError
from pipelines.storage import asked
from pipelines.storage.batches import FeatureReader
from pipelines.storage.layout import Layout

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Order:
    """Which batches, and in which order.

    Attributes:
        seed: of training's order; None for the plan's.
        epoch: counted from 0; with a seed only.
        first_step: batches before it are neither given nor read; with a seed only.
    """

    seed: int | None = None
    epoch: int = 0
    first_step: int = 0


@dataclass(frozen=True)
class Form:
    """What a batch becomes.

    Attributes:
        dtype: of dense batches, "float32" or the stored one.
        is_sparse: masks and values instead, to be expanded by `expand`.
        with_ids: the images' names at the end.
    """

    dtype: str = "float32"
    is_sparse: bool = False
    with_ids: bool = False


def dataset(reader: FeatureReader, batch_size: int, order: Order, form: Form) -> tf.data.Dataset:
    """Wrap a reader; its threads read ahead, so that no `prefetch` is needed.

    Args:
        reader: of some images.
        batch_size: images a batch; the last may have fewer.
        order: of the batches.
        form: of each.

    Returns:
        Tuples of features and labels, or of masks, values and labels; see `FeatureCache.dataset`.

    Raises:
        ConfigError: a number says no batch, the dtype is neither float32 nor the stored one, or
            the cache is dense and sparse batches are asked for.
    """
    import tensorflow as tf

    seed, epoch, first_step = order.seed, order.epoch, order.first_step
    asked.check_steps(batch_size, first_step=first_step, epoch=epoch, seed=seed or 0)
    if seed is None and (epoch or first_step):
        raise ConfigError("epoch and first_step are of training's order; give its seed, too")
    layout, branches = reader.layout, len(reader.branches)
    layout.check_dtype(form.dtype)
    if form.is_sparse:
        reader.check_sparse()

    def dense() -> Iterator[tuple[Any, ...]]:
        given = (
            reader.in_order(batch_size, form.dtype)
            if seed is None
            else reader.epoch(batch_size, seed, epoch, first_step, form.dtype)
        )
        return ((batch.features, batch.labels, batch.ids) for batch in given)

    def sparse() -> Iterator[tuple[Any, ...]]:
        given = (
            reader.sparse_in_order(batch_size)
            if seed is None
            else reader.sparse_epoch(batch_size, seed, epoch, first_step)
        )
        return ((batch.masks, batch.values, batch.labels, batch.ids) for batch in given)

    def give() -> Iterator[tuple[Any, ...]]:
        for *arrays, ids in sparse() if form.is_sparse else dense():
            # As bytes, since a file's name may be no UTF-8.
            names = [name.encode("utf-8", "surrogateescape") for name in ids]
            yield (*arrays, names) if form.with_ids else tuple(arrays)

    maps = [tf.TensorSpec((None, branches, *layout.shape), form.dtype)]
    if form.is_sparse:
        masks = tf.TensorSpec((None, branches, layout.mask_bytes), tf.uint8)
        maps = [masks, tf.TensorSpec((None,), layout.dtype)]
    ends = [tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.string)]
    signature = (*maps, *ends[: 1 + form.with_ids])
    return tf.data.Dataset.from_generator(give, output_signature=signature)


def expand(masks: Any, values: Any, layout: Layout) -> Any:
    """Turn a sparse batch into dense maps, in operations that any device has.

    A value's place in `values` is the number of set bits before its own: in its mask, and in all
    masks before that.

    Args:
        masks: uint8 (images, branches, bytes), as `SparseBatch` has them.
        values: (nnz,) in the stored dtype.
        layout: of the cache.

    Returns:
        float32 (images, branches, *shape).
    """
    import tensorflow as tf

    shifts = tf.constant([0, 1, 2, 3, 4, 5, 6, 7], tf.uint8)
    bits = tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(masks[..., None], shifts), tf.constant(1, tf.uint8)
    )
    shape = tf.shape(masks)
    is_kept = tf.reshape(bits, (shape[0], shape[1], layout.mask_bytes * 8)) > 0
    # A scan a mask, which a GPU does side by side; a whole batch may have more bits than int32.
    counted = tf.cast(tf.cumsum(tf.cast(is_kept, tf.int32), axis=-1), tf.int64)
    totals = tf.reshape(counted[..., -1], (-1,))
    before = tf.reshape(tf.cumsum(totals, exclusive=True), (shape[0], shape[1], 1))
    numbers = tf.cast(values, tf.int32 if layout.dtype == "uint8" else tf.float32)
    numbers = tf.concat([tf.zeros((1,), numbers.dtype), numbers], axis=0)  # the first: of no bit
    place = tf.where(is_kept, counted + before, tf.zeros((), tf.int64))
    rows = tf.gather(numbers, place)[..., : layout.num_values]
    channels_first = (shape[0], shape[1], layout.num_channels, layout.num_positions)
    maps = tf.transpose(tf.reshape(rows, channels_first), (0, 1, 3, 2))
    if layout.dtype == "uint8":
        zero_points = tf.constant(layout.zero_points, tf.int32)
        steps = tf.bitwise.bitwise_and(maps + zero_points, 255) - zero_points
        maps = tf.cast(steps, tf.float32) * tf.constant(layout.scales, tf.float32)
    return tf.reshape(maps, (shape[0], shape[1], *layout.shape))
