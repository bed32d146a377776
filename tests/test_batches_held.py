"""What a reader of batches holds: the groups it reads, the memory of batches, its threads."""

from __future__ import annotations

import threading
import time
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from reading import BUDGETS, HOW, open_split, take
from shards import LAYOUTS, ROWS, damage_column, write_cache

from pipelines.errors import ShardError
from pipelines.storage import batches as unit
from pipelines.storage import buffers, cache, formats, making
from pipelines.storage.cache import FeatureCache

NUM_TRAIN = ROWS["train"]
USED = ("dense-float16", "dense-float32", "sparse-float16")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    """A cache of some layouts with the maps of its training split; no test changes them."""
    root = tmp_path_factory.mktemp("features")
    return {name: (root / name, write_cache(root / name, LAYOUTS[name])["train"]) for name in USED}


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an epoch of the tests' tiny caches of several windows."""
    monkeypatch.setattr(cache, "WINDOW_BYTES", 1_500)


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("bottleneck")]


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note every group of a Parquet shard that is read: the shard's name, the group's number."""
    found: list[tuple[str, int]] = []
    read = formats.FORMATS["parquet"].read_group

    def read_and_note(shard, group, branches):
        found.append((shard.path.name, group))
        return read(shard, group, branches)

    monkeypatch.setattr(formats.FORMATS["parquet"], "read_group", read_and_note)
    return found


def test_epoch_reads_this_window_and_begins_the_next(caches, groups_read, monkeypatch):
    monkeypatch.setattr(cache, "WINDOW_BYTES", 1)  # a group a window
    reader = open_split(caches["dense-float16"][0])
    windows = unit.epoch_windows(reader._group_rows, 1, 0, 0)
    assert windows.num_rows(0) == 1 + reader._num_ahead(1, "float32")  # all begun at once
    batches = reader.epoch(1, 0, 0)
    next(batches)
    deadline = time.monotonic() + 30
    while len(groups_read) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    batches.close()
    first, second = (reader._groups[int(windows.groups(i)[0])] for i in (0, 1))
    assert groups_read == [(group.shard.path.name, group.index) for group in (first, second)]


@pytest.fixture
def groups_alive(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[str, int]]]:
    """Note, each time that a group was read, whose cells are in memory then."""
    alive: set[tuple[str, int]] = set()
    found: list[set[tuple[str, int]]] = []
    read = formats.FORMATS["parquet"].read_group

    def read_and_note(shard, group, branches):
        rows = read(shard, group, branches)
        alive.add((shard.path.name, group))
        weakref.finalize(rows, alive.remove, (shard.path.name, group))
        found.append(set(alive))
        return rows

    monkeypatch.setattr(formats.FORMATS["parquet"], "read_group", read_and_note)
    return found


@pytest.mark.parametrize("how", ["epoch", "sparse_epoch"])
@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 30])
@pytest.mark.parametrize("window_bytes", [1, 1_500])
def test_epoch_holds_the_cells_of_a_window_a_thread_and_one_more(
    tmp_path, groups_alive, monkeypatch, how, num_threads, batch_size, window_bytes
):
    write_cache(tmp_path / "x", LAYOUTS["sparse-float16"], {"train": 150})
    monkeypatch.setattr(cache, "WINDOW_BYTES", window_bytes)
    reader = FeatureCache(tmp_path / "x").reader("train", num_threads=num_threads)
    windows = unit.epoch_windows(reader._group_rows, reader._settings.window_rows, 0, 0)
    assert len(windows) > 3 * num_threads
    window_of = {
        (reader._groups[g].shard.path.name, reader._groups[g].index): number
        for number in range(len(windows))
        for g in windows.groups(number).tolist()
    }
    for _ in take(reader, how, batch_size):
        pass
    assert len(groups_alive) == len(window_of)
    most = max(len({window_of[group] for group in alive}) for alive in groups_alive)
    assert most <= num_threads + 1


def test_epoch_memory_of_batches_is_used_again_and_let_go_at_the_end(caches, monkeypatch):
    def memory() -> int:
        """Count bytes of batches, in use or free."""
        wanted = tracemalloc.Filter(True, buffers.__file__, domain=np.lib.tracemalloc_domain)
        return sum(t.size for t in tracemalloc.take_snapshot().filter_traces([wanted]).traces)

    reader = open_split(caches["dense-float32"][0])
    monkeypatch.setattr(making, "IDLE_BYTES", 0)
    num_ahead, size = reader._num_ahead(4, "float32"), 4 * 3 * reader.layout.num_values * 4
    most = size + buffers.ALIGNMENT  # of one batch, with what lies in front of it
    tracemalloc.start()
    try:
        for _ in reader.epoch(4, 0, 0):
            assert memory() <= (num_ahead + 2) * most
        del _
        assert memory() == 0
        batches = reader.epoch(4, 0, 0)
        many = [next(batches) for _ in range(7)]  # more than a loop holds
        assert memory() >= 7 * size
        many.clear()
        assert memory() <= (num_ahead + 2 + num_ahead) * most
        *_, last = batches
        del _
        assert last.features.nbytes <= memory() < last.features.nbytes + buffers.ALIGNMENT
        del last
        assert memory() == 0
    finally:
        tracemalloc.stop()


def test_epoch_from_a_late_step_reads_nothing_of_the_windows_before(
    caches, groups_read, monkeypatch
):
    monkeypatch.setattr(cache, "WINDOW_BYTES", 1)
    reader = open_split(caches["dense-float16"][0])
    list(reader.epoch(4, 0, 0))
    every = len(groups_read)
    assert every == len(set(groups_read)) == len(reader._group_rows)
    groups_read.clear()
    assert len(list(reader.epoch(4, 0, 0, first_step=reader.num_steps(4) - 2))) == 2
    assert len(groups_read) <= 4 < every


def test_reader_of_large_batches_makes_fewer_ahead(caches, monkeypatch):
    reader = open_split(caches["dense-float32"][0])
    assert reader._num_ahead(1, "float32") == unit._AHEAD
    monkeypatch.setattr(
        unit, "_AHEAD_BYTES", 4 * NUM_TRAIN * 3 * LAYOUTS["dense-float32"].num_values
    )
    assert reader._num_ahead(NUM_TRAIN, "float32") == 1
    assert reader._num_ahead(2 * NUM_TRAIN, "float32") == 1
    assert reader._num_ahead(NUM_TRAIN // 2, "float32") == 2


@HOW
def test_reader_dropped_early_leaves_no_thread(caches, how):
    batches = take(open_split(caches["sparse-float16"][0]), how, 2)
    next(batches)
    assert reader_threads()
    del batches
    assert reader_threads() == []


def test_reader_consumer_fails_leaves_no_thread(caches):
    reader = open_split(caches["sparse-float16"][0])

    def consume():
        for _ in reader.epoch(2, 0, 0):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert reader_threads() == []


@BUDGETS
def test_reader_read_to_its_end_leaves_no_thread(caches, budget_bytes):
    assert len(list(open_split(caches["sparse-float16"][0], budget_bytes).epoch(8, 0, 0))) == 5
    assert reader_threads() == []


@HOW
def test_reader_shard_damaged_fails_in_the_consumer(tmp_path, how):
    write_cache(tmp_path / "x", LAYOUTS["sparse-float16"])
    path = sorted((tmp_path / "x").glob("train-*.parquet"))[2]
    damage_column(path, "label")
    with pytest.raises(
        ShardError, match=rf"{path.name}: damaged: .*; run `bottleneck verify --rep"
    ):
        list(take(open_split(tmp_path / "x"), how, 4))
    assert reader_threads() == []


@pytest.mark.parametrize("suffix", ["", "-tfrecord"])
@HOW
def test_reader_shard_gone_fails_in_the_consumer(tmp_path, how, suffix):
    write_cache(tmp_path / "x", LAYOUTS[f"sparse-float16{suffix}"])
    reader = open_split(tmp_path / "x")
    path = min((tmp_path / "x").glob("train-*"))
    path.unlink()
    with pytest.raises(ShardError, match=rf"{path.name}: .*No such file"):
        list(take(reader, how, 4))


@pytest.mark.parametrize("suffix", ["", "-tfrecord"])
def test_load_shard_damaged_is_an_error(tmp_path, suffix):
    write_cache(tmp_path / "x", LAYOUTS[f"dense-float32{suffix}"])
    path = min((tmp_path / "x").glob("train-*"))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ShardError, match=path.name):
        open_split(tmp_path / "x", 1 << 30)
    assert reader_threads() == []
