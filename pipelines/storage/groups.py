"""Groups: the images of a shard that are read together, and which of them are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import FeatureError, ShardError
from pipelines.storage import cells, formats
from pipelines.storage.order import starts
from pipelines.storage.rows import Rows, Shard


@dataclass(frozen=True)
class Group:
    """Images of a shard that are read together.

    Attributes:
        shard: the file.
        index: of the group in it.
        rows: int64, those of the group that are wanted; None for all.
    """

    shard: Shard
    index: int
    rows: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        """Wanted images."""
        return self.shard.group_rows(self.index) if self.rows is None else len(self.rows)


class Groups:
    """The groups of a cache's shards, each made when it is asked for: there may be a million.

    Attributes:
        shards: whose groups they are.
        num_rows: int64 (groups,), wanted images of each; groups without any are left out.
    """

    def __init__(self, shards: Sequence[Shard], wanted: np.ndarray | None = None) -> None:
        """Count the groups.

        Args:
            shards: of one cache, laid end to end.
            wanted: int64, ascending, which of their images; None for all.
        """
        self.shards = shards
        size = shards[0].layout.rows_per_group if shards else 1
        counts = np.array([shard.num_rows for shard in shards], np.int64)
        self._firsts = starts(-(-counts // size))  # each shard's first group
        every = np.full(self._firsts[-1], size, np.int64)
        is_used = counts > 0
        every[self._firsts[1:][is_used] - 1] = (counts[is_used] - 1) % size + 1
        self._starts = starts(every)
        self._wanted = wanted
        self._cuts = self._starts if wanted is None else np.searchsorted(wanted, self._starts)
        sizes = np.diff(self._cuts)
        self._numbers = np.flatnonzero(sizes)
        self.num_rows = sizes[self._numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Group]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Group:
        number = self._numbers[index]
        shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
        rows = None
        if self._wanted is not None:
            start, stop = self._cuts[number : number + 2]
            rows = self._wanted[start:stop] - self._starts[number]
        return Group(self.shards[shard], int(number - self._firsts[shard]), rows)


def count_rows(groups: Sequence[Group] | Groups) -> np.ndarray:
    """Return the wanted images of each group, int64 (groups,)."""
    if isinstance(groups, Groups):
        return groups.num_rows
    return np.array([group.num_rows for group in groups], np.int64)


def read_group(group: Group, branches: Sequence[str]) -> Rows:
    """Read the wanted images of a group, their cells checked to fit the layout and each other.

    Raises:
        ShardError: the shard is damaged.
    """
    shard = group.shard
    try:
        rows = formats.of(shard.layout).read_group(shard, group.index, branches)
        cells.check_shape(rows.cells, shard.layout, branches)
    except FeatureError as error:
        raise ShardError(f"{shard.path}: {error}; {formats.MEND}") from error
    return rows if group.rows is None else rows.taken(group.rows)
