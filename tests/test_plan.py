"""Rows cut into shards: each row once, none across splits, all of nearly the same size."""

from __future__ import annotations

import itertools

import pytest

from pipelines.storage.plan import Task, split_into_tasks


@pytest.mark.parametrize("num_shards", [0, 1, 2, 3, 7, 10, 40, 1000])
def test_split_into_tasks_any_sizes_cover_each_row_once(num_shards):
    sizes = (0, 1, 2, 9, 30, 101)
    for train, val, test in itertools.product(sizes, sizes, sizes):
        num_rows = {"train": train, "val": val, "test": test}
        tasks = split_into_tasks(num_rows, num_shards, "parquet")
        total, num_splits = sum(num_rows.values()), sum(map(bool, num_rows.values()))
        assert len(tasks) == max(num_splits, min(num_shards, total))
        assert len({task.shard for task in tasks}) == len(tasks)
        assert list(dict.fromkeys(t.split for t in tasks)) == [s for s in num_rows if num_rows[s]]
        for split, count in num_rows.items():
            parts = [task for task in tasks if task.split == split]
            rows = [row for task in parts for row in range(task.start, task.stop)]
            assert rows == list(range(count))
            lengths = [len(task) for task in parts]
            assert not lengths or max(lengths) - min(lengths) <= 1 <= min(lengths)


def test_split_into_tasks_shards_follow_the_sizes_of_the_splits():
    tasks = split_into_tasks({"train": 80, "val": 20}, 10, "parquet")
    assert [len(task) for task in tasks] == [10] * 10
    assert tasks[3] == Task("train-00003-of-00008.parquet", "train", 30, 40)
    assert tasks[9] == Task("val-00001-of-00002.parquet", "val", 10, 20)
