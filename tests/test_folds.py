"""Folds of all images, and a cache read as one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from caches import make_cache, read_split

from pipelines.errors import ConfigError
from pipelines.evaluation import folds
from pipelines.evaluation.folds import TEST, TRAIN, VAL, Fold, FoldedCache
from pipelines.networks.backbones import Backbone
from pipelines.storage import cache as cache_module
from pipelines.storage.cache import FeatureCache

CLASSES = ("ant", "bee", "cow", "doe")
COUNTS = (31, 7, 50, 12)
ROWS = {"train": 44, "val": 20, "test": 30}
NO_NETWORK = Backbone("none", None, 8, "raw", "none", "0" * 64, True, 4)
HONESTY = pytest.mark.parametrize("is_honest", [True, False], ids=["honest", "thesis"])
FOLDS = pytest.mark.parametrize("num_folds", [2, 3, 5, 7])


def make_labels(counts=COUNTS, seed: int = 1) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return np.random.default_rng(seed).permutation(labels)


def make(num_folds=5, seed=0, is_honest=True, labels=None, val_share=0.2) -> list[Fold]:
    labels = make_labels() if labels is None else labels
    return folds.make(labels, CLASSES, num_folds, seed, val_share, is_honest)


def rows_of(found: list[Fold]) -> list[dict[str, list[int]]]:
    return [{name: rows.tolist() for name, rows in fold.rows.items()} for fold in found]


@FOLDS
@HONESTY
def test_folds_report_on_every_image_once(num_folds, is_honest):
    found = make(num_folds, is_honest=is_honest)
    assert [fold.number for fold in found] == list(range(1, num_folds + 1))
    reported = np.concatenate([fold.rows[TEST] for fold in found])
    assert sorted(reported.tolist()) == list(range(sum(COUNTS)))


@FOLDS
def test_honest_fold_has_every_image_in_one_split(num_folds):
    for fold in make(num_folds):
        assert list(fold.rows) == [TRAIN, VAL, TEST]
        every = np.concatenate(list(fold.rows.values()))
        assert sorted(every.tolist()) == list(range(sum(COUNTS)))
        assert all(len(rows) for rows in fold.rows.values())


@FOLDS
def test_thesis_fold_selects_on_the_images_it_reports_on(num_folds):
    for fold in make(num_folds, is_honest=False):
        np.testing.assert_array_equal(fold.rows[VAL], fold.rows[TEST])
        every = np.concatenate([fold.rows[TRAIN], fold.rows[TEST]])
        assert sorted(every.tolist()) == list(range(sum(COUNTS)))


@HONESTY
def test_rows_rise_and_are_int64(is_honest):
    for fold in make(is_honest=is_honest):
        for rows in fold.rows.values():
            assert rows.dtype == np.int64
            assert (np.diff(rows) > 0).all()


@FOLDS
@pytest.mark.parametrize("seed", range(3))
def test_folds_differ_by_one_image_at_most_in_all_and_in_each_class(num_folds, seed):
    labels = make_labels()
    found = make(num_folds, seed, labels=labels)
    sizes = [len(fold.rows[TEST]) for fold in found]
    assert max(sizes) - min(sizes) <= 1
    by_class = np.array([np.bincount(labels[fold.rows[TEST]], minlength=4) for fold in found])
    assert (np.ptp(by_class, axis=0) <= 1).all()
    assert by_class.min() >= 1
    np.testing.assert_array_equal(by_class.sum(axis=0), COUNTS)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_val_is_that_share_of_each_class_of_the_rest(share):
    labels = make_labels()
    for fold in make(labels=labels, val_share=share):
        rest = np.concatenate([fold.rows[TRAIN], fold.rows[VAL]])
        num_rest = np.bincount(labels[rest], minlength=4)
        num_val = np.bincount(labels[fold.rows[VAL]], minlength=4)
        expected = [max(1, round(share * num)) for num in num_rest.tolist()]
        assert num_val.tolist() == expected


@pytest.mark.parametrize(("share", "num_val"), [(0.0, 1), (1.0, 3)])
def test_val_leaves_every_class_images_on_both_sides(share, num_val):
    labels = make_labels((8, 8, 8, 8))
    for fold in make(2, labels=labels, val_share=share):
        assert np.bincount(labels[fold.rows[VAL]]).tolist() == [num_val] * 4
        assert np.bincount(labels[fold.rows[TRAIN]]).tolist() == [4 - num_val] * 4


def test_val_a_class_of_one_image_in_the_rest_is_learnt_from():
    labels = make_labels((2, 9, 9, 9))
    for fold in make(2, labels=labels):
        assert 0 in labels[fold.rows[TRAIN]]
        assert 0 not in labels[fold.rows[VAL]]


@HONESTY
def test_folds_follow_from_the_seed_alone(is_honest):
    first, again, other = (make(seed=seed, is_honest=is_honest) for seed in (3, 3, 4))
    assert rows_of(first) == rows_of(again)
    for here, there in zip(rows_of(first), rows_of(other), strict=True):
        for split in (TRAIN, VAL, TEST):
            assert here[split] != there[split]


def test_protocols_report_on_the_same_parts():
    for honest, thesis in zip(make(), make(is_honest=False), strict=True):
        np.testing.assert_array_equal(honest.rows[TEST], thesis.rows[TEST])


def test_val_is_drawn_anew_in_every_fold():
    chosen = [set(fold.rows[VAL].tolist()) for fold in make()]
    assert len({frozenset(rows) for rows in chosen}) == len(chosen)


@pytest.mark.parametrize(
    ("number", "num_folds", "name"),
    [
        (3, 5, "seed-4-fold-3-of-5"),
        (3, 10, "seed-4-fold-03-of-10"),
        (10, 10, "seed-4-fold-10-of-10"),
    ],
)
def test_name_sorts_like_the_number(number, num_folds, name):
    assert Fold(number, num_folds, 4, {}).name == name


@pytest.mark.parametrize(
    ("counts", "num_folds", "words"),
    [
        (COUNTS, 8, r"--folds 8: class bee has 7 images; give 2 to 7$"),
        (COUNTS, 1, r"--folds 1: class bee has 7 images; give 2 to 7$"),
        ((5, 5, 1, 5), 2, r"--folds 2: class cow has 1 image; every fold needs one; add images"),
        ((5, 5, 5, 0), 2, r"--folds 2: class doe has 0 images; every fold needs one"),
    ],
)
@HONESTY
def test_folds_that_lack_a_class_are_refused(counts, num_folds, words, is_honest):
    with pytest.raises(ConfigError, match=words) as caught:
        make(num_folds, labels=make_labels(counts), is_honest=is_honest)
    assert caught.value.is_usage


def test_folds_without_an_image_to_select_on_are_refused():
    labels = make_labels((2, 2, 2, 2))
    with pytest.raises(ConfigError, match="--folds 2: leaves one image of each class to learn"):
        make(2, labels=labels)
    assert len(make(2, labels=labels, is_honest=False)) == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A cache of three splits; no test changes it."""
    path = tmp_path_factory.mktemp("features") / "avg_pool"
    make_cache(path, NO_NETWORK, (2, 3), classes=CLASSES, rows=ROWS)
    return path


