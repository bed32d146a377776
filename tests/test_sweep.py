from __future__ import annotations

import pytest

from pipelines.errors import ConfigError
from pipelines.training.sweep import MAX_HEADS, combinations


def test_combinations_of_two_keys_are_all_pairs_the_last_changing_fastest():
    found = combinations(["learning_rate=0.1,0.03", "fusion=concat,mean"])
    assert found == [
        {"learning_rate": "0.1", "fusion": "concat"},
        {"learning_rate": "0.1", "fusion": "mean"},
        {"learning_rate": "0.03", "fusion": "concat"},
        {"learning_rate": "0.03", "fusion": "mean"},
    ]


def test_combinations_take_a_key_as_its_flag_is_spelt():
    assert combinations(["learning-rate = 0.1"]) == [{"learning_rate": "0.1"}]


@pytest.mark.parametrize("key", ["batch_size", "epochs", "node", "branches", "seed", "nonsense"])
def test_combinations_of_a_key_that_must_be_alike_raise_listing_the_others(key):
    with pytest.raises(ConfigError, match=f"cannot differ in {key}; choose from learning_rate, fu"):
        combinations([f"{key}=1,2"])


@pytest.mark.parametrize(
    "sweeps", [["cuts=1,1"], ["cuts=1", "cuts=2"], ["cuts=1,,2"], ["cuts=1", "cuts = 1"]]
)
def test_combinations_of_what_stands_twice_or_is_empty_raise(sweeps):
    with pytest.raises(ConfigError, match="give each key once, with each value once"):
        combinations(sweeps)


def test_combinations_too_many_raise_saying_how_many():
    values = ",".join(map(str, range(11)))
    with pytest.raises(ConfigError, match=f"121 combinations, at most {MAX_HEADS} go"):
        combinations([f"cuts={values}", f"patience={values}"])
