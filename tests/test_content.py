"""The digest of a set's images: the same however they are cut, another with anything changed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import pytest

from pipelines.storage import content
from pipelines.storage.content import ContentSum, digest_of
from pipelines.storage.plan import Receipt

ROWS = [(f"cat/{i}.jpg", i % 3, hashlib.sha256(bytes([i])).digest()) for i in range(9)]


def receipt_of(start: int, rows, split: str = "train") -> Receipt:
    """Return the receipt of a shard that begins at a row of its split; None is left out."""
    found = ContentSum(split)
    for number, row in enumerate(rows, start):
        if row is not None:
            found.add(number, *row)
    return Receipt("s", len(rows), 0, "ab" * 32, stats={content.KEY: found.hexdigest()})


def digest_when_cut(*cuts: int, rows=ROWS) -> str:
    places = [0, *cuts, len(rows)]
    shards = itertools.pairwise(places)
    return digest_of([receipt_of(start, rows[start:stop]) for start, stop in shards])


def changed(number: int, *row):
    return [row if i == number else other for i, other in enumerate(ROWS)]


def test_digest_is_64_hexadecimal_digits_of_any_sum():
    assert ContentSum("train").hexdigest() == digest_of([]) == "0" * 64
    assert int(digest_when_cut(), 16) > 0
    assert len(digest_when_cut()) == 64


@pytest.mark.parametrize("cuts", [(4,), (1, 2, 3, 4, 5, 6, 7, 8), (0, 3, 3, 9)])
def test_digest_does_not_depend_on_the_shards(cuts):
    assert digest_when_cut(*cuts) == digest_when_cut()


def test_digest_does_not_depend_on_the_order_of_shards_or_rows():
    first, second = receipt_of(0, ROWS[:4]), receipt_of(4, ROWS[4:])
    assert digest_of([second, first]) == digest_of([first, second])
    forward, backward = ContentSum("val"), ContentSum("val")
    for number, row in enumerate(ROWS):
        forward.add(number, *row)
    for number, row in reversed([*enumerate(ROWS)]):
        backward.add(number, *row)
    assert forward.hexdigest() == backward.hexdigest()


@pytest.mark.parametrize(
    "rows",
    [
        changed(4, "cat/x.jpg", ROWS[4][1], ROWS[4][2]),
        changed(4, ROWS[4][0], 7, ROWS[4][2]),
        changed(4, ROWS[4][0], ROWS[4][1], ROWS[5][2]),
        [ROWS[1], ROWS[0], *ROWS[2:]],
        [*ROWS[:4], None, *ROWS[5:]],
        ROWS[:8],
    ],
    ids=["name", "label", "bytes", "position", "left out", "one less"],
)
def test_digest_changes_with_every_image(rows):
    assert digest_when_cut(rows=rows) != digest_when_cut()


def test_digest_changes_with_the_split():
    assert digest_of([receipt_of(0, ROWS, "val")]) != digest_of([receipt_of(0, ROWS, "train")])


def test_digest_image_that_moves_up_behind_one_left_out_is_told():
    # What settings do not tell: one that was mended takes its row, and all behind it move.
    left_out = [*ROWS[:4], None, *ROWS[5:]]
    moved_up = [*ROWS[:4], *ROWS[5:]]
    assert digest_when_cut(rows=left_out) != digest_when_cut(rows=moved_up)


def test_digest_receipts_of_the_first_release_count_with_their_shards_hash():
    first, second = receipt_of(0, ROWS[:4]), receipt_of(4, ROWS[4:])
    old = dataclasses.replace(second, stats={"num_wrong_extension": 0})
    other = dataclasses.replace(old, sha256="cd" * 32)
    assert len({digest_of([first, found]) for found in (second, old, other)}) == 3
