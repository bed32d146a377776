"""Made-up scores, judged as eval judges a network's; alone it prints its peak memory in MB."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.analysis.naming import MEAN, TOPOLOGY
from pipelines.evaluation import figures, image_lists, predictions
from pipelines.evaluation.figures import Asked
from pipelines.evaluation.scoring import BATCH_SIZE, Scores
from pipelines.evaluation.tally import Tally

_KINDS = 4  # different batches, given again and again: drawing them is not what is measured
_SIGNAL = 4.0


@dataclass(frozen=True)
class Size:
    """How many scores.

    Attributes:
        images: of the set.
        branches: that the default model is run on.
        classes: of the set.
    """

    images: int
    branches: int
    classes: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the branches."""
        return ("original", *(f"b{number:02d}" for number in range(1, self.branches)))


def batches(size: Size) -> Iterator[Scores]:
    """Give scores of all images, batch by batch."""
    rng = np.random.default_rng(0)
    shape = (BATCH_SIZE, size.branches, size.classes)
    drawn = [rng.normal(0, 2, shape).astype(np.float32) for _ in range(_KINDS)]
    for start in range(0, size.images, BATCH_SIZE):
        number = min(BATCH_SIZE, size.images - start)
        default = drawn[start // BATCH_SIZE % _KINDS][:number]
        labels = rng.integers(0, size.classes, number).astype(np.int32)
        topology = default[:, 0].copy()
        topology[np.arange(number), labels] += _SIGNAL
        by_name = {TOPOLOGY: topology, MEAN: default.mean(axis=1)}
        ids = [f"val/{start + row:08d}.JPEG" for row in range(number)]
        yield Scores(ids, labels, default, by_name, None, default[:, 1:])


def judge(size: Size) -> float:
    """Tally, write and sum up all of them; return the seconds that took, without making them."""
    classes = tuple(f"class {number}" for number in range(size.classes))
    texts = figures.texts(size.names, size.branches) | {TOPOLOGY: "made up"}
    asked = Asked(size.names, classes, texts, {}, (1, 5), 0)
    tally = Tally(size.classes, 0)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "predictions.parquet"
        started = time.perf_counter()
        made_s = 0.0
        with predictions.open_writer(path, size.names, (MEAN,), False, lambda: None) as writer:
            waiting = time.perf_counter()
            for scores in batches(size):
                made_s += time.perf_counter() - waiting
                writer.add(tally.add(scores))
                waiting = time.perf_counter()
        image_lists.write(Path(name) / "images", path, size.names, classes, None)
        figures.figures(tally, asked)
        return time.perf_counter() - started - made_s


def read_once(size: Size) -> float:
    """Look at each of these scores once, for its highest; return the seconds that took."""
    seconds = 0.0
    for scores in batches(size):
        started = time.perf_counter()
        for values in (scores.default, scores.by_name[TOPOLOGY], scores.swapped):
            if values is not None:
                values.max(axis=-1)
        seconds += time.perf_counter() - started
    return seconds


def main() -> None:
    """Judge, and print the peak."""
    judge(Size(*map(int, sys.argv[1:4])))
    # Not getrusage: its peak begins with what the parent held when it forked.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak_kb,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(int(peak_kb) * 1.024 / 1000)


if __name__ == "__main__":
    main()