@pytest.fixture(scope="module")
def every(folder):
    """All images, the splits laid end to end: features, labels, ids."""
    cache = FeatureCache(folder)
    parts = [read_split(cache, split) for split in ROWS]
    features, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return features, labels, [name for part in parts for name in part[2]]


def in_folds(every, **changed) -> list[Fold]:
    return make(labels=every[1], **{"num_folds": 3, **changed})


def test_read_labels_gives_names_and_labels_of_all_splits(folder, every):
    ids, labels = folds.read_labels(FeatureCache(folder))
    assert ids == every[2]
    assert len(set(ids)) == sum(ROWS.values())
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, every[1])


@HONESTY
def test_folded_cache_read_in_order_gives_exactly_the_folds_rows(folder, every, is_honest):
    features, labels, ids = every
    for fold in in_folds(every, is_honest=is_honest):
        cache = FoldedCache(folder, fold)
        assert cache.splits == (TRAIN, VAL, TEST)
        for split, rows in fold.rows.items():
            found = read_split(cache, split)
            np.testing.assert_array_equal(found[0], features[rows])
            np.testing.assert_array_equal(found[1], labels[rows])
            assert found[2] == [ids[row] for row in rows]
            assert cache.num_rows(split) == len(rows)


def open_ways(cache: FeatureCache, branches="all"):
    """Open the training split streamed, and in memory as cells and as maps."""
    streamed = cache.split(TRAIN, branches, 0)
    as_cells = cache.split(TRAIN, branches, 1 << 30)
    as_maps = cache.split(TRAIN, branches, 1 << 30, is_decoded=True)
    assert [one.is_loaded for one in (streamed, as_cells, as_maps)] == [False, True, True]
    return streamed, as_cells, as_maps


@pytest.mark.parametrize("epoch", [0, 1])
def test_folded_cache_in_training_order_gives_each_row_once_from_disk_and_memory(
    folder, every, epoch, monkeypatch
):
    monkeypatch.setattr(cache_module, "WINDOW_BYTES", 1_500)  # several windows an epoch
    fold = in_folds(every)[1]
    rows = fold.rows[TRAIN]
    known = {every[0][row].tobytes(): row for row in rows}
    assert len(known) == len(rows)
    orders = []
    for reader in open_ways(FoldedCache(folder, fold)):
        assert reader.num_rows == len(rows)
        seen = []
        for batch in reader.epoch(8, 5, epoch):
            numbers = [known[maps.tobytes()] for maps in batch.features]
            np.testing.assert_array_equal(batch.labels, every[1][numbers])
            seen += numbers
        orders.append(seen)
    assert sorted(orders[0]) == rows.tolist() != orders[0]
    assert orders[0] == orders[1] == orders[2]


