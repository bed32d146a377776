"""`pipelines.status`: how far each stage is, from what lies on disk, and who is at work."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from begun import (
    NUM_IMAGES,
    NUM_PROBLEMS,
    VARIANTS,
    everything_in,
    make_run,
    make_set,
    numbers,
    stages_of,
)
from disks import mounted, remount
from lockers import ELSEWHERE, HOLDER, NEARLY_S, OVER_S, make_old, number_of_the_dead, write_lock
from processes import ask, running, wait_until

from pipelines import status
from pipelines.storage import locks
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan

UNREADABLE = """
import json, os
from pathlib import Path
from pipelines import status
if not os.getuid():
    os.setgid(65534)
    os.setuid(65534)
print(json.dumps(status.run(Path(), Path("features"))))
"""


def test_status_of_an_empty_workspace_is_that_nothing_is_started(tmp_path):
    (stage,) = stages_of(tmp_path).items()
    assert stage[0] == "compress"
    assert numbers(stage[1]) == ("not started", 0, None, 0)
    assert stage[1]["holders"] == []


def test_status_index_alone_is_a_compress_that_stopped(tmp_path):
    (tmp_path / "index").mkdir()
    assert numbers(stages_of(tmp_path)["compress"]) == ("stopped", 0, None, 0)


@pytest.mark.parametrize(
    ("num_done", "is_finished", "state"),
    [(0, False, "stopped"), (4, False, "stopped"), (6, False, "stopped"), (6, True, "done")],
)
def test_status_counts_images_in_whole_shards_and_the_bad_ones(
    num_done, is_finished, state, tmp_path
):
    make_set(tmp_path / VARIANTS, num_done=num_done, is_finished=is_finished)
    expected = (state, 10 * num_done, NUM_IMAGES, NUM_PROBLEMS + num_done)
    assert numbers(stages_of(tmp_path)["compress"]) == expected


@pytest.mark.parametrize("is_finished", [False, True])
def test_status_shard_that_is_gone_or_cut_short_is_left_to_do(is_finished, tmp_path):
    make_set(tmp_path / VARIANTS, is_finished=is_finished)
    shards = sorted((tmp_path / VARIANTS).glob("*.parquet"))
    shards[0].unlink()
    shards[1].write_bytes(b"")
    assert numbers(stages_of(tmp_path)["compress"])[:2] == ("stopped", 40)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]"], ids=["empty", "cut short", "of another kind"]
)
def test_status_damaged_manifest_counts_by_receipts(content, tmp_path):
    make_set(tmp_path / VARIANTS, is_finished=True)
    (tmp_path / VARIANTS / "manifest.json").write_bytes(content)
    assert numbers(stages_of(tmp_path)["compress"])[:2] == ("stopped", 60)


def test_status_says_who_is_at_work_on_which_share_since_when(tmp_path):
    make_set(tmp_path / VARIANTS, num_done=3)
    with running(HOLDER, tmp_path / VARIANTS, "3-of-8") as process:
        before = time.time()
        assert ask(process, "hold") == "held"
        make_old(tmp_path / VARIANTS / ".lock.3-of-8", 30)
        write_lock(tmp_path / VARIANTS / ".lock.2-of-8", NEARLY_S, **ELSEWHERE, since=None)
        stage = stages_of(tmp_path)["compress"]
        silent_for, seconds = (
            [holder.pop(key) for holder in stage["holders"]] for key in ("silent_s", "seconds")
        )
        since = stage["holders"][1].pop("since")
    assert numbers(stage) == ("running", 30, 60, 5)
    unknown = {"num_done": None, "rate": None, "unit": "image"}
    assert stage["holders"] == [
        {"share": "2-of-8", "host": "node-7", "pid": os.getpid(), "since": None, **unknown},
        {"share": "3-of-8", "host": os.uname().nodename, "pid": process.pid, **unknown},
    ]
    assert silent_for == pytest.approx([NEARLY_S, 30], abs=5)
    assert since == pytest.approx(before, abs=10)
    assert seconds == [None, pytest.approx(time.time() - since, abs=10)]


@pytest.mark.parametrize("is_finished", [False, True])
def test_status_holder_without_plan_or_work_is_running_too(is_finished, tmp_path):
    if is_finished:
        make_set(tmp_path / VARIANTS, is_finished=True)
    with locks.hold(tmp_path / VARIANTS), locks.planning(tmp_path / VARIANTS):
        stage = stages_of(tmp_path)["compress"]
    assert numbers(stage)[:3] == ("running", *((60, 60) if is_finished else (0, None)))
    assert [holder["share"] for holder in stage["holders"]] == ["", "plan"]


def test_status_reader_dead_and_silent_are_not_at_work_and_damaged_lock_is(tmp_path):
    folder = tmp_path / VARIANTS
    make_set(folder)
    write_lock(folder / ".lock.1-of-3", pid=number_of_the_dead())
    write_lock(folder / ".lock.2-of-3", OVER_S, **ELSEWHERE)
    with locks.reading(folder):
        stage = stages_of(tmp_path)["compress"]
        assert (stage["state"], stage["holders"]) == ("stopped", [])
        (folder / ".lock").write_bytes(b"{")
        stage = stages_of(tmp_path)["compress"]
    assert (stage["state"], [holder["pid"] for holder in stage["holders"]]) == ("running", [None])


def test_status_what_a_holder_notes_is_its_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    make_set(tmp_path / VARIANTS, num_done=3)
    with locks.hold(tmp_path / VARIANTS) as lock:
        lock.note({"num_done": 7, "num_total": 9, "rate": 11.23456, "unit": "file"})
        wait_until(lambda: stages_of(tmp_path)["compress"]["holders"][0]["num_done"] == 7)
        (holder,) = stages_of(tmp_path)["compress"]["holders"]
    assert (holder["rate"], holder["unit"]) == (11.235, "file")


@pytest.mark.parametrize("value", ['"fast"', "NaN", "-Infinity", "null", "[]", "9" * 400])
def test_status_note_of_another_mind_tells_nothing(value, tmp_path):
    folder = tmp_path / VARIANTS
    make_set(folder, num_done=0)
    write_lock(folder / ".lock", **ELSEWHERE, token="0a")
    (folder / ".lock.note.0a").write_text(f'{{"rate": {value}, "num_done": {value}, "unit": 3}}')
    (holder,) = stages_of(tmp_path)["compress"]["holders"]
    assert (holder["rate"], holder["num_done"], holder["unit"]) == (None, None, "image")


@pytest.mark.parametrize(("others", "rate"), [([], 30 / 25), (["2-of-2"], None)])
def test_status_rate_of_who_notes_none_is_that_of_the_receipts_since(others, rate, tmp_path):
    folder, now = tmp_path / VARIANTS, time.time()
    for number, receipt in enumerate(make_set(folder)):
        made = now - 100 + 10 * number
        os.utime(receipt, (made, made))
    for share in ("1-of-2", *others):
        write_lock(folder / f".lock.{share}", **ELSEWHERE, since=now - 75)  # three came after it
    assert stages_of(tmp_path)["compress"]["holders"][0]["rate"] == (rate and pytest.approx(rate))


def test_status_caches_are_listed_by_node_and_other_folders_are_not(tmp_path):
    make_set(tmp_path / "features" / "mixed_9", "features", 2, num_done=3)
    make_set(tmp_path / "features" / "avg_pool", "features", 2, is_finished=True)
    (tmp_path / "features" / "mine").mkdir()
    (tmp_path / "features" / "notes.txt").touch()
    with locks.hold(tmp_path / "features" / "new"):
        stages = stages_of(tmp_path)
    assert {name: stage["state"] for name, stage in stages.items()} == {
        "compress": "not started",
        "extract avg_pool": "done",
        "extract mixed_9": "stopped",
        "extract new": "running",
    }


@pytest.mark.parametrize(
    ("kind", "version", "content", "problem"),
    [
        ("variants", 1, None, "plan.json: no plan of features; choose another folder"),
        ("features", 9, None, "plan.json: format version 9, this program reads up to 2; update it"),
        ("features", 2, "{", "plan.json: cannot be read: "),
        ("features", 2, '{"kind": "features"}', "plan.json: damaged: KeyError"),
    ],
)
def test_status_damaged_or_foreign_folder_stops_nothing(kind, version, content, problem, tmp_path):
    folder = tmp_path / "features" / "a"
    make_set(folder, kind, version)
    make_set(tmp_path / "features" / "b", "features", 2, is_finished=True)
    if content:
        (folder / "plan.json").write_text(content)
    with locks.hold(folder):
        stages = stages_of(tmp_path)
    assert numbers(stages["extract a"]) == ("damaged", None, None, None)
    assert stages["extract a"]["problem"].startswith(f"{folder}/{problem}")
    assert len(stages["extract a"]["holders"]) == 1
    assert stages["extract b"]["state"] == "done"


@pytest.mark.parametrize("num_problems", ["many", None])
def test_status_plan_with_wrong_details_is_damaged(num_problems, tmp_path):
    folder = ShardFolder(tmp_path / VARIANTS)
    folder.publish(Plan("variants", 1, {}, {"num_problems": num_problems}, ()))
    stage = stages_of(tmp_path)["compress"]
    assert stage["state"] == "damaged"
    assert stage["problem"].startswith(f"{tmp_path / VARIANTS}: damaged: ")


def test_status_folder_that_may_not_be_read_stops_nothing(tmp_path):
    for name in ("features/a", "features/b"):
        make_set(tmp_path / name, "features", 2, is_finished=True)
    make_run(tmp_path, "first")
    tmp_path.chmod(0o755)
    shut = [tmp_path / "features" / "a", tmp_path / "runs" / "first"]
    with contextlib.ExitStack() as stack:
        for folder in shut:
            folder.chmod(0)
            stack.callback(folder.chmod, 0o755)
        command = [sys.executable, "-c", UNREADABLE]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not result.returncode, result.stderr
    stages = json.loads(result.stdout)["stages"]
    for name in ("extract a", "train-tail first"):
        assert stages[name]["state"] == "damaged"
        assert "Permission denied" in stages[name]["problem"]
    assert stages["extract b"]["state"] == "done"


def test_status_writes_nothing_and_needs_no_right_to(tmp_path):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        make_set(disk / VARIANTS, num_done=3)
        make_set(disk / "features" / "a", "features", 2)
        make_run(disk)
        write_lock(disk / VARIANTS / ".lock.1-of-2", pid=number_of_the_dead())
        write_lock(disk / VARIANTS / ".lock.2-of-2", **ELSEWHERE)
        (disk / VARIANTS / ".lock.note.0a").touch()
        before = everything_in(disk)
        stages = stages_of(disk)
        assert everything_in(disk) == before
        remount(disk, "ro")
        assert {name: stage["state"] for name, stage in stages_of(disk).items()} == {
            name: stage["state"] for name, stage in stages.items()
        }
    assert stages["compress"]["state"] == "running"


def test_status_missing_features_folder_is_no_cache(tmp_path):
    assert list(status.run(tmp_path, Path(tmp_path / "elsewhere"))["stages"]) == ["compress"]
