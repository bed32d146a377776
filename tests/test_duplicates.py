"""Notes on the same bytes more than once: across splits, under two labels."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from pipelines.images.duplicates import notes


def table(*rows: tuple[str, int, str]) -> pa.Table:
    """Make the columns of a shard from (id, label, content)."""
    ids, labels, contents = zip(*rows, strict=True) if rows else ((), (), ())
    digests = [hashlib.sha256(content.encode()).digest() for content in contents]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "label": pa.array(labels, pa.int32()),
            "sha256": pa.array(digests, pa.binary(32)),
        }
    )


def test_notes_without_duplicates_are_none():
    shards = [table(("a", 0, "A"), ("b", 1, "B")), table(("c", 0, "C"))]
    assert notes(["train", "test"], shards) == []


def test_notes_same_bytes_within_one_split_and_label_are_no_trouble():
    shards = [table(("a", 0, "A"), ("b", 1, "B")), table(("c", 0, "A"))]
    assert notes(["train", "train"], shards) == []


def test_notes_across_splits_count_contents_and_name_the_first_pair():
    train = table(("a", 0, "A"), ("b", 1, "B"), ("c", 0, "C"), ("d", 0, "A"))
    test = table(("x", 0, "C"), ("y", 0, "A"), ("z", 1, "Z"))
    assert notes(["train", "test"], [train, test]) == [
        "images whose bytes stand in more than one split: 2 (first: a and y); "
        "the splits stay as they are, but accuracies on them may flatter"
    ]


def test_notes_under_two_labels_count_contents_and_name_the_first():
    shards = [
        table(("a", 0, "A"), ("b", 1, "B"), ("c", 1, "B")),
        table(("d", 0, "B"), ("e", 1, "A")),
    ]
    assert notes(["train", "train"], shards) == [
        "images whose bytes stand under different labels: 2 (first: a)"
    ]


def test_notes_across_splits_under_two_labels_say_both():
    found = notes(["train", "val"], [table(("a", 0, "A"), ("b", 1, "B")), table(("c", 1, "A"))])
    assert [note.partition(" (")[0] for note in found] == [
        "images whose bytes stand in more than one split: 1",
        "images whose bytes stand under different labels: 1",
    ]


@pytest.mark.parametrize("order", [("train", "val"), ("val", "train")])
def test_notes_shard_without_rows_counts_nothing(order):
    shards = dict(
        zip(("train", "val"), (table(("a", 0, "A"), ("b", 1, "B")), table()), strict=True)
    )
    assert notes(list(order), [shards[name] for name in order]) == []
