"""Dense and sparse batches, made of pieces of windows in any thread and in any order."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from pipelines.storage import cells
from pipelines.storage.buffers import Buffers
from pipelines.storage.held import Piece
from pipelines.storage.layout import Layout

IDLE_BYTES = 256 << 20  # of batches, that a reader keeps from one pass to the next
BatchT_co = TypeVar("BatchT_co", covariant=True)


@dataclass(frozen=True)
class Batch:
    """Some images with their feature maps.

    Attributes:
        features: (images, branches, *shape), unitless.
        labels: int32 (images,), class indices.
        ids: the images' names.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: list[str]


@dataclass(frozen=True)
class SparseBatch:
    """Some images with their feature maps still sparse, for expansion on the device.

    Attributes:
        masks: uint8 (images, branches, bytes), a bit a position of (channels, height, width), the
            lowest first.
        values: (nnz,) in the stored dtype, in the order of the masks' bits.
        labels: int32 (images,), class indices.
        ids: the images' names.
    """

    masks: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    ids: list[str]


@dataclass(frozen=True)
class Maps:
    """What every batch of a reader is made of.

    Attributes:
        layout: of the cache.
        branches: names, in the order of the branch axis.
    """

    layout: Layout
    branches: tuple[str, ...]


class Maker(Protocol[BatchT_co]):
    """Makes the batches of one pass: each is begun, filled piece by piece and finished."""

    def begin(self, num_images: int) -> Any:
        """Return what the pieces of a batch are written to."""

    def fill(self, begun: Any, start: int, piece: Piece) -> Any:
        """Make a piece, whose first image is image `start` of the batch."""

    def finish(self, begun: Any, pieces: Sequence[Future[Any]]) -> BatchT_co:
        """Return the batch, once all its pieces are there."""

    def close(self) -> None:
        """End the pass."""


class DenseMaker:
    """Makes dense batches, in memory that is used again."""

    def __init__(self, maps: Maps, dtype: str, buffers: Buffers) -> None:
        self._maps = maps
        self._dtype = dtype
        self._buffers = buffers

    def begin(self, num_images: int) -> Batch:
        """Return a batch of undefined content."""
        shape = (num_images, len(self._maps.branches), *self._maps.layout.shape)
        features = self._buffers.empty(shape, self._dtype)
        return Batch(features, np.empty(num_images, np.int32), [""] * num_images)

    def fill(self, begun: Batch, start: int, piece: Piece) -> None:
        """Write a piece's images."""
        span = slice(start, start + len(piece.rows))
        features, labels = begun.features[span], begun.labels[span]
        for group, part in piece.parts():
            cells.decode_into(features, part, self._maps.layout, self._maps.branches)
            labels[part.places] = group.labels[part.rows]
            for place, row in zip(part.places, part.rows, strict=True):
                begun.ids[start + place] = group.ids[row]

    def finish(self, begun: Batch, pieces: Sequence[Future[None]]) -> Batch:
        """Return the batch, once all its pieces are written."""
        for piece in pieces:
            piece.result()
        return begun

    def close(self) -> None:
        """Let most of the memory go; a batch that somebody holds keeps its own."""
        self._buffers.rest(IDLE_BYTES)


class SparseMaker:
    """Makes sparse batches."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    def begin(self, num_images: int) -> None:
        """Begin with nothing: how much memory it takes is known once the cells are read."""

    def fill(self, begun: None, start: int, piece: Piece) -> SparseBatch:
        """Return a piece as a batch."""
        found = piece.parts()
        labels, ids = np.empty(len(piece.rows), np.int32), [""] * len(piece.rows)
        for group, part in found:
            labels[part.places] = group.labels[part.rows]
            for place, row in zip(part.places, part.rows, strict=True):
                ids[place] = group.ids[row]
        parts = [part for _, part in found]
        maps = cells.take_sparse(parts, self._maps.layout, self._maps.branches)
        return SparseBatch(maps.masks, maps.values, labels, ids)

    def finish(self, begun: None, pieces: Sequence[Future[SparseBatch]]) -> SparseBatch:
        """Return the pieces end to end, once all are there."""
        found = [piece.result() for piece in pieces]
        if len(found) == 1:
            return found[0]
        return SparseBatch(
            np.concatenate([batch.masks for batch in found]),
            np.concatenate([batch.values for batch in found]),
            np.concatenate([batch.labels for batch in found]),
            [name for batch in found for name in batch.ids],
        )

    def close(self) -> None:
        """Have nothing to let go."""
