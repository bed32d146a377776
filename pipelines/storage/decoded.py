"""All images of a reader as float32 maps in memory, and the batches that are taken out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.storage.buffers import Buffers
from pipelines.storage.making import IDLE_BYTES, Batch


@dataclass(frozen=True)
class Decoded:
    """Images in the plan's order.

    Attributes:
        features: float32 (images, branches, *shape).
        labels: int32 (images,).
        ids: their names.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: list[str]

    @classmethod
    def gathered(cls, batches: Iterator[Batch], shape: Sequence[int]) -> Decoded:
        """Lay batches in the plan's order end to end; `shape` is that of all features."""
        features, ids = np.empty(shape, np.float32), list[str]()
        labels = np.empty(shape[0], np.int32)
        for batch in batches:
            span = slice(len(ids), len(ids) + len(batch.ids))
            features[span], labels[span] = batch.features, batch.labels
            ids += batch.ids
        return cls(features, labels, ids)

    def batches(
        self,
        wanted: Iterator[list[tuple[int, np.ndarray]]],
        window: Callable[[int], np.ndarray],
        buffers: Buffers,
    ) -> Iterator[Batch]:
        """Take batches out.

        Args:
            wanted: for each its pieces: a window's number, and int64 rows of that window.
            window: from a window's number to int64, which images its rows are.
            buffers: memory for the batches.
        """
        images: dict[int, np.ndarray] = {}  # of the window in use
        try:
            for pieces in wanted:
                images = {
                    number: images[number] if number in images else window(number)
                    for number, _ in pieces
                }
                rows = np.concatenate([images[number][some] for number, some in pieces])
                features = buffers.empty((len(rows), *self.features.shape[1:]), np.float32)
                # "raise", the default, would take them into memory of its own first.
                np.take(self.features, rows, axis=0, out=features, mode="clip")
                yield Batch(features, self.labels[rows], [self.ids[row] for row in rows])
        finally:
            buffers.rest(IDLE_BYTES)
