"""Work in threads: results in order, a bounded look-ahead, nothing left behind."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from pipelines.execution import threads
from pipelines.execution.threads import num_cores, ordered_map


def test_num_cores_is_what_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert num_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("lookahead", [0, 1, 3, 100])
@pytest.mark.parametrize("workers", [1, 4])
def test_ordered_map_results_are_in_the_items_order(workers, lookahead):
    def slower_at_first(i: int) -> int:
        time.sleep(0.01 if i < 3 else 0)
        return i * i

    results = list(ordered_map(slower_at_first, range(12), workers, lookahead))
    assert results == [i * i for i in range(12)]


def test_ordered_map_runs_in_several_threads():
    both = threading.Barrier(2, timeout=10)  # breaks unless two items are at work at once
    assert list(ordered_map(lambda _: both.wait() >= 0, range(4), 2, 4)) == [True] * 4


def test_ordered_map_reads_items_a_bounded_number_ahead():
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield i

    results = ordered_map(lambda i: i, items(), workers=2, lookahead=5)
    assert read == []
    for taken in range(1, 20):
        next(results)
        assert len(read) - taken <= 5
    results.close()
    assert len(read) < 30


def test_ordered_map_function_fails_raises_in_its_place():
    results = ordered_map(lambda i: 6 // (3 - i), range(10), 2, 4)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_ordered_map_dropped_early_leaves_no_thread():
    before = threading.active_count()
    results = ordered_map(lambda i: i, range(1000), 3, 6)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


def test_ordered_map_dropped_early_leaves_what_has_not_begun():
    done = []

    def slow(i: int) -> int:
        time.sleep(0.01)
        done.append(i)
        return i

    results = ordered_map(slow, range(1000), workers=1, lookahead=50)
    next(results)
    results.close()
    assert len(done) < 25


@pytest.mark.parametrize(
    ("content", "cores"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000\n", 2), ("5000 100000", 1)],
)
def test_quota_is_what_a_control_group_allows(content, cores, tmp_path):
    path = tmp_path / "cpu.max"
    path.write_text(content)
    assert threads._quota(path) == (cores or sys.maxsize)


@pytest.mark.parametrize("content", ["", "200000", "many 100000", "200000 many"])
def test_quota_that_cannot_be_read_is_none(content, tmp_path):
    path = tmp_path / "cpu.max"
    assert threads._quota(path) == sys.maxsize
    path.write_text(content)
    assert threads._quota(path) == sys.maxsize
