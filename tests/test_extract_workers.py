"""Extract by workers: the same bytes however many they are, and whatever they lose."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from extracting import Extract, InProcess, MadeUpNetwork, files, fill

from pipelines.errors import FeatureError, ShardError, WorkerError
from pipelines.execution import inline, local
from pipelines.execution.engine import CrewSettings, Engine, Piece
from pipelines.execution.shares import Share
from pipelines.execution.slots import cpu_slots
from pipelines.extraction import job
from pipelines.extraction.writing import ShardWork
from pipelines.progress import Silent
from pipelines.storage.formats import FORMATS
from pipelines.storage.layout import FORMAT_VERSION
from pipelines.storage.manifest import ShardFolder

ROWS = {"train": 23, "val": 4}
HANG_S = 60.0


class Counted(Silent):
    """Adds up what is reported as done."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.total, self.done = total, done

    def advance(self, count: int) -> None:
        self.done += count


@pytest.fixture(params=FORMATS)
def extract(request: pytest.FixtureRequest) -> Extract:
    return Extract(request.param, shards=6, rows=ROWS)


def clean(extract: Extract, tmp_path: Path) -> Mapping[str, bytes]:
    """What an extract comes to in turn, in this process."""
    fill(tmp_path / "clean", extract)
    return files(tmp_path / "clean")


def here(threads: int, in_flight: int) -> Engine:
    """Work in this process, with so many threads and batches at once."""

    def engine(work: MadeUpNetwork, settings: CrewSettings):
        return inline.open_crew(
            dataclasses.replace(work, threads=threads, in_flight=in_flight), settings
        )

    return engine


def elsewhere(num_workers: int, threads: int = 0, deaths: Path | None = None) -> Engine:
    """Work in so many processes, of so many threads each, which die as a file says."""

    def engine(work: MadeUpNetwork, settings: CrewSettings):
        network = dataclasses.replace(work, threads=threads, in_flight=1 + (threads > 1))
        return local.open_crew(
            InProcess(network, deaths), CrewSettings(cpu_slots(num_workers), HANG_S)
        )

    return engine


@pytest.mark.parametrize(("threads", "in_flight"), [(1, 1), (3, 1), (0, 2), (2, 2), (2, 5)])
def test_extract_threads_and_batches_at_once_change_no_byte(threads, in_flight, extract, tmp_path):
    progress = Counted()
    done = fill(tmp_path / "a", extract, progress, engine=here(threads, in_flight))
    assert files(tmp_path / "a") == clean(extract, tmp_path)
    assert (progress.total, progress.done, done.is_whole) == (27, 27, True)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("how", ["kill", "lose"])
def test_extract_workers_that_die_or_lose_their_device_change_no_byte(
    how, threads, extract, tmp_path
):
    (tmp_path / "deaths").write_text(f"2 {how}")
    progress, engine = Counted(), elsewhere(2, threads, tmp_path / "deaths")
    assert fill(tmp_path / "a", extract, progress, engine=engine).is_whole
    assert (tmp_path / "deaths").read_text() == f"0 {how}"
    assert files(tmp_path / "a") == clean(extract, tmp_path)
    assert progress.done == progress.total == 27


def test_extract_workers_that_die_again_and_again_stop_it_and_it_goes_on(extract, tmp_path):
    (tmp_path / "deaths").write_text("99 kill")
    with pytest.raises(WorkerError, match="3 worker processes died at it, the last one by SIGKILL"):
        fill(tmp_path / "a", extract, engine=elsewhere(1, 0, tmp_path / "deaths"))
    assert not [*(tmp_path / "a").rglob("*.tmp")], "nothing half is left"
    fill(tmp_path / "a", extract)
    assert files(tmp_path / "a") == clean(extract, tmp_path)


@pytest.mark.parametrize("threads", [1, 3])
def test_worker_hears_what_fails_at_its_last_shard_while_it_waits_for_the_next(
    threads, extract, tmp_path
):
    fill(tmp_path, extract)
    plan = ShardFolder(tmp_path / "pool").read_plan("features", FORMAT_VERSION)
    piece = Piece("last", ShardWork(plan.tasks[-1], {1: tmp_path / "pool"}, {1: plan.identity}))
    is_over, waited_for_nothing = threading.Event(), []

    def pieces() -> Iterator[Piece]:
        yield piece
        waited_for_nothing.append(not is_over.wait(HANG_S))

    class Full:
        def advance(self, piece: Piece, count: int) -> None:
            pass

        def done(self, piece: Piece, result: object) -> None:
            raise ShardError("the disk is full")

    extractor = dataclasses.replace(MadeUpNetwork(extract), threads=threads).open()
    with pytest.raises(ShardError, match="the disk is full"):
        extractor.work(pieces(), Full())
    assert waited_for_nothing == []
    is_over.set()


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("image", ["train/020", "train/080", "val/003"])  # of the probe, last ones
def test_extract_activation_that_is_no_number_is_told_by_a_worker_as_it_is_here(
    image, threads, extract, tmp_path
):
    words = f"^node front, image {image}, branch q050: an activation is not a finite number; "
    large = dataclasses.replace(extract, rows={"train": 90, "val": 4})
    with pytest.raises(FeatureError, match=words):
        fill(tmp_path / "a", large, spoiled={image: math.nan}, engine=elsewhere(2, threads))
    assert not [*(tmp_path / "a").rglob("*.tmp")]
    fill(tmp_path / "a", large)
    assert files(tmp_path / "a") == clean(large, tmp_path)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_extract_shares_in_any_order_end_with_the_same_bytes(order, extract, tmp_path):
    for number, index in enumerate(order):
        progress = Counted()
        done = fill(tmp_path / "a", extract, progress, way=job.Way(4, Share(index, 3)))
        assert done.is_whole == (number == 2)
        assert [*(tmp_path / "a").glob("*/manifest.json")] == [] or done.is_whole
        assert progress.done == progress.total, "of the share"
    assert files(tmp_path / "a") == clean(extract, tmp_path)


def test_extract_shares_again_and_again_do_nothing_more(extract, tmp_path):
    rng = np.random.default_rng(3)
    for index in [*range(5), *rng.integers(0, 5, 4).tolist()]:
        done = fill(tmp_path / "a", extract, way=job.Way(4, Share(index, 5)))
    assert (done.num_images, done.is_whole) == (0, True)
    assert files(tmp_path / "a") == clean(extract, tmp_path)


def test_extract_more_shares_than_shards_have_nothing_to_do(extract, tmp_path):
    for index in range(9):
        done = fill(tmp_path / "a", extract, way=job.Way(4, Share(index, 9)))
        assert done.num_images > 0 or index > 5
    assert done.is_whole
    assert files(tmp_path / "a") == clean(extract, tmp_path)
