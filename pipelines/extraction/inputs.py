"""What goes into the frozen part, batch by batch: images with their variants, or a cached node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np

from pipelines.images import preprocess
from pipelines.networks import forward
from pipelines.storage.cache import FeatureCache
from pipelines.storage.variants import VariantRow, VariantSet


@dataclass(frozen=True)
class Inputs:
    """The inputs of one batch.

    Attributes:
        ids: the images' names.
        labels: class indices.
        load: gives the array that the forward pass takes, (batch size, branches, ...), padded;
            called in a thread.
    """

    ids: list[str]
    labels: list[int]
    load: Callable[[], np.ndarray]


class Source(Protocol):
    """Where inputs come from."""

    branches: tuple[str, ...]
    num_quarantined: int
    name: str

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        """Give rows `start` to `stop` of a split, batch by batch."""

    def published(self) -> dict[str, Any]:
        """Return what readers of a cache are told about the images: classes, split_note."""


class Images:
    """The variants of the images, decoded and resized for the network."""

    name = "images"

    def __init__(self, variants: VariantSet, protocol: preprocess.Protocol) -> None:
        self._variants = variants
        self._protocol = protocol
        self.branches = variants.names
        self.num_quarantined = variants.num_quarantined

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""
        return self._variants.num_rows()

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        """Give uint8 (batch_size, branches, side, side, 3), black where images are missing.

        Raises:
            ShardError: a shard is damaged.
        """
        for rows in _chunks(self._variants.rows(split, start, stop), batch_size):
            load = partial(
                forward.prepare,
                rows,
                self.branches,
                self._protocol,
                batch_size,
                self._variants.plan.fingerprint["max_megapixels"],
            )
            yield Inputs([row.id for row in rows], [row.label for row in rows], load)

    def published(self) -> dict[str, Any]:
        """Return what readers of a cache are told about the images."""
        details = self._variants.plan.details
        return {"classes": details["classes"], "split_note": details["note"]}


class CachedNode:
    """The feature maps of a node in front, from its cache."""

    num_quarantined = 0

    def __init__(self, cache: FeatureCache, branches: tuple[str, ...]) -> None:
        self._cache = cache
        self.name = cache.node
        self.branches = branches

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""
        return {split: self._cache.num_rows(split) for split in self._cache.splits}

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        """Give float32 (batch_size, branches, *shape), zeros where images are missing.

        Raises:
            ShardError: a shard is damaged.
        """
        reader = self._cache.reader(split, self.branches, np.arange(start, stop))
        for batch in reader.in_order(batch_size):
            load = partial(_padded, batch.features, batch_size)
            yield Inputs(list(batch.ids or ()), batch.labels.tolist(), load)

    def published(self) -> dict[str, Any]:
        """Return what readers of a cache are told about the images."""
        return {key: self._cache.details[key] for key in ("classes", "split_note")}


def _padded(maps: np.ndarray, batch_size: int) -> np.ndarray:
    if len(maps) == batch_size:
        return maps
    missing = np.zeros((batch_size - len(maps), *maps.shape[1:]), maps.dtype)
    return np.concatenate([maps, missing])


def _chunks(rows: Iterator[VariantRow], size: int) -> Iterator[list[VariantRow]]:
    while chunk := list(islice(rows, size)):
        yield chunk
