"""Behind the device: maps encoded and written into shards, one shard after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.errors import FeatureError
from pipelines.execution.engine import Piece, Report
from pipelines.extraction.times import Times
from pipelines.storage import cells, feature_writer
from pipelines.storage.cache import shard_of
from pipelines.storage.feature_writer import FeatureWriter
from pipelines.storage.plan import Plan, Receipt, Task
from pipelines.storage.rows import Shard


@dataclass(frozen=True)
class ShardWork:
    """One shard of some of the nodes.

    Attributes:
        task: the images.
        folders: of the caches that lack it, by the node's place among the network's.
        identities: of their plans, which lie in the folders.
    """

    task: Task
    folders: dict[int, Path]
    identities: dict[int, str]


@dataclass(frozen=True)
class ShardDone:
    """What came of it: a receipt for each folder, and how the time was spent."""

    receipts: list[Receipt]
    times: Times


@dataclass(frozen=True)
class Maps:
    """A batch behind the device.

    Attributes:
        ids: the images' names.
        labels: class indices.
        maps: one array a node, (batch size, branches, *shape), of which the first images count.
    """

    ids: list[str]
    labels: list[int]
    maps: list[np.ndarray]


@dataclass(frozen=True)
class End:
    """The end of a shard's batches."""

    times: Times = field(default_factory=Times)


class Writing:
    """Encodes maps and writes them, as they come: a piece, its maps, its end, the next piece."""

    def __init__(
        self, names: Sequence[str], plan_of: Callable[[Path, str], Plan], report: Report
    ) -> None:
        """Begin with nothing.

        Args:
            names: of the nodes.
            plan_of: reads the plan of a cache's folder that has an identity.
            report: told about images and shards.
        """
        self._names, self._plan_of, self._report = names, plan_of, report
        self._stack = contextlib.ExitStack()
        self._piece: Piece | None = None
        self._open: list[tuple[int, Shard, FeatureWriter]] = []

    def take(self, item: Piece | Maps | End) -> None:
        """Take the next one.

        Raises:
            FeatureError: an activation cannot be stored.
            ShardError: the disk refuses.
        """
        try:
            if isinstance(item, Maps):
                self._add(item)
            elif isinstance(item, End):
                self._finish(item.times)
            else:
                self._begin(item)
        except BaseException:
            with self._stack:  # open shards vanish, and say in words what the disk said
                raise

    def abandon(self) -> None:
        """Leave nothing of a shard that is not whole."""
        with contextlib.suppress(_Abandoned), self._stack:
            raise _Abandoned

    def _begin(self, piece: Piece) -> None:
        self._piece = piece
        work: ShardWork = piece.body
        for i, folder in work.folders.items():
            plan = self._plan_of(folder, work.identities[i])
            shard = shard_of(folder, plan, work.task.shard)
            writer = self._stack.enter_context(feature_writer.open_shard(shard))
            self._open.append((i, shard, writer))

    def _add(self, batch: Maps) -> None:
        assert self._piece is not None
        ids, labels = batch.ids, batch.labels
        for i, shard, writer in self._open:
            with naming(self._names[i]):
                rows = cells.encode(batch.maps[i][: len(ids)], shard.layout, ids)
            writer.add(ids, labels, rows)
        self._report.advance(self._piece, len(ids))

    def _finish(self, times: Times) -> None:
        assert self._piece is not None
        self._stack.close()  # they are durably there
        receipts = [writer.receipt() for _, _, writer in self._open]
        self._open = []
        self._report.done(self._piece, ShardDone(receipts, times))


class _Abandoned(Exception):
    """Ends open shards without a trace."""


@contextlib.contextmanager
def naming(node: str) -> Iterator[None]:
    """Say in an error about a map at which node it was.

    Raises:
        FeatureError: the block raised one.
    """
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"node {node}, image {error}") from error
