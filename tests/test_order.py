"""The order of an epoch: every row once, a function of seed and epoch, in bounded windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipelines.storage import order
from pipelines.storage.order import batches, epoch_windows, plain_windows

SIZES = {
    "one": [7],
    "even": [4] * 12,
    "last shorter": [8, 8, 8, 3, 8, 8, 1],
    "of one row": [1] * 30,
    "mixed": list(np.random.default_rng(0).integers(1, 40, 50)),
}
RECORDED = [2, 7, 6, 1, 0, 9, 10, 3, 5, 8, 4]


def flat(group_rows, window_rows, seed, epoch):
    """Return the epoch's rows as numbers within the split."""
    starts = np.concatenate([[0], np.cumsum(group_rows)])
    rows = []
    for window in epoch_windows(group_rows, window_rows, seed, epoch):
        spans = [np.arange(starts[g], starts[g + 1]) for g in window.groups]
        rows += np.concatenate(spans)[window.rows].tolist()
    return rows


@pytest.mark.parametrize("window_rows", [1, 5, 20, 10_000])
@pytest.mark.parametrize("group_rows", SIZES.values(), ids=SIZES)
def test_epoch_windows_every_row_comes_once(group_rows, window_rows):
    for seed, epoch in itertools.product((0, 3), (0, 1, 7)):
        assert sorted(flat(group_rows, window_rows, seed, epoch)) == list(range(sum(group_rows)))


@pytest.mark.parametrize("window_rows", [1, 5, 20, 10_000])
@pytest.mark.parametrize("group_rows", SIZES.values(), ids=SIZES)
def test_epoch_windows_hold_no_more_groups_than_needed(group_rows, window_rows):
    windows = epoch_windows(group_rows, window_rows, 1, 2)
    for i, window in enumerate(windows):
        counts = [group_rows[g] for g in window.groups]
        assert len(window.rows) == sum(counts)
        assert sum(counts[:-1]) < window_rows
        assert sum(counts) >= window_rows or i == len(windows) - 1


@pytest.mark.parametrize("group_rows", SIZES.values(), ids=SIZES)
def test_epoch_windows_starts_are_positions_in_the_epoch(group_rows):
    position = 0
    for window in epoch_windows(group_rows, 9, 1, 2):
        assert window.start == position
        position += len(window.rows)
    assert position == sum(group_rows)


def test_epoch_windows_same_seed_and_epoch_are_the_same():
    assert flat(SIZES["mixed"], 60, 5, 3) == flat(SIZES["mixed"], 60, 5, 3)


def test_epoch_windows_other_seed_or_epoch_is_another_order():
    orders = [
        tuple(flat(SIZES["mixed"], 60, seed, epoch))
        for seed, epoch in itertools.product(range(4), range(4))
    ]
    assert len(set(orders)) == 16


def test_epoch_windows_order_is_the_recorded_one():
    # A run that an older version began has to go on in the same order.
    assert flat([3, 3, 2, 3], 5, 7, 1) == RECORDED


def test_epoch_windows_groups_are_shuffled_and_rows_within_each_window():
    windows = epoch_windows([50] * 10, 100, 0, 0)
    assert [g for window in windows for g in window.groups] != list(range(10))
    for window in windows:
        assert window.rows.tolist() != list(range(100))
        # Rows of both groups are mixed, not only each group's among themselves.
        assert 10 < np.count_nonzero(window.rows[:50] < 50) < 40


def test_epoch_windows_each_window_has_a_shuffle_of_its_own():
    windows = epoch_windows([50] * 6, 50, 0, 0)
    assert len({tuple(window.rows) for window in windows}) == 6


def test_epoch_windows_first_windows_rows_are_not_the_order_of_the_groups():
    # numpy's seed sequences take (seed, epoch, 0) for (seed, epoch).
    for epoch in range(5):
        windows = epoch_windows([1] * 40, 40, 0, epoch)
        assert windows[0].groups.tolist() != windows[0].rows.tolist()


