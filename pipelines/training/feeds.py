"""How batches reach the compiled step: as dense maps, or sparse and expanded on the device.

Both give the same numbers. Sparse batches are several times smaller on their way to a GPU; whether
it expands them faster than the reader's threads do has not been measured. On a CPU it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.storage import datasets
from pipelines.storage.batches import FeatureReader

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Feed:
    """Batches of the train split as the step takes them.

    Attributes:
        signature: tensor specs of the arrays in front of the labels.
        unpack: those tensors to float32 (batch, branches, *shape), inside the compiled step.
        epoch: (batch size, seed, epoch, first step) to tuples of arrays, the labels last.
    """

    signature: list[Any]
    unpack: Callable[..., Any]
    epoch: Callable[[int, int, int, int], Iterator[Arrays]]


def dense(reader: FeatureReader) -> Feed:
    """Let the reader's threads expand."""
    import tensorflow as tf

    def epoch(size: int, seed: int, number: int, first: int) -> Iterator[Arrays]:
        for batch in reader.epoch(size, seed, number, first):
            yield batch.features, batch.labels

    shape = (None, len(reader.branches), *reader.layout.shape)
    return Feed([tf.TensorSpec(shape, tf.float32)], lambda features: features, epoch)


def sparse(reader: FeatureReader) -> Feed:
    """Let the device expand.

    Raises:
        ConfigError: the cache is dense.
    """
    import tensorflow as tf

    reader.check_sparse()
    layout = reader.layout

    def epoch(size: int, seed: int, number: int, first: int) -> Iterator[Arrays]:
        for batch in reader.sparse_epoch(size, seed, number, first):
            yield batch.masks, batch.values, batch.labels

    masks = tf.TensorSpec((None, len(reader.branches), layout.mask_bytes), tf.uint8)
    values = tf.TensorSpec((None,), layout.dtype)
    return Feed(
        [masks, values], lambda masks, values: datasets.expand(masks, values, layout), epoch
    )


def choose(reader: FeatureReader, expand: str, has_gpu: bool) -> Feed:
    """Return the feed that a setting asks for.

    Args:
        reader: of the train split.
        expand: "host", "device", or "auto" for the device where that is a GPU and the cache sparse.
        has_gpu: what the device is.

    Raises:
        ConfigError: "device", but the cache is dense.
    """
    auto = "device" if has_gpu and reader.layout.encoding == "sparse" else "host"
    return sparse(reader) if (auto if expand == "auto" else expand) == "device" else dense(reader)
