from __future__ import annotations

import hashlib
import io
import pickle

import numpy as np
import pytest

from pipelines.errors import ShardError, TrainingError
from pipelines.training import checkpoints

ARRAYS = {
    "head/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "tail/second_bn/3": np.array([1.5, -2.5], dtype=np.float32),
    "optimizer/0000": np.array(7, dtype=np.int64),
}
STATE = {"step": 4, "best_val_top1": 0.25, "is_finished": False}


@pytest.fixture
def path(tmp_path):
    checkpoints.save(tmp_path / "last.npz", ARRAYS, STATE)
    return tmp_path / "last.npz"


def test_load_gives_what_was_saved(path):
    arrays, state = checkpoints.load(path)
    assert state == STATE
    assert arrays.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_save_same_content_gives_same_bytes(path, tmp_path):
    checkpoints.save(tmp_path / "again.npz", ARRAYS, dict(reversed(STATE.items())))
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_save_replaces_and_leaves_no_other_file(path):
    checkpoints.save(path, {"a": np.zeros(2)}, {"step": 5})
    arrays, state = checkpoints.load(path)
    assert (list(arrays), state) == (["a"], {"step": 5})
    assert [p.name for p in path.parent.iterdir()] == ["last.npz"]


def test_save_into_missing_folder_raises_shard_error_naming_the_file(tmp_path):
    with pytest.raises(ShardError, match=r"nowhere/last\.npz: cannot be written"):
        checkpoints.save(tmp_path / "nowhere" / "last.npz", ARRAYS, STATE)


def test_load_missing_file_raises_training_error(tmp_path):
    with pytest.raises(TrainingError, match=r"best\.npz: no such checkpoint"):
        checkpoints.load(tmp_path / "best.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_load_file_cut_short_raises_training_error(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TrainingError, match=r"last\.npz: damaged: .*train it again"):
        checkpoints.load(path)


def test_load_flipped_byte_in_an_array_raises_training_error(path):
    data = bytearray(path.read_bytes())
    at = data.index(ARRAYS["head/kernel"].tobytes()) + 5
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"last\.npz: damaged"):
        checkpoints.load(path)


def test_load_without_state_raises_training_error(tmp_path):
    np.savez(tmp_path / "bare.npz", a=np.zeros(1))
    with pytest.raises(TrainingError, match=r"bare\.npz: damaged: .*state"):
        checkpoints.load(tmp_path / "bare.npz")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('ran code')",))


def test_load_pickled_object_raises_and_runs_no_code(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, trap=np.array([Trap()], dtype=object))
    (tmp_path / "trap.npz").write_bytes(buffer.getvalue())
    with pytest.raises(TrainingError, match=r"damaged: .*pickle"):
        checkpoints.load(tmp_path / "trap.npz")
    (tmp_path / "trap.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(TrainingError, match="damaged"):
        checkpoints.load(tmp_path / "trap.npz")


def test_sha256_is_that_of_the_file(path):
    assert checkpoints.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_sha256_of_missing_file_raises_training_error(tmp_path):
    with pytest.raises(TrainingError, match=r"best\.npz: no such checkpoint"):
        checkpoints.sha256(tmp_path / "best.npz")
