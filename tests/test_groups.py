"""Groups of shards: counted at once, made when asked for, with the rows that are wanted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from shards import make_layout

from pipelines.storage.groups import Group, Groups, count_rows
from pipelines.storage.rows import Shard

LAYOUT = dataclasses.replace(make_layout("uint8", "dense"), rows_per_group=4)
SIZES = {
    "one": [4],
    "last shorter": [9, 4, 10, 1],
    "without images": [0, 5, 0, 0, 8, 0],
    "none": [],
    "nothing": [0],
}
SHARDS = pytest.mark.parametrize("num_rows", SIZES.values(), ids=SIZES)


def make_shards(num_rows: list[int]) -> list[Shard]:
    return [Shard(Path(f"{i}"), str(i), LAYOUT, count) for i, count in enumerate(num_rows)]


@SHARDS
def test_groups_are_those_of_each_shard_in_order(num_rows):
    shards = make_shards(num_rows)
    expected = [Group(shard, g) for shard in shards for g in range(shard.num_groups)]
    groups = Groups(shards)
    assert len(groups) == len(expected)
    assert list(groups) == expected
    assert [groups[i] for i in range(len(groups))] == expected
    assert groups.num_rows.tolist() == [group.num_rows for group in expected]


@SHARDS
@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_groups_of_some_rows_have_those_alone(num_rows, share):
    shards, total = make_shards(num_rows), sum(num_rows)
    every = [
        (shard.path.name, g, row)
        for shard in shards
        for g in range(shard.num_groups)
        for row in range(shard.group_rows(g))
    ]
    wanted = np.flatnonzero(np.random.default_rng(0).random(total) < share)
    groups = Groups(shards, wanted)
    found = [(group.shard.path.name, group.index, row) for group in groups for row in group.rows]
    assert found == [every[i] for i in wanted]
    assert all(group.num_rows for group in groups)
    assert groups.num_rows.tolist() == [group.num_rows for group in groups]


def test_count_rows_of_a_list_is_that_of_its_groups():
    (shard,) = make_shards([10])
    groups = [Group(shard, 0), Group(shard, 2), Group(shard, 1, np.array([3]))]
    assert count_rows(groups).tolist() == [4, 2, 1]
    assert count_rows(Groups([shard])).tolist() == [4, 4, 2]
    assert count_rows([]).tolist() == []
