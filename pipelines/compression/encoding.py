"""The work of making variants, as a job for any engine; a process loads nothing but this."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.errors import ImageError
from pipelines.execution import trial
from pipelines.execution.engine import Piece, Report, Try
from pipelines.images import encode
from pipelines.images.encode import Encoder, Listed


@dataclass(frozen=True)
class Job:
    """Makes shards of variants, or tries images without keeping anything.

    Attributes:
        folder: the set's.
        encoder: makes the rows.
    """

    folder: Path
    encoder: Encoder

    def open(self) -> Job:
        """Return what works: nothing has to be made ready."""
        return self

    def work(self, pieces: Iterator[Piece], report: Report) -> None:
        """Do pieces, one after another: `Listed` become shards, rows alone are tried."""
        for piece in pieces:
            advance = partial(report.advance, piece)
            if isinstance(piece.body, Listed):
                report.done(
                    piece, encode.make_shard(self.folder, self.encoder, piece.body, advance)
                )
            else:
                report.done(piece, self._try(piece.body, advance))

    def _try(self, rows: Sequence[tuple[str, int]], advance: Callable[[int], None]) -> int:
        for name, label in rows:
            with contextlib.suppress(ImageError):  # an error is no crash
                self.encoder.encode(name, label)
            advance(0)
        return len(rows)


def without_killers(piece: Piece, ending_of: Try) -> Piece:
    """Leave out the images of a shard at which processes die (see `CrewSettings.on_crash`).

    Args:
        piece: the shard.
        ending_of: tries a piece in a process of its own.
    """
    listed: Listed = piece.body
    tried = [i for i in range(len(listed.rows)) if i not in listed.left_out]

    def ends(numbers: Sequence[int]) -> str | None:
        name = f"{piece.name}, {len(numbers)} images"
        return ending_of(Piece(name, [listed.rows[i] for i in numbers]), len(numbers) == 1)

    found = {
        tried[k]: f"ends the process that decodes it, {how}"
        for k, how in trial.find(tried, ends).items()
    }
    left_out = {**listed.left_out, **found}
    return Piece(piece.name, dataclasses.replace(listed, left_out=left_out))
