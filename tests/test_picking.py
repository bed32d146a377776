"""Rows of a set of variants by name."""

from __future__ import annotations

import pytest

from pipelines.errors import ShardError
from pipelines.storage import picking, variants


@pytest.fixture
def stored_set(judged):
    return variants.open_set(judged / "variants" / "jpeg", ("all",))


def test_pick_gives_the_rows_that_reading_all_gives(stored_set):
    rows = list(stored_set.rows("test", 0, stored_set.num_rows()["test"]))
    chosen = [row.id for row in rows[1::3]]
    names = ("q050", "original")
    found = list(picking.pick(stored_set, "test", chosen, names))
    assert [row.id for row in found] == chosen
    for row, whole in zip(found, rows[1::3], strict=True):
        cells = dict(zip(stored_set.names, whole.variants, strict=True))
        assert row.variants == (cells["q050"], cells["original"])
        assert (row.label, row.sha256) == (whole.label, whole.sha256)


def test_pick_names_of_another_split_are_passed_over(stored_set):
    row = next(iter(stored_set.rows("train", 0, 1)))
    assert list(picking.pick(stored_set, "test", [row.id, "no such"], ("original",))) == []


def test_pick_damaged_shard_is_named(stored_set):
    row = next(iter(stored_set.rows("test", 0, 1)))
    (path,) = stored_set.folder.glob("test-*.parquet")
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, 3 * len(data) // 4):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ShardError, match=f"{path}: damaged"):
        list(picking.pick(stored_set, "test", [row.id], ("original", "q010")))
