"""Fingerprints: hashed whatever the order of their keys, compared in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.errors import ManifestError
from pipelines.storage.fingerprint import check_same, digest


def test_check_same_tuples_are_lists():
    made = json.loads(json.dumps({"qualities": (10, 20), "size": {"shape": (1, 2)}}))
    check_same(made, {"qualities": (10, 20), "size": {"shape": (1, 2)}}, Path("x"), "mend")


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ({"node": "mixed_9"}, {"node": "mixed_8"}, "node mixed_9, now mixed_8"),
        ({"q": [10, 20]}, {"q": (10, 30)}, "q 10,20, now 10,30"),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, "a.b.c 1, now 2"),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, "a.c None, now 2"),
        ({"a": 1, "b": 2}, {"a": 3, "b": 4}, "a 1, now 3; b 2, now 4"),
        ({"a": {"b": 1}}, {"a": 5}, "a {'b': 1}, now 5"),
        ({"a": "x" * 99}, {"a": "y"}, f"a {'x' * 57}..., now y"),
    ],
)
def test_check_same_difference_is_named_in_words(made, asked, words):
    with pytest.raises(ManifestError) as caught:
        check_same(made, asked, Path("features/x"), "start over")
    assert str(caught.value) == f"features/x: made with {words}; start over"


def test_check_same_many_differences_names_four():
    made = dict.fromkeys("abcdef", 0)
    with pytest.raises(ManifestError, match=r"a 0, now 1; b .*; d 0, now 1; and 2 more; mend$"):
        check_same(made, dict.fromkeys("abcdef", 1), Path("x"), "mend")


def test_digest_key_order_does_not_matter_and_values_do():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest("") == "12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126"
