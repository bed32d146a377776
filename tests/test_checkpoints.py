from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from disks import mounted
from processes import tree

from pipelines.errors import ManifestError, ShardError, TrainingError
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Kept, Store

ARRAYS = {
    "head/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "tail/second_bn/3": np.array([1.5, -2.5], dtype=np.float32),
    "optimizer/0000": np.array(7, dtype=np.int64),
}
STATE = {"step": 4, "best_val_top1": 0.25, "is_finished": False}


@pytest.fixture
def path(tmp_path):
    checkpoints.save(tmp_path / "last.npz", ARRAYS.items(), STATE)
    return tmp_path / "last.npz"


def test_load_gives_what_was_saved(path):
    arrays, state = checkpoints.load(path)
    assert state == STATE
    assert arrays.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_save_same_content_gives_same_bytes(path, tmp_path):
    checkpoints.save(tmp_path / "again.npz", ARRAYS.items(), dict(reversed(STATE.items())))
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_save_replaces_and_leaves_no_other_file(path):
    checkpoints.save(path, {"a": np.zeros(2)}.items(), {"step": 5})
    arrays, state = checkpoints.load(path)
    assert (list(arrays), state) == (["a"], {"step": 5})
    assert [p.name for p in path.parent.iterdir()] == ["last.npz"]


def test_save_into_missing_folder_raises_shard_error_naming_the_file(tmp_path):
    with pytest.raises(ShardError, match=r"nowhere/last\.npz: cannot be written"):
        checkpoints.save(tmp_path / "nowhere" / "last.npz", ARRAYS.items(), STATE)


def test_load_missing_file_raises_training_error(tmp_path):
    with pytest.raises(TrainingError, match=r"best\.npz: no such checkpoint"):
        checkpoints.load(tmp_path / "best.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_load_file_cut_short_raises_training_error(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TrainingError, match=r"last\.npz: damaged: .*; restore it, or delete"):
        checkpoints.load(path)


def test_load_flipped_byte_in_an_array_raises_training_error(path):
    data = bytearray(path.read_bytes())
    at = data.index(ARRAYS["head/kernel"].tobytes()) + 5
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"last\.npz: damaged"):
        checkpoints.load(path)


def test_load_any_flipped_bit_raises_or_changes_nothing(path, tmp_path):
    expected, data = checkpoints.load(path), path.read_bytes()
    num_refused = 0
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        (tmp_path / "flipped.npz").write_bytes(flipped)
        try:
            arrays, state = checkpoints.load(tmp_path / "flipped.npz")
        except TrainingError:
            num_refused += 1
            continue
        assert (list(arrays), state) == (list(expected[0]), expected[1])
        for name, value in arrays.items():
            np.testing.assert_array_equal(value, expected[0][name])
    assert num_refused > len(data) / 2


def test_load_with_an_array_too_few_raises_training_error(path, tmp_path):
    with ZipFile(path) as whole, ZipFile(tmp_path / "few.npz", "w") as few:
        for name in whole.namelist()[1:]:
            few.writestr(name, whole.read(name))
    with pytest.raises(TrainingError, match=r"few\.npz: damaged: 2 arrays, expected 3"):
        checkpoints.load(tmp_path / "few.npz")


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


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "topology")


def save_steps(store, *steps, best=None):
    """Save some steps as a training does; each has its number as its only array."""
    for previous, step in zip([None, *steps], steps, strict=False):
        kept = Kept(step, previous, steps[0] if best is None else best)
        store.save(kept, [("a", np.array([step]))], {"step": step})


def step_files(store):
    return sorted(int(path.stem[5:]) for path in store.folder.glob("step-*"))


def test_store_without_a_checkpoint_has_nothing_to_load(store):
    assert (store.kept(), store.load()) == (None, None)
    with pytest.raises(TrainingError, match="topology: no checkpoint; train the run first"):
        _ = store.best


