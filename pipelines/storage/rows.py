"""What passes between a file format and the rest: a shard's place, and rows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.storage.cells import Cells
from pipelines.storage.columns import GrowingCells
from pipelines.storage.layout import Layout


@dataclass(frozen=True)
class Shard:
    """One shard of a cache, as its plan and its receipt say it is.

    Attributes:
        path: the file.
        place: names cache and shard, and stands in the file too: files that changed places or
            come from another cache are told by it.
        layout: what its columns hold.
        num_rows: images in it.
        footer_sha256: of the file's end that has no checksum of its own (Parquet).
    """

    path: Path
    place: str
    layout: Layout
    num_rows: int = 0
    footer_sha256: str | None = None

    @property
    def num_groups(self) -> int:
        """Groups of `layout.rows_per_group` images."""
        return -(-self.num_rows // self.layout.rows_per_group)

    def group_rows(self, group: int) -> int:
        """Return the images of a group; the last one may have fewer than the others."""
        start = group * self.layout.rows_per_group
        return min(self.layout.rows_per_group, self.num_rows - start)


@dataclass(frozen=True)
class Rows:
    """Some images, their maps as cells.

    Attributes:
        labels: int32 (images,), class indices.
        cells: by column.
        ids: the images' names.
    """

    labels: np.ndarray
    cells: Mapping[str, Cells]
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Rows:
        """Return rows `start` to `stop`, without a copy."""
        cells = {name: column.part(start, stop) for name, column in self.cells.items()}
        return Rows(self.labels[start:stop], cells, self.ids[start:stop])

    def taken(self, rows: np.ndarray) -> Rows:
        """Return some rows, copied: nothing else of these is kept alive."""
        cells = {name: column.taken(rows) for name, column in self.cells.items()}
        return Rows(self.labels[rows], cells, [self.ids[row] for row in rows])

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Lay rows end to end."""
        if not parts:
            return cls(np.empty(0, np.int32), {}, [])
        if len(parts) == 1:
            return parts[0]
        cells = {
            name: Cells.joined([part.cells[name] for part in parts]) for name in parts[0].cells
        }
        ids = [name for part in parts for name in part.ids]
        return cls(np.concatenate([part.labels for part in parts]), cells, ids)

    @classmethod
    def gathered(cls, parts: Iterable[Rows]) -> Rows:
        """Lay rows with names end to end as they come, and keep none of them."""
        labels: list[np.ndarray] = []
        ids: list[str] = []
        cells: dict[str, GrowingCells] = {}
        for part in parts:
            labels.append(part.labels.copy())
            ids += part.ids
            for name, column in part.cells.items():
                cells.setdefault(name, GrowingCells()).add(column)
        every = np.concatenate([*labels, np.empty(0, np.int32)])
        return cls(every, {name: column.taken() for name, column in cells.items()}, ids)
