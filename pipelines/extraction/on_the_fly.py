"""Variants made in memory from the images, for those who cannot store them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np

from pipelines.errors import ImageError, SourceError
from pipelines.extraction.inputs import Inputs, in_batches
from pipelines.images import preprocess, versions
from pipelines.images.encode import Encoder
from pipelines.storage.variants import VariantRow, VariantSet


class OnTheFly:
    """The same inputs as of stored variants, from the files of the images.

    Attributes:
        variants_s: processor seconds that making the variants took, in all threads.
    """

    name = "images"

    def __init__(self, listed: VariantSet, encoder: Encoder, protocol: preprocess.Protocol) -> None:
        """Begin.

        Args:
            listed: a set that holds no variants, but says which images can be used.
            encoder: of those images, with the codec that makes the versions.
            protocol: of the network.
        """
        self.branches = listed.names
        self.variants_s = 0.0
        self._listed, self._protocol, self._encoder = listed, protocol, encoder
        self._lock = threading.Lock()

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""
        return self._listed.num_rows()

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        """Give uint8 (batch_size, branches, side, side, 3), black where images are missing.

        Raises:
            ShardError: a shard of the list is damaged.
            SourceError: an image has changed since the list was made.
        """
        rows = self._listed.rows(split, start, stop)
        return in_batches(rows, batch_size, self.branches, self._protocol, self._fill)

    def _fill(self, number: int, row: VariantRow, array: np.ndarray) -> None:
        path = self._encoder.root / row.id
        try:
            data, pixels = self._encoder.read(row.id)
        except ImageError as error:
            raise SourceError(
                f"{path}: {error}; it could be used when it was checked: {self._mend}"
            ) from error
        if hashlib.sha256(data).digest() != row.sha256:
            raise SourceError(f"{path}: has changed since it was checked: {self._mend}")
        made = self._timed(
            self._encoder.codec.versions(pixels, versions.without_original(self.branches))
        )
        versions.fill(array[number], pixels, made, self.branches, self._protocol)

    @property
    def _mend(self) -> str:
        return f"bring it back, or delete {self._listed.folder} and extract again"

    def _timed(self, made: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass versions on, and count the time that each takes to be made."""
        while True:
            started = time.thread_time()
            version = next(made, None)
            with self._lock:
                self.variants_s += time.thread_time() - started
            if version is None:
                return
            yield version
