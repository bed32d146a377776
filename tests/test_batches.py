"""Batches of a split: one order from disk and from memory, from any step on, and no thread left."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from shards import BRANCHES, LAYOUTS, ROWS, damage_column, write_cache

from pipelines.errors import ShardError
from pipelines.storage import batches as unit
from pipelines.storage import cache
from pipelines.storage.batches import Batch, SplitReader
from pipelines.storage.cache import FeatureCache

ALL = pytest.mark.parametrize("name", LAYOUTS)
IN_MEMORY = 1 << 30


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
    monkeypatch.setattr(cache, "WINDOW_BYTES", 5_000)


def open_split(folder: Path, budget_bytes: int = 0, branches=BRANCHES) -> SplitReader:
    return FeatureCache(folder).split("train", branches, budget_bytes)


def content(batches) -> list[tuple[bytes, tuple[int, ...], list[int]]]:
    """Return what batches hold; float16 and float32 of the same numbers are the same."""
    return [
        (batch.features.astype(np.float32).tobytes(), batch.features.shape, batch.labels.tolist())
        for batch in batches
    ]


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bottleneck-reader"]


def numbers(batches, maps: np.ndarray) -> list[int]:
    """Tell which image of `maps` each one of the batches' is."""
    known = {image.tobytes(): i for i, image in enumerate(maps)}
    assert len(known) == len(maps)
    return [known[m.astype(np.float32).tobytes()] for batch in batches for m in batch.features]


@ALL
@pytest.mark.parametrize("budget_bytes", [0, IN_MEMORY])
def test_in_order_is_the_plans_order(caches, name, budget_bytes):
    folder, maps = caches[name]
    found = list(open_split(folder, budget_bytes).in_order(8))
    assert [len(batch.labels) for batch in found] == [8, 8, 8, 8, 5]
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in found]), maps)
    labels = np.concatenate([batch.labels for batch in found])
    assert labels.tolist() == [i % 5 for i in range(ROWS["train"])]
    assert labels.dtype == np.int32


@ALL
def test_in_order_from_disk_has_the_ids(caches, name):
    found = open_split(caches[name][0]).in_order(8)
    ids = [name for batch in found for name in batch.ids]
    assert ids == [f"img-{i}" for i in range(ROWS["train"])]


@ALL
@pytest.mark.parametrize("budget_bytes", [0, IN_MEMORY])
def test_epoch_every_image_comes_once_with_its_label(caches, name, budget_bytes):
    folder, maps = caches[name]
    found = list(open_split(folder, budget_bytes).epoch(8, seed=1, epoch=0))
    order = numbers(found, maps)
    assert sorted(order) == list(range(ROWS["train"]))
    assert order != sorted(order)
    assert [label for batch in found for label in batch.labels] == [i % 5 for i in order]
    assert all(batch.ids is None for batch in found)


@ALL
def test_epoch_from_disk_and_from_memory_are_identical(caches, name):
    streamed, loaded = (open_split(caches[name][0], budget) for budget in (0, IN_MEMORY))
    assert (streamed.is_loaded, loaded.is_loaded) == (False, True)
    for seed, epoch, batch_size in itertools.product((0, 5), (0, 1), (1, 7, 100)):
        found = content(streamed.epoch(batch_size, seed, epoch))
        assert found == content(loaded.epoch(batch_size, seed, epoch))
        assert len(found) == streamed.num_steps(batch_size)


def test_epoch_spans_several_windows_in_these_tests(caches):
    reader = open_split(caches["sparse-float16"][0])
    windows = unit.epoch_windows(reader._group_rows, reader._window_rows, 0, 0)
    assert len(windows) > 2
    assert max(len(window.groups) for window in windows) > 1


