"""How the feature maps of one node are stored: the numbers, the encoding, the columns.

Format version 2; a row an image. A map becomes a few binary cells:

    dense     the values, (height, width, channels), split by byte: all first bytes, all second ...
    sparse    `mask`, a bit a position, and the values that are not zero, split by byte; both over
              (channels, height, width), since a channel's neighbours are much alike
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import ConfigError

FORMAT_VERSION = 2
DTYPES = ("float32", "float16", "uint8")
ENCODINGS = ("sparse", "dense")
_WORD_BITS = 64  # masks are whole words, so that a reader can take 64 positions at once


@dataclass(frozen=True)
class Layout:
    """How the feature maps of one node are stored.

    Attributes:
        shape: of one map, (height, width, channels) or (channels,).
        branches: names, in the order of the branch axis.
        dtype: "float32", "float16" or "uint8", of the stored values.
        encoding: "sparse" or "dense".
        format: "parquet" or "tfrecord".
        rows_per_group: images that are read together; the last group of a shard may have fewer.
        scales: uint8 only: float32 a channel, what one step of the stored number is worth.
        zero_points: uint8 only: how many of the 255 steps of a channel lie below zero.
        version: of the format; 1 is what the first release wrote.
    """

    shape: tuple[int, ...]
    branches: tuple[str, ...]
    dtype: str
    encoding: str
    format: str
    rows_per_group: int
    scales: tuple[float, ...] | None = None
    zero_points: tuple[int, ...] | None = None
    version: int = FORMAT_VERSION

    @classmethod
    def from_json(cls, details: Mapping[str, Any], version: int) -> Layout:
        """Build a layout from plan.json's details and format version."""
        scales, zero_points = details.get("scales"), details.get("zero_points")
        return cls(
            tuple(details["shape"]),
            tuple(details["branches"]),
            details["dtype"],
            details["encoding"],
            details.get("format", "parquet"),
            details["rows_per_group"],
            None if scales is None else tuple(scales),
            None if zero_points is None else tuple(zero_points),
            version,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what plan.json's details say of the layout."""
        value = dataclasses.asdict(self)
        del value["version"]
        return {key: item for key, item in value.items() if item is not None}

    @property
    def num_values(self) -> int:
        """Numbers in one map."""
        return int(np.prod(self.shape))

    @property
    def num_channels(self) -> int:
        """Length of the last axis."""
        return self.shape[-1]

    @property
    def num_positions(self) -> int:
        """Pixels of one map."""
        return self.num_values // self.num_channels

    @property
    def itemsize(self) -> int:
        """Bytes of one stored value."""
        return np.dtype(self.dtype).itemsize

    @property
    def mask_bytes(self) -> int:
        """Bytes of one mask: a bit a value, in whole words of 64."""
        return -(-self.num_values // _WORD_BITS) * _WORD_BITS // 8

    @property
    def raw_bytes(self) -> int:
        """Bytes of one map as plain numbers of the stored dtype."""
        return self.num_values * self.itemsize

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the cells that one map becomes."""
        planes = tuple(f"byte{i}" for i in range(self.itemsize))
        return ("mask", *planes) if self.encoding == "sparse" else planes

    def check_dtype(self, asked: str) -> None:
        """Refuse to read maps as another dtype than float32 or the stored one.

        Raises:
            ConfigError: `asked` is neither.
        """
        if asked not in ("float32", self.dtype):
            raise ConfigError(f"maps are stored as {self.dtype}; read that or float32, not {asked}")

    def columns(self, branches: Sequence[str]) -> list[str]:
        """Return the names of the columns that hold some branches, branch by branch."""
        return [f"{branch}.{part}" for branch in branches for part in self.parts]
