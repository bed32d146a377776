"""`pipelines.list_runs`: what is told of each run, whatever lies in its folder."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest
from begun import (
    RESULTS,
    SUMMARY,
    everything_in,
    make_old,
    make_run,
    make_trained,
    write_history,
)
from drawn import points

from pipelines import list_runs
from pipelines.storage import locks
from pipelines.training.checkpoints import Kept, Store


def rows_of(workspace, **arguments):
    """Return what is told of each run; it is one that JSON can hold."""
    found = list_runs.run(workspace, **arguments)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (list(found), found["stage"]) == (["stage", "runs"], "runs")
    assert all(list(row) == list(list_runs.KEYS) for row in found["runs"])
    return found["runs"]


def test_runs_of_an_empty_workspace_are_none(tmp_path):
    assert rows_of(tmp_path) == []


def test_runs_of_one_that_is_judged_tell_all(tmp_path):
    settings = {"start_from": {"run": "head"}, "learning_rate": 0.1}
    folder = make_trained(tmp_path, settings=settings, blocks=("top", "FC"), fusion="mean")
    (folder / "results.json").write_text(json.dumps(RESULTS))
    make_old(folder, 1e9)
    os.utime(folder / "results.json", (1e9 + 7, 1e9 + 7))
    assert rows_of(tmp_path) == [
        {
            "run": "first",
            "state": "judged",
            "problem": None,
            "node": "avg_pool",
            "blocks": ["top", "FC"],
            "branches": ["original", "q010"],
            "fusion": "mean",
            "default_kind": "trained",
            "start_from": "head",
            **SUMMARY,
            "test_top1": 0.7,
            "default_test_top1": 0.6,
            "gain": 0.1,
            "mcnemar_p": 0.03,
            "last_worked": 1e9 + 7,
            "settings": {},
        }
    ]


def test_runs_of_one_that_stopped_tell_how_good_it_is_so_far(tmp_path):
    folder = make_run(tmp_path)
    topology = [replace(point, val_top1=0.5) for point in points(5)]
    topology[2] = replace(topology[2], val_top1=0.75)
    write_history(folder, topology=topology)
    Store.of(folder, "topology").save(Kept(23, 20), {}, {})  # stopped between two evaluations
    (row,) = rows_of(tmp_path)
    assert (row["state"], row["num_steps"]) == ("stopped", 23)
    assert (row["best_val_top1"], row["default_best_val_top1"]) == (0.75, None)
    assert (row["start_from"], row["gain"], row["problem"]) == (None, None, None)


def test_runs_of_one_that_has_not_been_evaluated_tell_no_accuracy(tmp_path):
    make_run(tmp_path)
    (row,) = rows_of(tmp_path)
    assert (row["state"], row["num_steps"], row["best_val_top1"]) == ("stopped", 0, None)


@pytest.mark.parametrize(
    ("is_trained", "results", "states"),
    [
        (False, [], ("stopped", "training")),
        (True, [], ("done", "judging")),
        (True, ["results.json"], ("judged", "judging")),
        (True, ["results-val.json"], ("judged", "judging")),
    ],
)
def test_runs_state_is_what_is_there_and_who_is_at_work(is_trained, results, states, tmp_path):
    folder = make_trained(tmp_path) if is_trained else make_run(tmp_path)
    for name in results:
        (folder / name).write_text(json.dumps(RESULTS))
    with locks.reading(folder):
        before = rows_of(tmp_path)[0]["state"]
    with locks.hold(folder):
        assert (before, rows_of(tmp_path)[0]["state"]) == states


def test_runs_results_on_val_are_no_results_on_test(tmp_path):
    folder = make_trained(tmp_path)
    (folder / "results-val.json").write_text(json.dumps(RESULTS))
    assert rows_of(tmp_path)[0]["test_top1"] is None


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("run.json", "{", r"/runs/a/run.json: cannot be read: "),
        ("run.json", "[]", r"/runs/a: damaged: "),
        ("run.json", '{"format_version": 2}', r"/runs/a/run.json: damaged: KeyError"),
        ("summary.json", "", r"/runs/a/summary.json: cannot be read: "),
        ("summary.json", "{}", r"/runs/a: damaged: KeyError('num_steps')"),
        ("results.json", '{"topology": 7}', r"/runs/a: damaged: TypeError"),
        ("history.jsonl", "{\n", r"/runs/a/history.jsonl: damaged: "),
    ],
)
def test_runs_damaged_one_is_a_row_that_says_so(name, content, problem, tmp_path):
    folder = make_run(tmp_path, "a") if name == "history.jsonl" else make_trained(tmp_path, "a")
    (folder / name).write_text(content)
    make_trained(tmp_path, "b")
    damaged, other = rows_of(tmp_path)
    assert (damaged["run"], damaged["state"], other["state"]) == ("a", "damaged", "done")
    assert damaged["problem"].startswith(f"{tmp_path}{problem}")
    assert damaged["last_worked"] == pytest.approx(other["last_worked"], abs=60)


def test_runs_one_whose_checkpoints_are_gone_is_damaged(tmp_path):
    shutil.rmtree(make_trained(tmp_path) / "checkpoints" / "default")
    (row,) = rows_of(tmp_path)
    assert row["state"] == "damaged"
    assert "the checkpoints of its default model are gone; restore them, or" in row["problem"]


def test_runs_one_that_diverged_says_so_and_how(tmp_path):
    folder = make_run(tmp_path)
    (folder / "diverged.json").write_text('{"step": 3, "reason": "the loss is nan at step 3"}')
    (row,) = rows_of(tmp_path)
    assert (row["state"], row["problem"]) == ("diverged", "diverged: the loss is nan at step 3")


@pytest.mark.parametrize(("version", "which"), [(1, "an earlier"), (3, "a later")])
def test_runs_of_other_versions_tell_what_they_can(version, which, tmp_path):
    folder = make_trained(tmp_path)
    value = json.loads((folder / "run.json").read_text())
    del value["fusion"]
    (folder / "run.json").write_text(json.dumps({**value, "format_version": version}))
    (row,) = rows_of(tmp_path)
    assert (row["state"], row["node"], row["fusion"]) == ("other version", "avg_pool", None)
    assert row["problem"].startswith(f"made by {which} version of this program; train it again")
    assert row["best_val_top1"] == 0.75


def test_runs_half_deleted_one_is_stopped_and_other_folders_are_none(tmp_path):
    folder = make_trained(tmp_path)
    (folder / "run.json").unlink()
    (tmp_path / "runs" / "mine").mkdir()
    (row,) = rows_of(tmp_path)
    assert (row["run"], row["state"], row["node"]) == ("first", "stopped", None)


def test_runs_settings_are_those_that_differ(tmp_path):
    same = {"patience": 3, "fusion": "mean", "start_from": None}
    make_run(tmp_path, "a", settings={**same, "learning_rate": 0.1, "seed": 1})
    make_run(tmp_path, "b", settings={**same, "learning_rate": 0.3, "seed": 1, "cuts": 2})
    folder = make_run(tmp_path, "c")
    (folder / "run.json").write_text("{")
    assert [row["settings"] for row in rows_of(tmp_path)] == [
        {"learning_rate": 0.1},
        {"cuts": 2, "learning_rate": 0.3},
        {},
    ]


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["a-1", "a-2", "a-10", "b"]),
        ("top1", ["a-10", "a-1", "a-2", "b"]),
        ("time", ["b", "a-2", "a-10", "a-1"]),
    ],
)
def test_runs_come_in_the_order_that_is_asked_for(sort, names, tmp_path):
    tops = {"a-2": (0.6, 3e8), "a-10": (0.7, 2e8), "b": (None, 4e8), "a-1": (0.6, 1e8)}
    for name, (top1, worked_s) in tops.items():
        folder = make_trained(tmp_path, name, top1) if top1 else make_run(tmp_path, name)
        make_old(folder, worked_s)
    assert [row["run"] for row in rows_of(tmp_path, sort=sort)] == names


def test_runs_last_worked_is_when_a_checkpoint_was_saved_last(tmp_path):
    folder = make_run(tmp_path)
    make_old(folder, 1e8)
    Store.of(folder, "default").save(Kept(1), {}, {})
    pointer = folder / "checkpoints" / "default" / "latest.json"
    os.utime(pointer, (2e8, 2e8))
    assert rows_of(tmp_path)[0]["last_worked"] == 2e8


def test_runs_listing_writes_nothing(tmp_path):
    make_trained(tmp_path)
    with locks.hold(make_run(tmp_path, "second")):
        before = everything_in(tmp_path)
        rows_of(tmp_path)
        assert everything_in(tmp_path) == before
