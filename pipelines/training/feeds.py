"""How batches reach the devices: as dense maps, or sparse and expanded inside the step.

Both give the same numbers. Sparse batches are several times smaller on their way to a GPU; whether
it expands them faster than the reader's threads do has not been measured. On a CPU it does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import TrainingError
from pipelines.storage import datasets
from pipelines.storage.batches import FeatureReader
from pipelines.storage.layout import Layout
from pipelines.storage.making import Batch, SparseBatch
from pipelines.storage.order import EVERY_ROW, Share

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Fed:
    """A batch, cut for the devices of this host.

    Attributes:
        parts: for each device the arrays of its maps, then labels int32 (rows,), then weights
            float32 (rows,): 1 for an image, 0 for what only fills up a part without any.
        num_images: of the whole batch, on all hosts.
        ids: names of the images that are here.
        labels: int32, of these.
    """

    parts: list[Arrays]
    num_images: int
    ids: list[str]
    labels: np.ndarray


class Feed:
    """Batches of a split as the devices take them.

    Attributes:
        reader: of the split.
        is_sparse: whether maps are expanded on the device.
        num_classes: labels are below it.
    """

    def __init__(
        self,
        reader: FeatureReader,
        num_classes: int,
        is_sparse: bool = False,
        share: Share = EVERY_ROW,
    ) -> None:
        """Feed the devices of `share`.

        Raises:
            ConfigError: sparse maps are asked for, and the cache is dense.
        """
        if is_sparse:
            reader.check_sparse()
        self.reader, self.num_classes = reader, num_classes
        self.is_sparse, self._share = is_sparse, share

    @property
    def signature(self) -> list[Any]:
        """Tensor specs of a part."""
        import tensorflow as tf

        layout, num_branches = self.reader.layout, len(self.reader.branches)
        maps = [tf.TensorSpec((None, num_branches, *layout.shape), tf.float32)]
        if self.is_sparse:
            masks = tf.TensorSpec((None, num_branches, layout.mask_bytes), tf.uint8)
            maps = [masks, tf.TensorSpec((None,), layout.dtype)]
        return [*maps, tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float32)]

    def unpack(self, *maps: Any) -> Any:
        """Turn a part's maps into float32 (rows, branches, *shape), inside the compiled step."""
        if not self.is_sparse:
            return maps[0]
        masks, values = maps
        return datasets.expand(masks, values, self.reader.layout)

    def epoch(self, batch_size: int, seed: int, epoch: int, first_step: int) -> Iterator[Fed]:
        """Give an epoch's batches in training order, from a step on."""
        reader, share = self.reader, self._share
        found: Iterator[Any] = (
            reader.sparse_epoch(batch_size, seed, epoch, first_step, share)
            if self.is_sparse
            else reader.epoch(batch_size, seed, epoch, first_step, share=share)
        )
        return self._fed(found, batch_size, first_step)

    def in_order(self, batch_size: int) -> Iterator[Fed]:
        """Give all images once, in the plan's order."""
        reader, share = self.reader, self._share
        found: Iterator[Any] = (
            reader.sparse_in_order(batch_size, share)
            if self.is_sparse
            else reader.in_order(batch_size, share=share)
        )
        return self._fed(found, batch_size, 0)

    def _fed(self, found: Iterator[Any], batch_size: int, step: int) -> Iterator[Fed]:
        for batch in found:
            self._check_labels(batch)
            num_images = min(batch_size, self.reader.num_rows - step * batch_size)
            yield Fed(self._cut(batch, num_images), num_images, batch.ids, batch.labels)
            step += 1

    def _check_labels(self, batch: Batch | SparseBatch) -> None:
        is_bad = (batch.labels < 0) | (batch.labels >= self.num_classes)
        if is_bad.any():
            first = int(np.argmax(is_bad))
            raise TrainingError(
                f"image {batch.ids[first]} has label {batch.labels[first]}, of "
                f"{self.num_classes} classes; run `bottleneck verify --deep`, then extract again"
            )

    def _cut(self, batch: Batch | SparseBatch, num_images: int) -> list[Arrays]:
        maps_of = self._sparse_parts if isinstance(batch, SparseBatch) else self._dense_parts
        cuts = np.array(self._share.cuts(num_images))
        cuts -= cuts[0]
        parts = []
        for maps, start, stop in zip(maps_of(batch, cuts), cuts[:-1], cuts[1:], strict=True):
            labels, weights = batch.labels[start:stop], np.ones(stop - start, np.float32)
            if start == stop:  # no operation of a network has to cope with no images
                labels, weights = np.zeros(1, np.int32), np.zeros(1, np.float32)
            parts.append((*maps, labels, weights))
        return parts

    def _dense_parts(self, batch: Any, cuts: np.ndarray) -> Iterator[Arrays]:
        for start, stop in itertools.pairwise(cuts):
            some = batch.features[start:stop]
            yield (some if stop > start else np.zeros((1, *some.shape[1:]), some.dtype),)

    def _sparse_parts(self, batch: Any, cuts: np.ndarray) -> Iterator[Arrays]:
        if len(cuts) == 2 and cuts[1]:
            yield batch.masks, batch.values
            return
        nnz = np.unpackbits(batch.masks.reshape(len(batch.masks), -1), axis=1).sum(axis=1)
        ends = np.concatenate([[0], np.cumsum(nnz, dtype=np.int64)])
        for start, stop in itertools.pairwise(cuts):
            masks = batch.masks[start:stop]
            if start == stop:
                masks = np.zeros((1, *masks.shape[1:]), np.uint8)
            yield masks, batch.values[ends[start] : ends[stop]]


def choose(
    reader: FeatureReader,
    num_classes: int,
    expand: str,
    has_gpu: bool,
    share: Share = EVERY_ROW,
) -> Feed:
    """Return the feed that a setting asks for.

    Args:
        reader: of a split.
        num_classes: labels are below it.
        expand: "host", "device", or "auto" for the device where that is a GPU and the cache sparse.
        has_gpu: what the device is.
        share: the rows of each batch that fall to this host's devices.

    Raises:
        ConfigError: "device", but the cache is dense.
    """
    return Feed(reader, num_classes, is_sparse(reader.layout, expand, has_gpu), share)


def is_sparse(layout: Layout, expand: str, has_gpu: bool) -> bool:
    """Tell whether maps are to reach the devices sparse; see `choose` for the arguments."""
    auto = "device" if has_gpu and layout.encoding == "sparse" else "host"
    return (auto if expand == "auto" else expand) == "device"