def test_store_keeps_the_last_two_and_the_best(store):
    save_steps(store, 0, 10, 20, 30)
    assert step_files(store) == [0, 20, 30]
    assert store.best == store.path(0)
    assert store.kept() == Kept(30, 20, 0)
    found = store.load()
    assert (found.step, found.arrays["a"].tolist(), found.state) == (30, [30], {"step": 30})
    assert found.is_named


def test_store_keeps_the_best_by_each_measure(store):
    save_steps(store, 0, 10, 20)
    store.save(Kept(30, 20, 10, 0), [("a", np.zeros(1))], {})
    assert step_files(store) == [0, 10, 20, 30]
    store.save(Kept(40, 30, 10, 0), [("a", np.zeros(1))], {})
    assert step_files(store) == [0, 10, 30, 40]


def test_store_latest_cut_short_falls_back_to_the_one_before_and_says_so(store, caplog):
    save_steps(store, 0, 10, 20)
    data = store.path(20).read_bytes()
    store.path(20).write_bytes(data[: len(data) // 2])
    found = store.load()
    assert (found.step, found.state, found.is_named) == (10, {"step": 10}, False)
    assert "step-00000020.npz: damaged" in caplog.text
    assert "going on from step 10" in caplog.text


def test_store_last_two_damaged_or_missing_falls_back_to_the_best(store, caplog):
    save_steps(store, 0, 10, 20)
    store.path(20).unlink()
    store.path(10).write_bytes(b"PK")
    assert store.load().step == 0
    assert "step-00000020.npz: missing; " in caplog.text
    assert "step-00000010.npz: damaged" in caplog.text


def test_store_ended_before_it_deletes_points_to_what_is_there(store, monkeypatch):
    def end(path, missing_ok=False):
        raise SystemExit

    save_steps(store, 0, 10, 20)
    with monkeypatch.context() as killed, pytest.raises(SystemExit):
        killed.setattr(Path, "unlink", end)
        store.save(Kept(30, 20, 0), [("a", np.zeros(1))], {"step": 30})
    assert step_files(store) == [0, 10, 20, 30]
    assert store.load().step == 30
    store.delete_others()
    assert step_files(store) == [0, 20, 30]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"latest": 1, "other": 2}', '{"latest": "a"}'])
def test_store_without_a_whole_pointer_goes_on_from_the_last_checkpoint(store, caplog, text):
    save_steps(store, 0, 10, 20)
    pointer = store.folder / "latest.json"
    pointer.unlink() if text is None else pointer.write_text(text)
    found = store.load()
    assert (found.step, found.is_named) == (20, False)
    assert ("latest.json: " in caplog.text) == (text is not None)
    if text is None:
        store.delete_others()  # it says nothing of which are others
    else:
        with pytest.raises(ManifestError, match=r"latest\.json: .*begin the training again"):
            store.delete_others()
    assert step_files(store) == [0, 10, 20]


def test_store_first_checkpoint_cut_short_raises(store):
    save_steps(store, 0)
    store.path(0).write_bytes(b"PK")
    with pytest.raises(TrainingError, match=r"00000\.npz: damaged: .*; no checkpoint is left"):
        store.load()


def test_store_all_checkpoints_damaged_raises_naming_each(store):
    save_steps(store, 0, 10, 20, best=10)
    for step in (10, 20):
        store.path(step).write_bytes(b"PK")
    with pytest.raises(TrainingError, match=r"20\.npz: damaged.*10\.npz: damaged.*train it again"):
        store.load()


def test_store_on_a_full_disk_keeps_the_checkpoints_before(tmp_path):
    with mounted(tmp_path / "small", "size=1m") as folder:
        store = Store(folder / "topology")
        save_steps(store, 0, 10)
        before = tree(folder)
        with pytest.raises(ShardError, match=r"step-00000020\.npz: cannot be written: No space"):
            store.save(Kept(20, 10, 0), [("a", np.zeros(2_000_000))], {})
        assert tree(folder) == before
        assert store.load().step == 10
