from __future__ import annotations

import json
import os

import pytest

from pipelines.errors import ManifestError
from pipelines.training.history import History


def evaluation(model, step, top1=0.5, loss=None):
    return {
        "model": model,
        "step": step,
        "epoch": step / 4,
        "train_loss": loss,
        "val_top1": top1,
        "val_top5": None,
    }


def lines(tmp_path):
    text = (tmp_path / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def events(tmp_path, model):
    """Read back what TensorBoard would show: (step, name, value), in the order written."""
    import tensorflow as tf

    found = []
    for path in sorted((tmp_path / "tensorboard" / model).glob("events.out.tfevents.*")):
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.append((event.step, value.tag, tf.make_ndarray(value.tensor).item()))
    return found


@pytest.fixture
def history(tmp_path):
    opened = History(tmp_path / "history.jsonl", tmp_path / "tensorboard")
    yield opened
    opened.close()


@pytest.fixture
def filled(tmp_path, history):
    """Three evaluations of the topology, then two of the default model."""
    for step in range(3):
        history.append(evaluation("topology", step, loss=0.25 * step))
    for step in range(2):
        history.append(evaluation("default", step, top1=0.75))
    return history


def reopened(tmp_path):
    return History(tmp_path / "history.jsonl", tmp_path / "tensorboard")


def test_append_writes_one_line_each_in_order(tmp_path, filled):
    assert [(line["model"], line["step"]) for line in lines(tmp_path)] == [
        ("topology", 0),
        ("topology", 1),
        ("topology", 2),
        ("default", 0),
        ("default", 1),
    ]
    assert lines(tmp_path)[1] == evaluation("topology", 1, loss=0.25)


def test_append_is_on_the_disk_when_it_returns(tmp_path, filled, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(number):
        synced.append(len(lines(tmp_path)))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    num_before = len(lines(tmp_path))
    filled.append(evaluation("default", 2))
    assert synced == [num_before + 1]


def test_append_refuses_nan_and_writes_nothing(tmp_path, filled):
    with pytest.raises(ValueError, match="not JSON compliant"):
        filled.append(evaluation("default", 2, loss=float("nan")))
    assert len(lines(tmp_path)) == 5


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"step": 1}'])
def test_history_with_a_damaged_line_raises_naming_it(tmp_path, filled, line):
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ManifestError, match=r"history\.jsonl: damaged: .* is no evaluation; res"):
        reopened(tmp_path)


@pytest.mark.parametrize("data", [b"\xff\n", None])
def test_history_that_is_no_text_file_raises_naming_it(tmp_path, data):
    path = tmp_path / "history.jsonl"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(ManifestError, match=r"history\.jsonl: cannot be read: .*; restore it, or"):
        reopened(tmp_path)


def test_cut_with_fewer_lines_than_there_were_raises_and_changes_nothing(tmp_path, filled):
    path = tmp_path / "history.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    again, before = reopened(tmp_path), path.read_bytes()
    with pytest.raises(ManifestError, match="damaged: 2 evaluations of topology, expected 3 or m"):
        again.cut("topology", 3)
    assert path.read_bytes() == before


def test_tensorboard_that_is_refused_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "history.jsonl", tmp_path / "file" / "tensorboard")
    for step in range(3):
        history.append(evaluation("topology", step))
    history.close()
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]
    assert len(caplog.records) == 1
    assert "tensorboard: no more is written" in caplog.text


def test_cut_drops_lines_behind_and_keeps_other_models(tmp_path, filled):
    again = reopened(tmp_path)
    again.cut("default", 1)
    again.cut("topology", 3)
    assert [(line["model"], line["step"]) for line in lines(tmp_path)] == [
        ("topology", 0),
        ("topology", 1),
        ("topology", 2),
        ("default", 0),
    ]
    again.close()


def test_cut_drops_a_line_that_a_kill_cut_short(tmp_path, filled):
    whole = (tmp_path / "history.jsonl").read_bytes()
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"model": "default", "st')
    again = reopened(tmp_path)
    again.cut("default", 2)
    assert (tmp_path / "history.jsonl").read_bytes() == whole
    again.close()


def test_cut_on_nothing_leaves_an_empty_file(tmp_path, history):
    history.cut("topology", 0)
    assert (tmp_path / "history.jsonl").read_bytes() == b""


def test_tensorboard_files_hold_the_numbers_while_training_goes_on(tmp_path, filled):
    # No close before: a reader sees every evaluation at once, and a kill loses none.
    assert events(tmp_path, "topology") == [
        (0, "epoch", 0.0),
        (0, "train_loss", 0.0),
        (0, "val_top1", 0.5),
        (1, "epoch", 0.25),
        (1, "train_loss", 0.25),
        (1, "val_top1", 0.5),
        (2, "epoch", 0.5),
        (2, "train_loss", 0.5),
        (2, "val_top1", 0.5),
    ]
    assert [step for step, name, _ in events(tmp_path, "default") if name == "val_top1"] == [0, 1]


def test_tensorboard_files_after_cut_hold_each_step_once(tmp_path, filled):
    filled.close()
    again = reopened(tmp_path)
    again.cut("topology", 2)
    again.append(evaluation("topology", 2, top1=0.625))
    again.close()
    top1 = [(step, v) for step, name, v in events(tmp_path, "topology") if name == "val_top1"]
    assert top1 == [(0, 0.5), (1, 0.5), (2, 0.625)]
