"""Workers where the devices are: a GPU that cannot be used is told; all find what one found."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from extracting import ROWS, Extract, MadeUpNetwork

from pipelines.errors import ConfigError
from pipelines.execution.engine import CrewSettings
from pipelines.execution.inline import Inline
from pipelines.extraction.crews import Places, manned
from pipelines.extraction.extractor import Extractor
from pipelines.extraction.inputs import Origin
from pipelines.extraction.network import Facts

ORIGIN = Origin(Path("images"), ("original",))
FACTS = Facts({"tensorflow": "2.99", "device": "cpu"}, False, False, "ab", {}, (), 4)


@dataclass(frozen=True)
class Described:
    """A job as extract's, that finds facts of the test's choice."""

    facts: Facts
    origin: Origin = ORIGIN
    num_workers: int = 1
    expected: Facts | None = None
    batch_size: int = 0

    def open(self) -> Extractor:
        extractor = MadeUpNetwork(Extract()).open()
        return dataclasses.replace(extractor, description=self.facts)


class Noting(Inline):
    """Keeps what it is asked for.

    Attributes:
        jobs: that were opened or renewed.
        slots: names of the places, before and behind each move.
    """

    def __init__(self, job: Any, settings: CrewSettings) -> None:
        super().__init__(job)
        self.jobs, self.slots = [job], [[slot.name for slot in settings.slots]]

    def move(self, slots) -> None:
        self.slots.append([slot.name for slot in slots])

    def renew(self, job) -> None:
        self.jobs.append(job)


@contextlib.contextmanager
def engine(job: Any, settings: CrewSettings) -> Iterator[Noting]:
    yield Noting(job, settings)


def places(devices: str = "auto", workers: int | None = None) -> Places:
    return Places(devices, workers, 2, 600.0)


def test_manned_all_behind_the_first_are_to_find_what_it_found(no_gpu, notes):
    with manned(engine, Described(FACTS), places(workers=3), ROWS, notes.say) as found:
        first, others = found.crew.jobs
        assert (first.expected, first.num_workers, first.batch_size) == (None, 3, 0)
        assert (others.expected, others.num_workers, others.batch_size) == (FACTS, 3, 4)
        assert (found.facts, found.num_workers) == (FACTS, 3)
        assert found.crew.slots == [["worker 1", "worker 2", "worker 3"]]
    assert notes.said == []


def test_manned_on_gpus_that_work_stays_there(two_gpus, notes):
    facts = dataclasses.replace(FACTS, has_gpu=True, is_built_with_gpu=True)
    with manned(engine, Described(facts), places(), ROWS, notes.say) as found:
        assert found.crew.slots == [["gpu:0", "gpu:1"]]
        assert found.num_workers == 2
    assert notes.said == []


@pytest.mark.parametrize(
    ("is_built", "why"),
    [
        (False, "TensorFlow 2.99 has been built without GPU support; install the one that has"),
        (True, "TensorFlow 2.99 cannot use it: its CUDA libraries are missing or do not fit the"),
    ],
)
def test_manned_gpu_that_cannot_be_used_is_told_and_the_cpu_taken(is_built, why, two_gpus, notes):
    facts = dataclasses.replace(FACTS, is_built_with_gpu=is_built)
    with manned(engine, Described(facts), places(workers=1), ROWS, notes.say) as found:
        assert found.crew.slots == [["gpu:0"], ["worker 1"]]
    (said,) = notes.said
    assert said.startswith(f"a GPU is there, and {why}")
    assert "bottleneck-pipeline[gpu]" in said
    assert said.endswith("; going on without it")


@pytest.mark.parametrize("devices", ["gpu", "gpu:1"])
def test_manned_gpu_that_is_asked_for_and_cannot_be_used_is_an_error(devices, two_gpus, notes):
    message = rf"devices {devices}: TensorFlow 2\.99 .* GPU .*, or ask for --devices cpu$"
    with (
        pytest.raises(ConfigError, match=message),
        manned(engine, Described(FACTS), places(devices), ROWS, notes.say),
    ):
        pass


def test_manned_on_the_cpu_looks_for_no_gpu(two_gpus, notes):
    with manned(engine, Described(FACTS), places("cpu", 2), ROWS, notes.say) as found:
        assert found.crew.slots == [["worker 1", "worker 2"]]
    assert notes.said == []