def test_plain_windows_are_the_plans_order():
    windows = plain_windows([3, 1, 2])
    assert [window.groups.tolist() for window in windows] == [[0], [1], [2]]
    assert [window.rows.tolist() for window in windows] == [[0, 1, 2], [0], [0, 1]]
    assert [window.start for window in windows] == [0, 3, 4]


def positions(windows, batch_size, first_row=0):
    """Return for each batch the positions of its rows within the epoch."""
    place = [
        {int(row): window.start + i for i, row in enumerate(window.rows)} for window in windows
    ]
    return [
        [place[number][int(row)] for number, rows in pieces for row in rows]
        for pieces in batches(windows, batch_size, first_row)
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 40, 100])
@pytest.mark.parametrize("group_rows", SIZES.values(), ids=SIZES)
def test_batches_are_the_windows_rows_cut_evenly(group_rows, batch_size):
    num_rows = sum(group_rows)
    expected = [
        list(range(start, min(start + batch_size, num_rows)))
        for start in range(0, num_rows, batch_size)
    ]
    assert positions(epoch_windows(group_rows, 9, 1, 2), batch_size) == expected
    assert positions(plain_windows(group_rows), batch_size) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_from_any_row_are_those_behind_it(batch_size):
    windows = epoch_windows(SIZES["last shorter"], 9, 1, 2)
    for first_row in range(sum(SIZES["last shorter"]) + 2):
        rows = [row for batch in positions(windows, batch_size, first_row) for row in batch]
        assert rows == list(range(first_row, sum(SIZES["last shorter"])))


def test_batches_have_one_piece_a_window():
    windows = plain_windows([3, 1, 2, 4])
    assert [[number for number, _ in pieces] for pieces in batches(windows, 5)] == [
        [0, 1, 2],
        [2, 3],
    ]


def test_batches_without_rows_are_none():
    assert list(batches(plain_windows([]), 5)) == []
    assert list(batches(epoch_windows([], 5, 0, 0), 5)) == []


def as_documented(group_rows, window_rows, seed, epoch):
    """Follow docs/cache-format.md step by step: each window's groups, rows and start."""

    def generator(*key):
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    windows, gathered, start = [], [], 0
    permuted = generator(seed, epoch).permutation(len(group_rows)).tolist()
    for i, group in enumerate(permuted):
        gathered.append(group)
        count = sum(group_rows[g] for g in gathered)
        if count >= window_rows or i == len(permuted) - 1:
            rows = generator(seed, epoch, 1 + len(windows)).permutation(count)
            windows.append((gathered, rows.tolist(), start))
            gathered, start = [], start + count
    return windows


@pytest.mark.parametrize("window_rows", [1, 5, 20, 64, 10_000])
@pytest.mark.parametrize("group_rows", SIZES.values(), ids=SIZES)
def test_epoch_windows_are_as_documented(group_rows, window_rows):
    windows = epoch_windows(group_rows, window_rows, 3, 4)
    found = [(window.groups.tolist(), window.rows.tolist(), window.start) for window in windows]
    assert found == as_documented(group_rows, window_rows, 3, 4)
    for i, (groups, rows, start) in enumerate(found):
        assert windows.groups(i).tolist() == groups
        assert (windows.num_rows(i), windows.starts[i]) == (len(rows), start)


def test_batches_from_a_late_row_draw_no_window_before_it(monkeypatch):
    drawn, generator = [], order._generator

    def note(*key):
        drawn.append(key)
        return generator(*key)

    monkeypatch.setattr(order, "_generator", note)
    windows = epoch_windows([4] * 1000, 8, 1, 2)
    assert drawn == [(1, 2)]  # the groups' order
    found = batches(windows, 5, first_row=8 * 300 + 1)
    assert drawn == [(1, 2)]
    assert [number for number, _ in next(found)] == [300]
    assert [number for number, _ in next(found)] == [300, 301]
    assert drawn == [(1, 2), (1, 2, 301), (1, 2, 302)]
