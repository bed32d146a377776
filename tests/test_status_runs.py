"""`pipelines.status`: how far training and evaluation of each run are."""

from __future__ import annotations

import json
import time

import pytest
from begun import make_run, numbers, stages_of
from lockers import ELSEWHERE, write_lock

from pipelines.storage import locks


@pytest.mark.parametrize(
    ("epochs", "is_trained", "kind", "expected"),
    [
        ([], False, "trained", ("stopped", 0, 4)),
        ([("topology", 0.0), ("topology", 1.5)], False, "trained", ("stopped", 1, 4)),
        ([("topology", 2.0), ("default", 1.0)], False, "trained", ("stopped", 3, 4)),
        ([("topology", 1.0)], False, "pretrained", ("stopped", 1, 2)),
        ([("topology", 1.0), ("default", 1.0)], True, "trained", ("done", 2, 2)),
    ],
)
def test_status_counts_the_epochs_of_a_run(epochs, is_trained, kind, expected, tmp_path):
    make_run(tmp_path, epochs=epochs, is_trained=is_trained, default_kind=kind)
    stages = stages_of(tmp_path)
    assert list(stages) == ["compress", "train-tail first", "eval first"]
    assert numbers(stages["train-tail first"]) == (*expected, None)
    assert numbers(stages["eval first"]) == ("not started", 0, 1, None)


@pytest.mark.parametrize(("is_trained", "at_work"), [(False, "train-tail"), (True, "eval")])
def test_status_lock_of_a_run_is_of_what_is_left_to_do(is_trained, at_work, tmp_path):
    folder = make_run(tmp_path, is_trained=is_trained)
    with locks.hold(folder):
        stages = stages_of(tmp_path)
    found = [name for name, stage in stages.items() if stage["holders"]]
    assert found == [name for name, stage in stages.items() if stage["state"] == "running"]
    assert found == [f"{at_work} first"]


@pytest.mark.parametrize(
    ("names", "state"),
    [
        (["predictions.parquet"], "stopped"),
        (["predictions.parquet", "results.json"], "done"),
        (["predictions-val.parquet", "results-val.json"], "done"),
    ],
)
def test_status_results_are_an_evaluation_that_is_done(names, state, tmp_path):
    folder = make_run(tmp_path, is_trained=True)
    for name in names:
        (folder / name).touch()
    expected = (state, int(state == "done"), 1, None)
    assert numbers(stages_of(tmp_path)["eval first"]) == expected


def test_status_runs_that_are_damaged_or_half_deleted_stop_nothing(tmp_path):
    for name in ("a", "b", "c"):
        make_run(tmp_path, name, is_trained=True)
    (tmp_path / "runs" / "a" / "run.json").write_text("{")
    (tmp_path / "runs" / "b" / "run.json").unlink()
    (tmp_path / "runs" / "c" / "history.jsonl").write_text("{\n")
    (tmp_path / "runs" / "mine").mkdir()
    stages = stages_of(tmp_path)
    assert [stages[f"train-tail {name}"]["state"] for name in ("a", "b", "c")] == [
        *("damaged", "stopped", "damaged")
    ]
    assert stages["train-tail a"]["problem"].startswith(f"{tmp_path}/runs/a/run.json: cannot be")
    assert stages["train-tail c"]["problem"].startswith(
        f"{tmp_path}/runs/c/history.jsonl: damaged: JSONDecode"
    )
    assert len(stages) == 7


def test_status_of_a_run_that_diverged_says_so(tmp_path):
    folder = make_run(tmp_path)
    (folder / "diverged.json").write_text('{"step": 3, "reason": "the loss is nan at step 3"}')
    stage = stages_of(tmp_path)["train-tail first"]
    assert (stage["state"], stage["problem"]) == ("diverged", "diverged: the loss is nan at step 3")


@pytest.mark.parametrize("text", ["[]\n", "{\n", '{"time": "now", "images_per_s": 1}\n', "\0\n"])
def test_status_training_with_damaged_timings_tells_no_rate(text, tmp_path):
    folder = make_run(tmp_path)
    (folder / "timings.jsonl").write_text(text)
    with locks.hold(folder):
        (holder,) = stages_of(tmp_path)["train-tail first"]["holders"]
    assert holder["rate"] is None


@pytest.mark.parametrize(
    ("lines", "rate"),
    [
        (None, None),
        ([], None),
        ([{"time": -1, "images_per_s": 0.0}], None),  # before the first step
        ([{"time": -3, "images_per_s": 700.0}, {"time": -2, "images_per_s": 812.25}], 812.25),
        ([{"time": -2000, "images_per_s": 700.0}], None),  # of an earlier start
    ],
)
def test_status_training_is_as_fast_as_up_to_its_last_evaluation(lines, rate, tmp_path):
    folder, now = make_run(tmp_path), time.time()
    if lines is not None:
        found = [json.dumps({**line, "time": now + line["time"]}) for line in lines]
        (folder / "timings.jsonl").write_text("".join(f"{line}\n" for line in found) + '{"ti')
    write_lock(folder / ".lock", **ELSEWHERE, since=now - 1000)
    (holder,) = stages_of(tmp_path)["train-tail first"]["holders"]
    assert (holder["unit"], holder["rate"]) == ("image", rate)
