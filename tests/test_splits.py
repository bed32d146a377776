"""Limits, split assignment and plan order: properties over several seeds, and exact small cases."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import SourceError
from pipelines.images import splits as unit
from pipelines.images.splits import NO_SPLIT, TEST, TRAIN, VAL

SEEDS = (0, 1, 7, 2**40)
RECORDED_SPLITS = [1, 0, 0, 0, 2, 0, 1, 2, 0, 0, 0, 0]
RECORDED_ORDER = [3, 10, 1, 5, 8, 11, 9, 2, 0, 6, 4, 7]


def make_labels(sizes: list[int], seed: int = 0) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    return np.random.default_rng(seed).permutation(labels)


def no_splits(num_rows: int) -> np.ndarray:
    return np.full(num_rows, NO_SPLIT, dtype=np.int8)


def per_class(labels: np.ndarray, splits: np.ndarray) -> list[list[int]]:
    return [
        np.bincount(splits[labels == label], minlength=3).tolist() for label in np.unique(labels)
    ]


@pytest.mark.parametrize(
    ("weights", "total", "minimums", "expected"),
    [
        ([70, 15, 15], 20, [0, 0, 0], [14, 3, 3]),
        ([70, 15, 15], 10, [0, 0, 0], [7, 2, 1]),
        ([97, 2, 1], 10, [1, 1, 1], [8, 1, 1]),
        ([1, 5, 3], 2, [1, 1, 1], [0, 1, 1]),
        ([3, 3], 6, [0, 0], [3, 3]),
    ],
)
def test_apportion_known_case_gives_exact_counts(weights, total, minimums, expected):
    counts = unit.apportion(np.array(weights), total, np.array(minimums))
    assert counts.tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_apportion_any_case_is_within_one_of_the_exact_share(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        weights = rng.integers(1, 1000, size=rng.integers(1, 30))
        total = int(rng.integers(0, weights.sum() + 1))
        counts = unit.apportion(weights, total, np.zeros_like(weights))
        assert counts.sum() == total
        assert np.all(counts <= weights)
        assert np.all(np.abs(counts - weights * total / weights.sum()) < 1)


def test_apportion_tie_ranks_decide_equal_remainders():
    counts = unit.apportion(np.array([1, 1]), 1, np.zeros(2, dtype=int), np.array([1, 0]))
    assert counts.tolist() == [0, 1]


@pytest.mark.parametrize("limit", [0, 60, 1000])
def test_limit_stratified_zero_or_large_limit_keeps_all(limit):
    labels = make_labels([20, 40])
    kept = unit.limit_stratified(labels, no_splits(60), limit, seed=1)
    np.testing.assert_array_equal(kept, np.arange(60))


@pytest.mark.parametrize("seed", SEEDS)
def test_limit_stratified_keeps_proportions_in_each_split(seed):
    labels = make_labels([600, 300, 100], seed)
    splits = np.where(np.arange(1000) < 800, TRAIN, VAL).astype(np.int8)
    kept = unit.limit_stratified(labels, splits, 100, seed)
    assert len(kept) == 100
    assert np.all(np.diff(kept) > 0)
    assert np.sum(splits[kept] == TRAIN) == 80
    for split in (TRAIN, VAL):
        whole = np.bincount(labels[splits == split], minlength=3) / np.sum(splits == split)
        part = np.bincount(labels[kept][splits[kept] == split], minlength=3)
        assert np.all(np.abs(part - whole * part.sum()) < 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_limit_stratified_rare_class_keeps_one(seed):
    labels = make_labels([5000, 3, 1], seed)
    kept = unit.limit_stratified(labels, no_splits(5004), 10, seed)
    assert np.bincount(labels[kept], minlength=3).tolist() == [8, 1, 1]


def test_limit_stratified_small_limit_gives_train_every_class_and_val_a_row():
    labels = np.tile(np.arange(50), 20)
    splits = np.where(np.arange(1000) < 900, TRAIN, VAL).astype(np.int8)
    kept = unit.limit_stratified(labels, splits, 52, seed=3)
    assert len(np.unique(labels[kept][splits[kept] == TRAIN])) == 50
    assert np.sum(splits[kept] == VAL) == 2


def test_limit_stratified_under_the_class_count_keeps_the_largest_classes():
    labels = make_labels([5, 9, 7, 6])
    kept = unit.limit_stratified(labels, no_splits(27), 2, seed=0)
    assert sorted(labels[kept]) == [1, 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_limit_stratified_smaller_limit_is_a_subset(seed):
    labels = make_labels([100, 100], seed)
    small = unit.limit_stratified(labels, no_splits(200), 20, seed)
    large = unit.limit_stratified(labels, no_splits(200), 60, seed)
    assert set(small) < set(large)


def test_limit_stratified_other_seed_keeps_other_rows():
    labels = make_labels([100, 100])
    first, second = (unit.limit_stratified(labels, no_splits(200), 20, seed) for seed in (0, 1))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [1, 0, 0]),
        (2, [1, 0, 1]),
        (3, [1, 1, 1]),
        (4, [2, 1, 1]),
        (10, [7, 1, 2]),
        (20, [14, 3, 3]),
        (100, [70, 15, 15]),
    ],
)
def test_assign_splits_nothing_given_rounds_each_class_as_documented(size, expected):
    labels = make_labels([size, 40])
    result, note = unit.assign_splits(labels, no_splits(size + 40), None, seed=0)
    assert per_class(labels, result) == [expected, [28, 6, 6]]
    assert result.dtype == np.int8
    assert "70/15/15" in note


def test_assign_splits_equal_claims_go_to_test_and_val_in_turns():
    labels = make_labels([10, 10, 10, 10])
    result, _ = unit.assign_splits(labels, no_splits(40), None, seed=0)
    assert per_class(labels, result) == [[7, 1, 2], [7, 2, 1], [7, 1, 2], [7, 2, 1]]


@pytest.mark.parametrize("seed", SEEDS)
def test_assign_splits_groups_stay_together_near_the_proportions(seed):
    rng = np.random.default_rng(seed)
    labels = make_labels([300, 500, 200], seed)
    groups = rng.permutation(1000)
    for label in range(3):
        rows = np.flatnonzero(labels == label)
        groups[rows[:60]] = groups[rows[0:60:3]].repeat(3)
    result, _ = unit.assign_splits(labels, no_splits(1000), groups, seed)
    for group in np.unique(groups):
        assert len(np.unique(result[groups == group])) == 1
    assert per_class(labels, result) == [[210, 45, 45], [350, 75, 75], [140, 30, 30]]


@pytest.mark.parametrize("seed", SEEDS)
def test_assign_splits_groups_across_classes_leave_every_class_in_train(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        labels = rng.integers(0, 6, size=40)
        groups = rng.integers(0, 12, size=40)
        result, _ = unit.assign_splits(labels, no_splits(40), groups, seed)
        assert set(labels[result == TRAIN]) == set(labels)
        for group in np.unique(groups):
            assert len(np.unique(result[groups == group])) == 1


def test_assign_splits_class_of_one_group_goes_to_train_whole():
    labels = np.array([0] * 5 + [1] * 20)
    groups = np.concatenate([np.zeros(5, dtype=int), np.arange(1, 21)])
    result, _ = unit.assign_splits(labels, no_splits(25), groups, seed=0)
    assert per_class(labels, result) == [[5, 0, 0], [14, 3, 3]]


def test_assign_splits_big_groups_are_placed_first():
    groups = np.repeat([0, 1, 2], [3, 3, 14])
    labels = np.zeros(20, dtype=int)
    result, _ = unit.assign_splits(labels, no_splits(20), groups, seed=0)
    assert per_class(labels, result) == [[14, 3, 3]]


def test_assign_splits_all_given_keeps_them():
    splits = np.array([2, 0, 1, 0, 2], dtype=np.int8)
    result, note = unit.assign_splits(np.array([0, 1, 0, 0, 1]), splits, None, seed=0)
    np.testing.assert_array_equal(result, splits)
    assert note == "splits as given: train 2, val 1, test 2"


@pytest.mark.parametrize("seed", SEEDS)
def test_assign_splits_train_and_val_makes_val_test_and_holds_out_5_percent(seed):
    labels = make_labels([200, 400], seed)
    splits = np.where(np.arange(600) % 3 == 0, VAL, TRAIN).astype(np.int8)
    result, note = unit.assign_splits(labels, splits, None, seed)
    np.testing.assert_array_equal(result == TEST, splits == VAL)
    for label in range(2):
        num_train = np.sum((labels == label) & (splits == TRAIN))
        num_val = np.sum((labels == label) & (result == VAL))
        assert abs(num_val - 0.05 * num_train) <= 0.5
    assert "val images become test" in note


@pytest.mark.parametrize(("size", "expected"), [(1, 0), (2, 1), (10, 1), (30, 1), (31, 2), (60, 3)])
def test_assign_splits_train_and_test_holds_out_as_documented(size, expected):
    labels = np.array([0] * size + [1] * 100 + [0, 1])
    splits = np.array([TRAIN] * (size + 100) + [TEST] * 2, dtype=np.int8)
    result, note = unit.assign_splits(labels, splits, None, seed=0)
    assert np.sum((labels == 0) & (result == VAL)) == expected
    assert np.sum((labels == 1) & (result == VAL)) == 5
    np.testing.assert_array_equal(result == TEST, splits == TEST)
    assert "no val split given" in note


def test_assign_splits_hold_out_keeps_groups_together():
    labels = np.zeros(200, dtype=int)
    labels[100:] = 1
    splits = np.where(np.arange(200) % 10 == 9, TEST, TRAIN).astype(np.int8)
    groups = np.arange(200) // 2
    result, _ = unit.assign_splits(labels, splits, groups, seed=0)
    held = [set(result[(groups == group) & (splits == TRAIN)]) for group in np.unique(groups)]
    assert all(len(codes) == 1 for codes in held)
    assert np.sum(result == VAL) > 0


@pytest.mark.parametrize(
    ("codes", "found"),
    [([0, 0], "train 2"), ([2, 2], "test 2"), ([1, 2], "val 1, test 1")],
)
def test_assign_splits_not_enough_splits_says_what_is_there(codes, found):
    with pytest.raises(SourceError, match=rf"only splits given are {found}; expected train beside"):
        unit.assign_splits(np.array([0, 1]), np.array(codes, dtype=np.int8), None, seed=0)


def test_assign_splits_split_missing_in_some_rows_is_refused():
    splits = np.array([0, -1, 1], dtype=np.int8)
    with pytest.raises(SourceError, match="1 of 3 images have no split"):
        unit.assign_splits(np.array([0, 1, 0]), splits, None, seed=0)


def test_assign_splits_other_seed_gives_other_rows():
    labels = make_labels([100, 100])
    first, second = (unit.assign_splits(labels, no_splits(200), None, s)[0] for s in (0, 1))
    assert first.tolist() != second.tolist()


def test_assign_splits_same_seed_gives_the_recorded_rows():
    # Recorded once: NumPy promises the raw stream of PCG64, so this must never change.
    result, _ = unit.assign_splits(np.repeat([0, 1], 6), no_splits(12), None, seed=42)
    assert result.tolist() == RECORDED_SPLITS
    assert unit.plan_order(result, seed=42).tolist() == RECORDED_ORDER


@pytest.mark.parametrize(("codes", "expected"), [([-1, -1], True), ([0, 2], False)])
def test_needs_hashes_is_true_only_without_splits(codes, expected):
    assert unit.needs_hashes(np.array(codes, dtype=np.int8)) is expected


@pytest.mark.parametrize("dtype", ["U2", "S2", object])
def test_duplicates_across_splits_counts_contents_and_gives_a_pair(dtype):
    contents = np.array(["zz", "aa", "aa", "bb", "bb", "zz", "cc", "zz"], dtype=dtype)
    splits = np.array([0, 0, 0, 0, 2, 1, 1, 0], dtype=np.int8)
    assert unit.duplicates_across_splits(contents, splits) == (2, (0, 5))


def test_duplicates_across_splits_within_one_split_counts_none():
    contents = np.array(["aa", "aa", "bb", "bb"])
    splits = np.array([0, 0, 1, NO_SPLIT], dtype=np.int8)
    assert unit.duplicates_across_splits(contents, splits) == (0, None)
    assert unit.duplicates_across_splits(contents, no_splits(4)) == (0, None)


@pytest.mark.parametrize("seed", SEEDS)
def test_plan_order_is_a_permutation_with_splits_in_order(seed):
    splits = np.random.default_rng(seed).integers(0, 3, size=300).astype(np.int8)
    order = unit.plan_order(splits, seed)
    np.testing.assert_array_equal(np.sort(order), np.arange(300))
    assert np.all(np.diff(splits[order]) >= 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_plan_order_mixes_classes(seed):
    order = unit.plan_order(np.zeros(1000, dtype=np.int8), seed)
    num_of_first_half = np.sum(order[:100] < 500)
    assert 25 < num_of_first_half < 75


def test_plan_order_of_train_ignores_further_test_rows():
    splits = np.array([0] * 50 + [2] * 5, dtype=np.int8)
    more = np.append(splits, [2, 2]).astype(np.int8)
    np.testing.assert_array_equal(unit.plan_order(splits, 1)[:50], unit.plan_order(more, 1)[:50])


def test_plan_order_row_without_split_is_refused():
    with pytest.raises(SourceError, match="assign splits before"):
        unit.plan_order(np.array([0, -1], dtype=np.int8), seed=0)
