"""A shard's groups, and rows cut apart and laid end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from shards import make_layout

from pipelines.storage.cells import Cells
from pipelines.storage.rows import Rows, Shard

LAYOUT = dataclasses.replace(make_layout("uint8", "dense"), rows_per_group=4)


def make_rows(first: int, count: int) -> Rows:
    """Make rows with a cell of i bytes i for image i."""
    numbers = range(first, first + count)
    data = np.array([i for i in numbers for _ in range(i)], np.uint8)
    cells = Cells.of_sizes(data, np.array(numbers, np.int64))
    return Rows(np.array(numbers, np.int32), {"a": cells}, [f"img-{i}" for i in numbers])


def content(rows: Rows) -> list[tuple[int, bytes, str]]:
    cells = map(bytes, rows.cells["a"])
    return list(zip(rows.labels.tolist(), cells, rows.ids, strict=True))


def expected(*numbers: int) -> list[tuple[int, bytes, str]]:
    return [(i, bytes([i] * i), f"img-{i}") for i in numbers]


@pytest.mark.parametrize(
    ("num_rows", "sizes"), [(0, []), (1, [1]), (4, [4]), (9, [4, 4, 1]), (12, [4, 4, 4])]
)
def test_shard_groups_are_of_the_layouts_size_but_the_last(num_rows, sizes):
    shard = Shard(Path("a"), "a", LAYOUT, num_rows)
    assert [shard.group_rows(g) for g in range(shard.num_groups)] == sizes


def test_part_is_the_rows_between():
    part = make_rows(0, 10).part(3, 6)
    assert content(part) == expected(3, 4, 5)
    assert len(part) == 3
    assert content(part.part(1, 2)) == expected(4)


def test_joined_rows_are_end_to_end():
    joined = Rows.joined([make_rows(5, 2), make_rows(0, 3), make_rows(7, 0), make_rows(9, 1)])
    assert content(joined) == expected(5, 6, 0, 1, 2, 9)


def test_joined_of_nothing_has_no_rows():
    assert len(Rows.joined([])) == len(make_rows(1, 2).taken(np.array([], np.int64))) == 0


def test_taken_rows_are_in_the_order_asked():
    assert content(make_rows(2, 6).taken(np.array([4, 0, 1]))) == expected(6, 2, 3)


@pytest.mark.parametrize("numbers", [[3], [1, 4], [0, 1, 2, 3, 4, 5], []], ids=str)
def test_taken_rows_share_no_memory_with_those_they_are_of(numbers):
    rows = make_rows(2, 6)
    taken = rows.taken(np.array(numbers, np.int64))
    assert content(taken) == expected(*(2 + i for i in numbers))
    assert not np.shares_memory(taken.labels, rows.labels)
    assert not np.shares_memory(taken.cells["a"].data, rows.cells["a"].data)


def test_gathered_rows_are_end_to_end_and_keep_none_of_the_parts():
    parts = [make_rows(5, 2), make_rows(0, 3), make_rows(7, 0), make_rows(9, 60)]
    gathered = Rows.gathered(iter(parts))
    assert content(gathered) == expected(5, 6, 0, 1, 2, *range(9, 69))
    assert gathered.labels.dtype == np.int32
    for part in parts:
        assert not np.shares_memory(gathered.labels, part.labels)
        assert not np.shares_memory(gathered.cells["a"].data, part.cells["a"].data)


def test_gathered_rows_take_no_more_than_their_bytes_in_the_end():
    gathered = Rows.gathered(make_rows(i, 1) for i in range(100))
    assert gathered.cells["a"].data.base.nbytes == sum(range(100))
    assert len(Rows.gathered(iter([]))) == 0
