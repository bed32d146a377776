"""Images at which workers of extract die, found by trying them in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.errors import ShardError, WorkerError
from pipelines.execution import engine, local, trial
from pipelines.execution.engine import CrewSettings, Piece, Try
from pipelines.execution.slots import cpu_slots
from pipelines.extraction.cut_check import Compare, spans
from pipelines.extraction.inputs import Origin
from pipelines.extraction.questions import ProbeMaps
from pipelines.extraction.reading import Rows
from pipelines.extraction.writing import ShardWork
from pipelines.storage import probe

_MOST_NAMED = 5


class Finder:
    """Looks for the images of a piece at which workers die (see `CrewSettings.on_crash`).

    None can be left out here, as all shards count on their rows: the run ends with their names.

    Attributes:
        reading: reads images without a network; None as long as the network is not known.
    """

    def __init__(self, origin: Origin, num_rows: Mapping[str, int], hang_s: float) -> None:
        """Begin.

        Args:
            origin: of the images.
            num_rows: of each split.
            hang_s: seconds without a sign of life after which a process is taken for dead.
        """
        self.reading: engine.Job | None = None
        self._origin, self._num_rows = origin, num_rows
        self._settings = CrewSettings(cpu_slots(1), hang_s)

    def __call__(self, piece: Piece, ending_of: Try) -> Piece:
        """Return the piece: it is none of its images that ends the workers.

        Args:
            piece: at which they died.
            ending_of: tries one with the network, which takes long; unused.

        Raises:
            ShardError: images do; it names them.
        """
        reading = self.reading
        if reading is None:
            return piece
        rows = list(self._rows_of(piece))

        def ends(tried: Sequence[tuple[str, int]]) -> str | None:
            one = Piece(f"{piece.name}, {len(tried)} images", Rows(tried, is_decoded=True))
            return trial.ending_of(
                reading, self._settings.slots[0], self._settings.hang_s, one, len(tried) == 1
            )

        found = trial.find(rows, ends)
        if found:
            names = self._names(reading, [rows[i] for i in found])
            raise ShardError(self._words(dict(zip(names, found.values(), strict=True))))
        return piece

    def _rows_of(self, piece: Piece) -> Iterator[tuple[str, int]]:
        """Give split and number of the images that a piece reads."""
        body = piece.body
        if isinstance(body, ShardWork):
            yield from ((body.task.split, n) for n in range(body.task.start, body.task.stop))
        elif isinstance(body, ProbeMaps | Compare):
            num_first = probe.NUM_IMAGES if isinstance(body, ProbeMaps) else body.num_images
            for split, count in spans(self._num_rows, num_first):
                yield from ((split, n) for n in range(count))

    def _names(self, reading: engine.Job, rows: Sequence[tuple[str, int]]) -> list[str]:
        """Return what the images are called, read in a process of its own as well."""
        found = []
        with local.open_crew(reading, self._settings) as crew:
            for split, number in rows:
                name = f"image {number} of {split}"
                try:
                    found += crew.call(Piece(name, Rows([(split, number)], is_decoded=False)))
                except WorkerError:  # it is reading it that ends the process, not decoding
                    found.append(name)
        return found

    def _words(self, found: Mapping[str, str]) -> str:
        named = [f"{name} ({how})" for name, how in found.items()][:_MOST_NAMED]
        rest = f" and {len(found) - len(named)} more" if len(found) > len(named) else ""
        if self._origin.is_node:
            mend = "its cache may be damaged: run `bottleneck verify`"
        elif self._origin.encoder:
            mend = (
                "they could be used when they were checked: leave them out of the images, and "
                "extract again with --overwrite"
            )
        else:
            mend = (
                "compress could use them: leave them out of its images, and compress again with "
                "--overwrite"
            )
        return (
            f"{self._origin.path}: processes that read these images end at it: "
            f"{', '.join(named)}{rest}; {mend}"
        )
