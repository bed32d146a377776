"""Batches of a split: one order from disk and from memory, from any step on, and no thread left."""

from __future__ import annotations

import itertools
import threading
import time
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shards import BRANCHES, LAYOUTS, ROWS, damage_column, write_cache

from pipelines.errors import ConfigError, ShardError
from pipelines.storage import batches as unit
from pipelines.storage import buffers, cache, formats, making
from pipelines.storage.batches import FeatureReader
from pipelines.storage.cache import FeatureCache

ALL = pytest.mark.parametrize("name", LAYOUTS)
SPARSE = pytest.mark.parametrize("name", [name for name in LAYOUTS if name.startswith("sparse")])
HOW = pytest.mark.parametrize("how", ["epoch", "in_order", "sparse_epoch", "sparse_in_order"])
BUDGETS = pytest.mark.parametrize("budget_bytes", [0, 1 << 30], ids=["streamed", "resident"])
NUM_TRAIN = ROWS["train"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    """A cache of each layout with the maps of its training split; no test changes them."""
    root = tmp_path_factory.mktemp("features")
    return {
        name: (root / name, write_cache(root / name, LAYOUTS[name])["train"]) for name in LAYOUTS
    }


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an epoch of the tests' tiny caches of several windows."""
    monkeypatch.setattr(cache, "WINDOW_BYTES", 1_500)


def open_split(folder: Path, budget_bytes: int = 0, branches=BRANCHES) -> FeatureReader:
    return FeatureCache(folder).split("train", branches, budget_bytes)


def take(reader: FeatureReader, how: str, batch_size: int) -> Any:
    """Begin to read in one of four ways."""
    arguments = (batch_size, 0, 0) if how.endswith("epoch") else (batch_size,)
    return getattr(reader, how)(*arguments)


def content(batches) -> list[tuple[bytes, tuple[int, ...], list[int]]]:
    return [(b.features.tobytes(), b.features.shape, b.labels.tolist()) for b in batches]


def sparse_content(batches) -> list[tuple[bytes, bytes, list[int]]]:
    return [(b.masks.tobytes(), b.values.tobytes(), b.labels.tolist()) for b in batches]


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("bottleneck")]


def numbers(batches, maps: np.ndarray) -> list[int]:
    """Tell which image of `maps` each one of the batches' is."""
    known = {image.tobytes(): i for i, image in enumerate(maps)}
    assert len(known) == len(maps)
    return [known[m.tobytes()] for batch in batches for m in batch.features]


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


@ALL
@BUDGETS
def test_in_order_is_the_plans_order_with_labels_and_ids(caches, name, budget_bytes):
    folder, maps = caches[name]
    found = list(open_split(folder, budget_bytes).in_order(8))
    assert [len(batch.labels) for batch in found] == [8, 8, 8, 8, 5]
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in found]), maps)
    labels = np.concatenate([batch.labels for batch in found])
    assert labels.tolist() == [i % 5 for i in range(NUM_TRAIN)]
    assert labels.dtype == np.int32
    ids = [name for batch in found for name in batch.ids]
    assert ids == [f"img-{i}" for i in range(NUM_TRAIN)]


@ALL
@BUDGETS
def test_epoch_every_image_comes_once_with_its_label_and_id(caches, name, budget_bytes):
    folder, maps = caches[name]
    found = list(open_split(folder, budget_bytes).epoch(8, seed=1, epoch=0))
    order = numbers(found, maps)
    assert sorted(order) == list(range(NUM_TRAIN))
    assert order != sorted(order)
    assert [label for batch in found for label in batch.labels] == [i % 5 for i in order]
    assert [name for batch in found for name in batch.ids] == [f"img-{i}" for i in order]


@ALL
def test_epoch_from_disk_and_from_memory_are_identical(caches, name):
    streamed, loaded = (open_split(caches[name][0], budget) for budget in (0, 1 << 30))
    assert (streamed.is_loaded, loaded.is_loaded) == (False, True)
    for seed, epoch, batch_size in itertools.product((0, 5), (0, 1), (1, 7, 100)):
        found = content(streamed.epoch(batch_size, seed, epoch))
        assert found == content(loaded.epoch(batch_size, seed, epoch))
        assert len(found) == streamed.num_steps(batch_size)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "tfrecord" not in name])
def test_epoch_of_both_formats_is_identical(caches, name):
    first, second = (open_split(caches[n][0]) for n in (name, f"{name}-tfrecord"))
    assert content(first.epoch(5, 2, 1)) == content(second.epoch(5, 2, 1))


@ALL
def test_epoch_number_of_threads_changes_nothing(caches, name):
    made = FeatureCache(caches[name][0])
    found = [content(made.reader("train", num_threads=count).epoch(5, 2, 1)) for count in (1, 2, 5)]
    assert found[0] == found[1] == found[2]


def test_epoch_spans_several_windows_of_several_groups_in_these_tests(caches):
    reader = open_split(caches["sparse-float16"][0])
    windows = unit.epoch_windows(reader._group_rows, reader._settings.window_rows, 0, 0)
    assert len(windows) > 2
    assert max(len(window.groups) for window in windows) > 1


