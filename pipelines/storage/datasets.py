"""Batches of a cache as tf.data, and the expansion of sparse ones on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipelines.storage.batches import FeatureReader
from pipelines.storage.layout import Layout

if TYPE_CHECKING:
    import tensorflow as tf


def dataset(
    reader: FeatureReader,
    batch_size: int,
    *,
    seed: int | None,
    epoch: int,
    first_step: int,
    is_sparse: bool,
) -> tf.data.Dataset:
    """Wrap a reader; its threads read ahead, so that no `prefetch` is needed.

    Args:
        reader: of some images.
        batch_size: images a batch; the last may have fewer.
        seed: of the order; None for the plan's.
        epoch: counted from 0; with a seed only.
        first_step: batches before it are neither given nor read; with a seed only.
        is_sparse: give masks and values, to be expanded by `expand`.

    Returns:
        Pairs (features, labels), or triples (masks, values, labels).
    """
    import tensorflow as tf

    layout, branches = reader.layout, len(reader.branches)
    labels = tf.TensorSpec((None,), tf.int32)
    features = tf.TensorSpec((None, branches, *layout.shape), tf.float32)
    masks = tf.TensorSpec((None, branches, layout.mask_bytes), tf.uint8)
    values = tf.TensorSpec((None,), layout.dtype)

    def give() -> Iterator[tuple[Any, ...]]:
        if is_sparse:
            found = (
                reader.sparse_in_order(batch_size)
                if seed is None
                else reader.sparse_epoch(batch_size, seed, epoch, first_step)
            )
            yield from ((batch.masks, batch.values, batch.labels) for batch in found)
        else:
            dense = (
                reader.in_order(batch_size)
                if seed is None
                else reader.epoch(batch_size, seed, epoch, first_step)
            )
            yield from ((batch.features, batch.labels) for batch in dense)

    signature = (masks, values, labels) if is_sparse else (features, labels)
    return tf.data.Dataset.from_generator(give, output_signature=signature)


def expand(masks: Any, values: Any, layout: Layout) -> Any:
    """Turn a sparse batch into dense maps, in operations that any device has.

    A value's place in `values` is the number of set bits before its own.

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
    is_kept = tf.reshape(bits, (-1,)) > 0
    place = tf.cumsum(tf.cast(is_kept, tf.int32)) - 1
    numbers = tf.cast(values, tf.int32 if layout.dtype == "uint8" else tf.float32)
    numbers = tf.concat([numbers, tf.zeros((1,), numbers.dtype)], axis=0)  # never empty
    zero = tf.zeros((), numbers.dtype)
    flat = tf.where(is_kept, tf.gather(numbers, tf.maximum(place, 0)), zero)
    shape = tf.shape(masks)
    rows = tf.reshape(flat, (shape[0], shape[1], layout.mask_bytes * 8))[..., : layout.num_values]
    channels_first = (shape[0], shape[1], layout.num_channels, layout.num_positions)
    maps = tf.transpose(tf.reshape(rows, channels_first), (0, 1, 3, 2))
    if layout.dtype == "uint8":
        zero_points = tf.constant(layout.zero_points, tf.int32)
        steps = tf.bitwise.bitwise_and(maps + zero_points, 255) - zero_points
        maps = tf.cast(steps, tf.float32) * tf.constant(layout.scales, tf.float32)
    return tf.reshape(maps, (shape[0], shape[1], *layout.shape))
