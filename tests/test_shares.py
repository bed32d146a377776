"""Shares: together every shard once, whatever their number; an index that is none is told."""

from __future__ import annotations

import pytest

from pipelines.errors import ConfigError
from pipelines.execution.shares import ALL, Share, choose
from pipelines.storage.plan import split_into_tasks

TASKS = split_into_tasks({"train": 90, "val": 20}, 11, "bin")


@pytest.mark.parametrize("num", [1, 2, 3, 7, 11, 50])
def test_choose_shares_are_together_every_shard_once(num):
    shares = [choose(index, num).of(TASKS) for index in range(num)]
    assert sorted(task.shard for tasks in shares for task in tasks) == sorted(
        task.shard for task in TASKS
    )


def test_choose_shares_differ_by_one_shard_at_most():
    assert sorted(len(choose(index, 3).of(TASKS)) for index in range(3)) == [3, 4, 4]


def test_choose_one_share_is_all_of_the_work_without_a_name():
    assert choose(0, 1) == ALL
    assert ALL.of(TASKS) == list(TASKS)
    assert (ALL.name, choose(2, 8).name) == ("", "2-of-8")


@pytest.mark.parametrize(("index", "num"), [(1, 1), (4, 4), (9, 4), (-1, 4)])
def test_choose_index_that_is_none_is_a_usage_error(index, num):
    message = f"task-index {index}: with --num-tasks {num} it is one of 0 to {num - 1}$"
    with pytest.raises(ConfigError, match=message) as caught:
        choose(index, num)
    assert caught.value.is_usage


def test_share_is_every_so_manieth_shard_in_the_plans_order():
    assert Share(1, 4).of(TASKS) == [TASKS[1], TASKS[5], TASKS[9]]


def test_shards_of_a_share_are_its_own_and_of_all_the_work_any():
    assert Share(1, 4).shards(TASKS) == {TASKS[i].shard for i in (1, 5, 9)}
    assert Share(12, 20).shards(TASKS) == set(), "none: this is not all of them"
    assert ALL.shards(TASKS) is None
