"""`bottleneck runs`: what it prints, and what it loads."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from begun import RESULTS, make_old, make_run, make_trained, write_history
from commands import invoke, the_error
from drawn import points
from processes import modules_loaded_by

NOW = 1e9


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A chain of two runs, the second of which has stopped, and a run that is damaged."""
    monkeypatch.setattr("bottleneck_cli.runs.time.time", lambda: NOW)
    (tmp_path / "bottleneck.toml").touch()
    folder = make_trained(tmp_path, "head", settings={"cuts": 1})
    (folder / "results.json").write_text(json.dumps(RESULTS))
    settings = {"cuts": 2, "start_from": {"run": "head"}}
    stopped = make_run(tmp_path, "next", settings=settings, blocks=("top", "FC"))
    write_history(stopped, topology=[replace(points(1)[0], val_top1=0.5678)])
    damaged = make_run(tmp_path, "third")
    (damaged / "run.json").write_text("{")
    for path, seconds in ((folder, 190), (stopped, 59), (damaged, 0)):
        make_old(path, NOW - seconds)
    return tmp_path


def test_runs_command_shows_a_line_a_run_and_what_they_share(workspace):
    result = invoke("runs", "-C", workspace)
    assert (result.exit_code, result.stderr) == (0, "")
    problem = f"{workspace}/runs/third/run.json: cannot be read: Expecting property name"
    lines = result.stdout.splitlines()
    assert lines.pop(4).startswith(f"    {problem}")
    assert lines == [
        "run      state  blocks  from  cuts  steps  val top-1  default    test    gain  worked on",
        "head    judged       1           1     30     75.00%   50.00%  70.00%  +10.00  3 min ago",
        "next   stopped       2  head     2      0     56.78%                            59 s ago",
        "third  damaged                                                                   0 s ago",
        "the same in all: node avg_pool, fusion concat, branches 2, default model trained",
    ]


def test_runs_command_single_run_shows_every_column_that_it_fills(tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    make_trained(tmp_path)
    head, row = invoke("runs", "-C", tmp_path).stdout.splitlines()
    described = "run    state      node  blocks  fusion  branches  default model"
    assert head == f"{described}  steps  val top-1  default  worked on"
    described = "first   done  avg_pool       1  concat         2        trained"
    assert row.startswith(f"{described}     30     75.00%   50.00%    0 s ago")


def test_runs_command_what_no_run_has_is_not_told(tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    for name in ("a", "b"):
        make_trained(tmp_path, name)
    same = invoke("runs", "-C", tmp_path).stdout.splitlines()[-1]
    assert same.startswith("the same in all: node avg_pool, blocks 1, fusion concat, branches 2, ")


def test_runs_command_without_runs_says_what_makes_one(tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    output = invoke("runs", "-C", tmp_path).stdout
    assert output == "no run yet; `bottleneck train-tail` makes one\n"


def test_runs_command_json_is_the_summary(workspace):
    result = invoke("runs", "--json", "-q", "--sort", "time", "-C", workspace)
    value = json.loads(result.stdout)
    assert (result.exit_code, result.stdout.count("\n"), list(value)) == (0, 1, ["stage", "runs"])
    assert [row["run"] for row in value["runs"]] == ["third", "next", "head"]


def test_runs_command_sort_by_something_else_is_a_usage_error(workspace):
    message = the_error(invoke("runs", "--sort", "size", "-C", workspace), status=2)
    assert "name, top1 or time" in message


def test_runs_command_loads_no_framework(workspace):
    output, modules = modules_loaded_by(workspace, "runs")
    assert "head" in output
    assert not modules & {"tensorflow", "keras", "numba", "matplotlib", "scipy", "pyarrow"}
