"""What goes into the frozen part, batch by batch: images with their variants, or a cached node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from pipelines.images import preprocess
from pipelines.images.encode import Encoder
from pipelines.networks import forward
from pipelines.storage.cache import FeatureCache
from pipelines.storage.variants import VariantRow, VariantSet


@dataclass(frozen=True)
class Origin:
    """What is read: variants, variants made in memory, or the cache of a node in front.

    Attributes:
        path: the folder.
        branches: that are run.
        is_node: whether it is a cache.
        encoder: makes variants of the images, where they are stored nowhere.
    """

    path: Path
    branches: tuple[str, ...]
    is_node: bool = False
    encoder: Encoder | None = None


@dataclass(frozen=True)
class Inputs:
    """The inputs of one batch.

    Attributes:
        ids: the images' names.
        labels: class indices.
        make: gives the array that the forward pass takes, (batch size, branches, ...), with zeros
            where images are missing.
        parts: each puts something into that array, an image for instance; in any thread and order.
    """

    ids: list[str]
    labels: list[int]
    make: Callable[[], np.ndarray]
    parts: Sequence[Callable[[np.ndarray], None]] = ()

    def load(self) -> np.ndarray:
        """Return the whole array."""
        array = self.make()
        for part in self.parts:
            part(array)
        return array


class Source(Protocol):
    """Where inputs come from."""

    branches: tuple[str, ...]
    name: str

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        """Give rows `start` to `stop` of a split, batch by batch."""


class Images:
    """The variants of the images, decoded and resized for the network."""

    name = "images"

    def __init__(self, variants: VariantSet, protocol: preprocess.Protocol) -> None:
        self._variants = variants
        self._protocol = protocol
        self.branches = variants.names

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""
        return self._variants.num_rows()

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        """Give uint8 (batch_size, branches, side, side, 3), black where images are missing.

        Raises:
            ShardError: a shard is damaged.
            ManifestError: the set's codec is one that this program does not know.
        """
        decoding = forward.Decoding.of_set(self._variants.plan.fingerprint)
        fill = partial(_fill, branches=self.branches, protocol=self._protocol, decoding=decoding)
        rows = self._variants.rows(split, start, stop)
        yield from in_batches(rows, batch_size, self.branches, self._protocol, fill)


class CachedNode:
    """The feature maps of a node in front.

    Attributes:
        cache: that holds them.
    """

    def __init__(self, cache: FeatureCache, branches: tuple[str, ...]) -> None:
        self.cache = cache
        self.name = cache.node
        self.branches = branches

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""
        return {split: self.cache.num_rows(split) for split in self.cache.splits}

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        """Give float32 (batch_size, branches, *shape), zeros where images are missing.

        Raises:
            ShardError: a shard is damaged.
        """
        reader = self.cache.reader(split, self.branches, np.arange(start, stop))
        for batch in reader.in_order(batch_size):
            make = partial(padded, batch.features, batch_size)
            yield Inputs(list(batch.ids or ()), batch.labels.tolist(), make)


def padded(maps: np.ndarray, batch_size: int) -> np.ndarray:
    """Return maps with zeros where images are missing; the same array where none is."""
    if len(maps) == batch_size:
        return maps
    missing = np.zeros((batch_size - len(maps), *maps.shape[1:]), maps.dtype)
    return np.concatenate([maps, missing])


def _fill(
    number: int,
    row: VariantRow,
    array: np.ndarray,
    branches: Sequence[str],
    protocol: preprocess.Protocol,
    decoding: forward.Decoding,
) -> None:
    forward.prepare_image(row, branches, protocol, decoding, array[number])


def in_batches(
    rows: Iterator[VariantRow],
    batch_size: int,
    branches: Sequence[str],
    protocol: preprocess.Protocol,
    fill: Callable[[int, VariantRow, np.ndarray], None],
) -> Iterator[Inputs]:
    """Give uint8 (batch_size, branches, side, side, 3), black where images are missing.

    Args:
        rows: the images.
        batch_size: so many at once.
        branches: versions of each.
        protocol: of the network.
        fill: puts the versions of one image into its place, by number, in the array.
    """
    shape = (batch_size, len(branches), protocol.size, protocol.size, 3)
    make = partial(np.zeros, shape, np.uint8)
    while chunk := list(islice(rows, batch_size)):
        parts = [partial(fill, i, row) for i, row in enumerate(chunk)]
        yield Inputs([row.id for row in chunk], [row.label for row in chunk], make, parts)