@BUDGETS
@pytest.mark.parametrize(
    ("name", "batch_size"),
    [*((name, 5) for name in LAYOUTS), *(("sparse-float16", size) for size in (1, 4, 16, 37, 50))],
)
def test_epoch_from_every_step_is_the_tail_of_the_whole(caches, name, batch_size, budget_bytes):
    reader = open_split(caches[name][0], budget_bytes)
    whole = content(reader.epoch(batch_size, seed=2, epoch=3))
    assert len(whole) == reader.num_steps(batch_size) == -(-NUM_TRAIN // batch_size)
    for step in range(len(whole) + 1):
        assert content(reader.epoch(batch_size, 2, 3, first_step=step)) == whole[step:], step


@SPARSE
def test_sparse_epoch_from_every_step_is_the_tail_of_the_whole(caches, name):
    reader = open_split(caches[name][0])
    whole = sparse_content(reader.sparse_epoch(5, seed=2, epoch=3))
    for step in range(len(whole) + 1):
        found = sparse_content(reader.sparse_epoch(5, 2, 3, first_step=step))
        assert found == whole[step:], step


def test_epoch_other_seed_or_epoch_is_another_order(caches):
    folder, maps = caches["dense-float16"]
    reader = open_split(folder)
    orders = [
        tuple(numbers(reader.epoch(8, seed, epoch), maps))
        for seed, epoch in itertools.product(range(3), range(3))
    ]
    assert len(set(orders)) == 9
    assert orders[4] == tuple(numbers(reader.epoch(8, 1, 1), maps))


@ALL
@BUDGETS
@pytest.mark.parametrize("branches", [("q010",), ("original", "q050"), ("q050", "original")])
def test_epoch_some_branches_change_no_order_and_are_in_the_caches(
    caches, name, budget_bytes, branches
):
    folder, _ = caches[name]
    everything = open_split(folder, budget_bytes).epoch(8, 0, 0)
    reader = open_split(folder, budget_bytes, branches)
    chosen = [BRANCHES.index(branch) for branch in reader.branches]
    assert chosen == sorted(BRANCHES.index(branch) for branch in branches)
    for batch, whole in zip(reader.epoch(8, 0, 0), everything, strict=True):
        np.testing.assert_array_equal(batch.features, whole.features[:, chosen])


@SPARSE
@BUDGETS
def test_sparse_epoch_is_the_dense_one_before_expansion(caches, name, budget_bytes):
    reader = open_split(caches[name][0], budget_bytes)
    factor = 4 if reader.layout.dtype == "uint8" else 1
    dense = list(reader.epoch(8, 1, 1))
    sparse = list(reader.sparse_epoch(8, 1, 1))
    for batch, found in zip(dense, sparse, strict=True):
        maps = batch.features.transpose(0, 1, 4, 2, 3).reshape(len(batch.labels), 3, -1)
        bits = np.unpackbits(found.masks, axis=2, bitorder="little")[..., : maps.shape[2]]
        np.testing.assert_array_equal(bits, maps != 0)
        np.testing.assert_array_equal(found.values, factor * maps[maps != 0])
        np.testing.assert_array_equal(found.labels, batch.labels)


@pytest.mark.parametrize("how", ["sparse_epoch", "sparse_in_order"])
def test_sparse_batches_of_a_dense_cache_are_refused(caches, how):
    reader = open_split(caches["dense-float16"][0])
    with pytest.raises(ConfigError, match="the cache's encoding is dense; read dense batches"):
        take(reader, how, 4)


@ALL
@pytest.mark.parametrize("how", ["epoch", "in_order"])
def test_batches_are_float32_or_as_stored_where_that_is_asked(caches, name, how):
    reader, stored = open_split(caches[name][0]), LAYOUTS[name].dtype
    assert next(take(reader, how, 4)).features.dtype == np.float32
    arguments = (4, 0, 0) if how == "epoch" else (4,)
    assert next(getattr(reader, how)(*arguments, dtype=stored)).features.dtype == stored
    with pytest.raises(ConfigError, match=f"maps are stored as {stored}; read that or float32"):
        next(getattr(reader, how)(*arguments, dtype="float64"))


def test_reader_of_no_rows_gives_no_batches(caches):
    reader = FeatureCache(caches["sparse-float16"][0]).reader("train", rows=np.empty(0))
    assert (reader.num_rows, reader.num_steps(4)) == (0, 0)
    for how in ("epoch", "in_order", "sparse_epoch", "sparse_in_order"):
        assert list(take(reader, how, 4)) == []


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
    monkeypatch.setattr(making, "_IDLE_BYTES", 0)
    num_ahead, size = reader._num_ahead(4, "float32"), 4 * 3 * reader.layout.num_values * 4
    tracemalloc.start()
    try:
        for _ in reader.epoch(4, 0, 0):
            assert memory() <= (num_ahead + 2) * size
        del _
        assert memory() == 0
        batches = reader.epoch(4, 0, 0)
        many = [next(batches) for _ in range(7)]  # more than a loop holds
        assert memory() >= 7 * size
        many.clear()
        assert memory() <= (num_ahead + 2 + num_ahead) * size
        *_, last = batches
        del _
        assert memory() == last.features.nbytes
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