def test_folded_cache_epochs_have_orders_of_their_own(folder, every):
    reader = FoldedCache(folder, in_folds(every)[0]).split(TRAIN, "all", 0)
    orders = [
        b"".join(batch.features.tobytes() for batch in reader.epoch(8, 5, epoch))
        for epoch in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]


def test_folded_cache_of_some_branches_gives_these(folder, every):
    fold = in_folds(every)[2]
    found, _, _ = read_split(FoldedCache(folder, fold), VAL, ["q050", "original"])
    np.testing.assert_array_equal(found, every[0][fold.rows[VAL]][:, [0, 2]])


def test_folded_cache_of_a_cache_without_val_has_one(tmp_path):
    path = tmp_path / "avg_pool"
    rows = {"train": 40, "test": 12}
    cache = make_cache(path, NO_NETWORK, (4,), classes=CLASSES[:2], rows=rows)
    ids, labels = folds.read_labels(cache)
    for fold in folds.make(labels, CLASSES[:2], 2, 0, 0.2, True):
        found = FoldedCache(path, fold)
        assert found.splits == (TRAIN, VAL, TEST)
        assert read_split(found, VAL)[2] == [ids[row] for row in fold.rows[VAL]]


def test_folded_cache_takes_less_memory_than_the_whole(folder, every):
    fold = in_folds(every)[0]
    own, whole = FoldedCache(folder, fold), FeatureCache(folder)
    share = own.resident_bytes(TRAIN, "all") / len(fold.rows[TRAIN])
    assert share == pytest.approx(whole.resident_bytes(TRAIN, "all") / ROWS[TRAIN], rel=0.02)


def test_folded_cache_fingerprint_is_the_caches_and_the_folds(folder, every):
    plain = FeatureCache(folder).fingerprint
    first, same = (FoldedCache(folder, in_folds(every)[0]).fingerprint for _ in range(2))
    assert first == same
    assert {key: value for key, value in first.items() if key != "fold"} == plain
    others = [
        in_folds(every)[1],
        in_folds(every, seed=1)[0],
        in_folds(every, num_folds=4)[0],
        in_folds(every, is_honest=False)[0],
        in_folds(every, val_share=0.4)[0],
    ]
    parts = {TRAIN: np.arange(50), VAL: np.arange(50, 72), TEST: np.arange(72, 94)}
    others += [Fold(1, 3, 0, parts), Fold(1, 3, 0, {**parts, VAL: parts[TEST]})]
    prints = [first, *(FoldedCache(folder, fold).fingerprint for fold in others)]
    assert all(one != other for i, one in enumerate(prints) for other in prints[:i])


def test_folded_cache_some_rows_of_a_split_are_refused(folder, every):
    cache = FoldedCache(folder, in_folds(every)[0])
    with pytest.raises(ValueError, match="a whole split at a time"):
        cache.reader(TRAIN, rows=np.arange(3))
    with pytest.raises(ValueError, match="a whole split at a time"):
        cache.reader([TRAIN, VAL])


def make_groups(labels: np.ndarray, seed: int = 2) -> np.ndarray:
    """Put a third of the images into groups of two or three, some of two classes."""
    groups = np.arange(len(labels))
    some = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 3]
    groups[some] = some[np.arange(len(some)) // 3 * 3]
    return groups


@FOLDS
@HONESTY
def test_images_of_a_group_are_in_one_split_of_every_fold(num_folds, is_honest):
    labels = make_labels((60, 60, 60, 60))
    groups = make_groups(labels)
    assert len(np.unique(groups)) < len(labels) - 40
    for fold in folds.make(labels, CLASSES, num_folds, 0, 0.2, is_honest, groups):
        test, train = (set(groups[fold.rows[name]].tolist()) for name in (TEST, TRAIN))
        assert not test & train
        if is_honest:
            assert not set(groups[fold.rows[VAL]].tolist()) & (test | train)
        every = np.concatenate([fold.rows[TRAIN], fold.rows[TEST], *([fold.rows[VAL]] * is_honest)])
        assert sorted(every.tolist()) == list(range(len(labels)))
        assert len(np.unique(labels[fold.rows[TEST]])) == 4


def test_groups_of_one_image_each_change_nothing():
    labels = make_labels()
    names = np.random.default_rng(0).permutation(len(labels))
    alone = folds.make(labels, CLASSES, 5, 0, 0.2, True, names)
    assert rows_of(alone) == rows_of(make(labels=labels))


def test_class_of_fewer_groups_than_folds_is_refused_in_words():
    labels = np.repeat(np.arange(4), 6).astype(np.int32)
    groups = np.arange(24)
    groups[6:11] = 6  # five of six bees are the same
    words = "--folds 3: class bee has 6 images, 2 that are not the same bytes as another; give 2 to"
    with pytest.raises(ConfigError, match=words):
        folds.make(labels, CLASSES, 3, 0, 0.2, True, groups)
