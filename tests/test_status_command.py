"""`bottleneck status`: what it prints, what it loads, and what a real workspace looks like."""

from __future__ import annotations

import json
import os
import time

import pytest
from begun import VARIANTS, make_run, make_set
from commands import invoke, the_error
from lockers import ELSEWHERE, NEARLY_S, write_lock
from processes import modules_loaded_by
from verifying import make_workspace


@pytest.fixture
def workspace(tmp_path):
    """A compress that is done, an extract at work, one that is damaged, a run that has stopped."""
    (tmp_path / "bottleneck.toml").touch()
    make_set(tmp_path / VARIANTS, is_finished=True)
    make_set(tmp_path / "features" / "avg_pool", "features", 2, num_done=4)
    make_set(tmp_path / "features" / "mixed_9", "features", 9)
    make_run(tmp_path, epochs=[("topology", 1.0)])
    make_run(tmp_path, "second", epochs=[("topology", 1.0)], is_trained=True)
    return tmp_path


def write_share(folder, number, note, **changes):
    token = f"{number:02x}"
    write_lock(folder / f".lock.{number}-of-8", token=token, **ELSEWHERE, **changes)
    (folder / f".lock.note.{token}").write_text(json.dumps(note))


def test_status_command_shows_a_line_for_each_stage_and_each_holder(workspace):
    folder, now = workspace / "features" / "avg_pool", time.time()
    write_share(folder, 3, {"rate": 11.2, "unit": "image"}, since=now - 190)
    write_share(folder, 5, {}, since=now - 7500, age_s=NEARLY_S)
    write_lock(folder / ".lock.plan", **ELSEWHERE, since=None)
    (folder / ".lock.7-of-8").write_bytes(b"{")
    result = invoke("status", "-C", workspace)
    assert (result.exit_code, result.stderr) == (0, "")
    pid, plan = os.getpid(), workspace / "features" / "mixed_9" / "plan.json"
    assert result.stdout.splitlines() == [
        "compress                  done  60 of 60 images (100.00%)  8 quarantined",
        "extract avg_pool       running   40 of 60 images (66.67%)  6 quarantined",
        f"    planning: pid {pid} on node-7",
        f"    share 3-of-8: pid {pid} on node-7, for 3 min, 11.2 images/s",
        f"    share 5-of-8: pid {pid} on node-7, for 2 h 5 min, silent for {NEARLY_S:.0f} s",
        "    share 7-of-8: its lock cannot be read",
        "extract mixed_9        damaged",
        f"    {plan}: format version 9, this program reads up to 2; update it",
        "train-tail first       stopped      1 of at most 4 epochs",
        "eval first         not started",
        "train-tail second         done                    1 epoch",
        "eval second        not started",
    ]


def test_status_command_whole_folder_is_no_share(workspace):
    write_lock(workspace / "features" / "avg_pool" / ".lock", **ELSEWHERE, since=time.time() - 40)
    lines = invoke("status", "-C", workspace).stdout.splitlines()
    assert lines[2].startswith(f"    pid {os.getpid()} on node-7, for 4")


def test_status_command_nothing_there_is_one_line(tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    assert invoke("status", "-C", tmp_path).stdout == "compress  not started\n"


def test_status_command_index_that_is_made_shows_no_number(tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    write_lock(tmp_path / "variants" / ".lock")  # the folder's parent
    write_lock(tmp_path / VARIANTS / ".lock", since=None)
    first = invoke("status", "-C", tmp_path).stdout.splitlines()[0]
    assert first == "compress  running"


def test_status_command_json_is_the_summary(workspace):
    result = invoke("status", "--json", "-q", "-C", workspace)
    value = json.loads(result.stdout)
    assert (result.exit_code, list(value)) == (0, ["stage", "stages"])
    keys = ["state", "num_done", "num_total", "num_quarantined", "holders"]
    for name, stage in value["stages"].items():
        assert list(stage) == keys + ["problem"] * (name == "extract mixed_9"), name


@pytest.mark.parametrize("flags", [("--features-dir", "other"), ()])
def test_status_command_looks_where_extract_writes_or_is_told(flags, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "features").rename(workspace / "other")
    if not flags:
        (workspace / "bottleneck.toml").write_text('[extract]\nfeatures_dir = "other"\n')
    assert "extract avg_pool" in invoke("status", *flags).stdout


def test_status_command_outside_a_workspace_is_a_usage_error(tmp_path):
    assert "no bottleneck.toml here" in the_error(invoke("status", "-C", tmp_path), status=2)


def test_status_command_loads_no_framework(workspace):
    output, modules = modules_loaded_by(workspace, "status")
    assert "extract avg_pool" in output
    assert not modules & {"tensorflow", "keras", "numba", "matplotlib", "scipy"}


def test_status_command_after_real_stages_says_done(tmp_path):
    workspace = make_workspace(tmp_path)
    value = json.loads(invoke("status", "--json", "-C", workspace).stdout)
    assert {stage["state"] for stage in value["stages"].values()} == {"done"}
    assert len(value["stages"]) == 3
    assert value["stages"]["compress"]["num_done"] == value["stages"]["compress"]["num_total"] == 12
