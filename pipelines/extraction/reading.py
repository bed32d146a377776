"""The source of an origin, and the job that only reads it, where reading is on trial."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.execution.engine import Piece, Report
from pipelines.extraction.inputs import CachedNode, Images, Inputs, Origin, Source
from pipelines.extraction.on_the_fly import OnTheFly
from pipelines.images import preprocess
from pipelines.storage import variants
from pipelines.storage.cache import FeatureCache


def open_source(origin: Origin, protocol: preprocess.Protocol) -> Source:
    """Open what is read.

    Args:
        origin: which it is.
        protocol: of the network; a cached node needs none.

    Raises:
        ManifestError: it is not there, or not whole.
        ShardError: a shard is missing or cut short.
    """
    if origin.is_node:
        return CachedNode(FeatureCache(origin.path), origin.branches)
    found = variants.open_set(origin.path, origin.branches)
    if origin.encoder is not None:
        return OnTheFly(found, origin.encoder, protocol)
    return Images(found, protocol)


@dataclass(frozen=True)
class Rows:
    """Some images of a source.

    Attributes:
        rows: split and number of each; those of a split follow each other without a gap.
        is_decoded: whether their inputs are made ready, too.
    """

    rows: Sequence[tuple[str, int]]
    is_decoded: bool


@dataclass(frozen=True)
class Job:
    """Reads images and does no more; a process that does loads no network.

    Attributes:
        origin: of the inputs.
        protocol: of the network.
    """

    origin: Origin
    protocol: preprocess.Protocol

    def open(self) -> Reader:
        """Open the source.

        Raises:
            ManifestError: it is not there, or not whole.
            ShardError: a shard is missing or cut short.
        """
        return Reader(open_source(self.origin, self.protocol))


@dataclass(frozen=True)
class Reader:
    """Reads the inputs of one image after another; pieces are `Rows`, results their names."""

    source: Source

    def work(self, pieces: Iterator[Piece], report: Report) -> None:
        """Do pieces until there are no more."""
        for piece in pieces:
            names = []
            for inputs in self._inputs(piece.body.rows):
                if piece.body.is_decoded:
                    inputs.load()
                names += inputs.ids
                report.advance(piece, 0)
            report.done(piece, names)

    def _inputs(self, rows: Sequence[tuple[str, int]]) -> Iterator[Inputs]:
        for split, found in itertools.groupby(rows, key=lambda row: row[0]):
            numbers = [number for _, number in found]
            yield from self.source.inputs(split, numbers[0], numbers[-1] + 1, 1)
