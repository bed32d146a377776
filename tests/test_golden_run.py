"""Runs of format version 2 must always be read; tests/golden/run_v2 is never made again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import runs
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store
from pipelines.training.trainee import State

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import make_run_v2  # noqa: E402

STORE = Store.of(runs.folder_of(GOLDEN / "run_v2", "stopped"), "topology")


HASHES = {
    4: "a850fdb729d35a1ff3836d2a860097e16975ab0d395964e06e1f590b1a1c941a",
    5: "d5aa431cf613eb2761f4606b61b3baed0348a9ee4e5bde5817cfd89d7cb7ccd8",
}


@pytest.mark.parametrize("step", HASHES)
def test_golden_checkpoint_is_the_committed_one(step):
    assert checkpoints.sha256(STORE.path(step)) == HASHES[step]


def test_run_json_says_what_the_run_is():
    assert runs.read(GOLDEN / "run_v2", "stopped") == make_run_v2.RUN
    assert runs.latest(GOLDEN / "run_v2") == "stopped"


def test_pointer_says_which_checkpoints_count():
    assert STORE.kept() == make_run_v2.KEPT
    assert STORE.best == STORE.path(4)


@pytest.mark.parametrize("step", [4, 5])
def test_checkpoint_holds_arrays_and_state(step):
    arrays, state = checkpoints.load(STORE.path(step))
    expected = make_run_v2.arrays(step)
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        assert arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(arrays[name], value)
    assert State.from_json(state, arrays["progress/losses"]) == make_run_v2.STATES[step]


@pytest.mark.parametrize("step", [4, 5])
def test_checkpoint_is_written_in_the_same_bytes(tmp_path, step):
    path, state = tmp_path / "again.npz", make_run_v2.STATES[step].to_json()
    checkpoints.save(path, make_run_v2.arrays(step).items(), state)
    assert path.read_bytes() == STORE.path(step).read_bytes()
