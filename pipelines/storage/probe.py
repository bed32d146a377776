"""The choice of a cache's layout from the first images, before any shard is written.

The images' maps pass through batch by batch and are not kept. For uint8 they pass twice: scales
come first, sizes need them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.storage import cells, formats
from pipelines.storage.dtypes import Ranges
from pipelines.storage.layout import ENCODINGS, Layout

NUM_IMAGES = 64
_PAYS = 0.95  # a mask costs time: it has to save so much
_GROUP_BYTES = 12 << 20  # of cells, read together; not of files, whose order must be the same


@dataclass(frozen=True)
class Choice:
    """What a probe found.

    Attributes:
        layout: the whole layout.
        row_bytes: what an image takes on disk in it, about.
        details: for plan.json: num_images, bytes in each encoding, and the reason in words.
    """

    layout: Layout
    row_bytes: float
    details: dict[str, Any]


class Probe:
    """Measures the maps of one node."""

    def __init__(self, asked: Layout) -> None:
        """Begin a probe.

        Args:
            asked: shape, branches, dtype and format; the encoding is that asked for, or "auto".
        """
        self._layout = asked
        self._ranges: Ranges | None = None
        self._sizes = dict.fromkeys(ENCODINGS, 0)
        self._cell_bytes = dict.fromkeys(ENCODINGS, 0)
        self._num_images = 0

    @property
    def needs_ranges(self) -> bool:
        """Tell whether all maps must be shown to `see` before any is shown to `measure`."""
        return self._layout.dtype == "uint8"

    def see(self, maps: np.ndarray, names: Sequence[str] | None = None) -> None:
        """Take the ranges of some maps, float32 (images, branches, *shape).

        Raises:
            FeatureError: a value is not finite.
        """
        cells.check_finite(maps, self._layout.branches, names)
        ranges = Ranges.of(maps)
        self._ranges = ranges if self._ranges is None else self._ranges.joined(ranges)

    def measure(self, maps: np.ndarray, names: Sequence[str] | None = None) -> None:
        """Take what some maps would take on disk, float32 (images, branches, *shape).

        Raises:
            FeatureError: a value cannot be stored.
        """
        if self._ranges is not None and self._layout.scales is None:
            scales, zero_points = self._ranges.quantisation()
            self._layout = dataclasses.replace(self._layout, scales=scales, zero_points=zero_points)
        size_of = formats.of(self._layout).compressed_size
        for encoding in ENCODINGS:
            layout = dataclasses.replace(self._layout, encoding=encoding)
            columns = cells.encode(maps, layout, names).cells.values()
            self._sizes[encoding] += sum(size_of(column) for column in columns)
            self._cell_bytes[encoding] += sum(len(column.data) for column in columns)
        self._num_images += len(maps)

    def choice(self) -> Choice:
        """Return the layout."""
        asked = self._layout.encoding
        pays = self._sizes["sparse"] <= _PAYS * self._sizes["dense"]
        encoding = ("sparse" if pays else "dense") if asked == "auto" else asked
        num_images = max(1, self._num_images)
        row_bytes = max(1.0, self._sizes[encoding] / num_images)
        cell_bytes = max(1.0, self._cell_bytes[encoding] / num_images)
        layout = dataclasses.replace(
            self._layout,
            encoding=encoding,
            rows_per_group=max(1, int(_GROUP_BYTES / cell_bytes)),
        )
        measured = " against ".join(
            f"{self._sizes[name] / num_images / 1000:.1f} kB {name}"
            for name in sorted(ENCODINGS, key=lambda name: name != encoding)
        )
        saves_less = f"simpler, sparse saves less than {1 - _PAYS:.0%}"
        why = "as asked" if asked != "auto" else "the smaller" if pays else saves_less
        details = {
            "num_images": self._num_images,
            "size_bytes": self._sizes,
            "reason": f"{encoding} is {why}: {measured} an image on the first {self._num_images}",
        }
        return Choice(layout, row_bytes, details)