@pytest.mark.parametrize("budget_bytes", [0, IN_MEMORY])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 16, 37, 50])
def test_epoch_from_every_step_is_the_tail_of_the_whole(caches, batch_size, budget_bytes):
    reader = open_split(caches["sparse-float16"][0], budget_bytes)
    whole = content(reader.epoch(batch_size, seed=2, epoch=3))
    assert len(whole) == reader.num_steps(batch_size) == -(-ROWS["train"] // batch_size)
    for step in range(len(whole) + 1):
        assert content(reader.epoch(batch_size, 2, 3, first_step=step)) == whole[step:], step


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
@pytest.mark.parametrize("budget_bytes", [0, IN_MEMORY])
@pytest.mark.parametrize("branches", [("q010",), ("original", "q050"), ("q050", "original")])
def test_epoch_some_branches_are_those_in_the_order_asked(caches, name, budget_bytes, branches):
    folder, _ = caches[name]
    everything = open_split(folder, budget_bytes).epoch(8, 0, 0)
    some = open_split(folder, budget_bytes, branches).epoch(8, 0, 0)
    chosen = [BRANCHES.index(branch) for branch in branches]
    for batch, whole in zip(some, everything, strict=True):
        np.testing.assert_array_equal(batch.features, whole.features[:, chosen])


def test_load_keeps_the_stored_dtype(caches):
    for name, (folder, _) in caches.items():
        batch = next(open_split(folder, IN_MEMORY).in_order(4))
        assert batch.features.dtype == LAYOUTS[name].dtype


@pytest.mark.parametrize("how", ["epoch", "in_order"])
def test_reader_dropped_early_leaves_no_thread(caches, how):
    reader = open_split(caches["sparse-float16"][0])
    batches = reader.epoch(2, 0, 0) if how == "epoch" else reader.in_order(2)
    next(batches)
    assert len(reader_threads()) == 1
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


def test_reader_read_to_its_end_leaves_no_thread(caches):
    assert len(list(open_split(caches["sparse-float16"][0]).epoch(8, 0, 0))) == 5
    assert reader_threads() == []


@pytest.mark.parametrize("num_ahead", [1, 3])
def test_ahead_reads_a_bounded_number_of_batches(num_ahead):
    made = []

    def batches():
        for i in range(50):
            made.append(i)
            yield Batch(np.zeros(1), np.full(1, i))

    ahead = unit._ahead(batches(), num_ahead)
    for step in range(5):
        assert next(ahead).labels.tolist() == [step]
        time.sleep(0.05)  # let the thread run as far as it may
        assert len(made) == step + 1 + num_ahead, "one with the consumer, the others ahead"
    ahead.close()


def test_reader_of_large_batches_reads_one_ahead(caches, monkeypatch):
    reader = open_split(caches["dense-float32"][0])
    assert reader._num_ahead(1) == unit._AHEAD
    monkeypatch.setattr(unit, "_AHEAD_BYTES", reader.decoded_bytes)
    assert reader._num_ahead(reader.num_rows) == 1
    assert reader._num_ahead(2 * reader.num_rows) == 1
    assert reader._num_ahead(reader.num_rows // 2) == 2


@pytest.mark.parametrize("how", ["epoch", "in_order"])
def test_reader_shard_damaged_fails_in_the_consumer(tmp_path, how):
    write_cache(tmp_path / "x", LAYOUTS["sparse-float16"])
    reader = open_split(tmp_path / "x")
    path = sorted((tmp_path / "x").glob("train-*.parquet"))[2]
    damage_column(path, "label")
    batches = reader.epoch(4, 0, 0) if how == "epoch" else reader.in_order(4)
    with pytest.raises(ShardError, match=rf"{path.name}: damaged: .*; delete it and run the stage"):
        list(batches)
    assert reader_threads() == []


def test_reader_column_lost_from_the_footer_fails_in_the_consumer(tmp_path):
    write_cache(tmp_path / "x", LAYOUTS["sparse-float16"])
    path = sorted((tmp_path / "x").glob("train-*.parquet"))[0]
    path.write_bytes(path.read_bytes().replace(b"q010.counts", b"q110.counts"))
    with pytest.raises(ShardError, match=rf"{path.name}: damaged: no binary column q010\.counts"):
        list(open_split(tmp_path / "x").in_order(4))


def test_reader_shard_gone_fails_in_the_consumer(tmp_path):
    write_cache(tmp_path / "x", LAYOUTS["dense-float16"])
    reader = open_split(tmp_path / "x")
    path = sorted((tmp_path / "x").glob("train-*.parquet"))[0]
    path.unlink()
    with pytest.raises(ShardError, match=rf"{path.name}: cannot be opened"):
        list(reader.in_order(4))


def test_load_shard_damaged_is_an_error(tmp_path):
    write_cache(tmp_path / "x", LAYOUTS["dense-float32"])
    path = sorted((tmp_path / "x").glob("train-*.parquet"))[0]
    damage_column(path, "label")
    with pytest.raises(ShardError, match=rf"{path.name}: damaged"):
        open_split(tmp_path / "x", IN_MEMORY)


def test_reader_cells_of_another_shape_are_a_damaged_shard(tmp_path):
    write_cache(tmp_path / "x", LAYOUTS["dense-float16"])
    plan = tmp_path / "x" / "plan.json"
    text = plan.read_text(encoding="utf-8")
    plan.write_text(text.replace('"dtype": "float16"', '"dtype": "float32"'), encoding="utf-8")
    with pytest.raises(ShardError, match=r"x: branch original: \d+ numbers, expected \d+"):
        list(open_split(tmp_path / "x").in_order(4))
