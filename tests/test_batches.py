"""Batches of a split: one order from disk and from memory, from any step on."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from reading import BUDGETS, open_split, take
from shards import BRANCHES, LAYOUTS, ROWS, write_cache

from pipelines.errors import ConfigError
from pipelines.storage import batches as unit
from pipelines.storage import cache
from pipelines.storage.cache import FeatureCache
from pipelines.storage.order import Share

ALL = pytest.mark.parametrize("name", LAYOUTS)
SPARSE = pytest.mark.parametrize("name", [name for name in LAYOUTS if name.startswith("sparse")])
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


def content(batches) -> list[tuple[bytes, tuple[int, ...], list[int]]]:
    return [(b.features.tobytes(), b.features.shape, b.labels.tolist()) for b in batches]


def sparse_content(batches) -> list[tuple[bytes, bytes, list[int]]]:
    return [(b.masks.tobytes(), b.values.tobytes(), b.labels.tolist()) for b in batches]


def numbers(batches, maps: np.ndarray) -> list[int]:
    """Tell which image of `maps` each one of the batches' is."""
    known = {image.tobytes(): i for i, image in enumerate(maps)}
    assert len(known) == len(maps)
    return [known[m.tobytes()] for batch in batches for m in batch.features]


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


@ALL
def test_epoch_from_decoded_memory_is_identical(caches, name):
    folder = caches[name][0]
    streamed, decoded = open_split(folder), open_split(folder)
    decoded.decode()
    assert decoded.is_loaded
    for seed, epoch, batch_size in itertools.product((0, 5), (0, 1), (1, 7, 100)):
        found = content(decoded.epoch(batch_size, seed, epoch))
        assert found == content(streamed.epoch(batch_size, seed, epoch))
    for share in (Share(0, 1, 2), Share(1, 2, 2)):
        found = content(decoded.epoch(7, 1, 0, first_step=1, share=share))
        assert found == content(streamed.epoch(7, 1, 0, first_step=1, share=share))
    assert content(decoded.in_order(8)) == content(streamed.in_order(8))


@SPARSE
def test_sparse_epoch_of_decoded_memory_comes_from_the_shards(caches, name):
    reader = open_split(caches[name][0])
    expected = [batch.values.tobytes() for batch in reader.sparse_epoch(8, 1, 0)]
    reader.decode()
    assert [batch.values.tobytes() for batch in reader.sparse_epoch(8, 1, 0)] == expected


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own there")
@pytest.mark.parametrize("gives_way", [False, True])
def test_epoch_read_by_threads_that_give_way_is_identical(caches, gives_way):
    reader = open_split(caches[next(iter(LAYOUTS))][0], 0)
    expected = content(reader.epoch(8, 1, 0))
    if gives_way:
        reader.give_way()
    found, above = [], set()
    for batch in reader.epoch(8, 1, 0):
        found.append(batch)
        above |= {
            os.getpriority(os.PRIO_PROCESS, thread.native_id) - os.getpriority(os.PRIO_PROCESS, 0)
            for thread in threading.enumerate()
            if thread.name.startswith("bottleneck")
        }
    assert content(found) == expected
    assert above == ({10} if gives_way else {0})


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
