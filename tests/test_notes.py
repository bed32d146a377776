"""Notes of progress: written with the heartbeat, read by others, left behind by nobody."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys

import pytest
from disks import mounted, remount
from lockers import ELSEWHERE, KILLED, make_old, names, number_of_the_dead, write_lock
from processes import running, wait_until

from pipelines.storage import locks, notes
from pipelines.storage.locks import hold

FACTS = {"num_done": 120, "num_total": 600, "rate": 11.2, "unit": "image"}
NOTED = f"""{KILLED}
locks.HEARTBEAT_S = 0.01
with locks.hold(folder) as lock:
    lock.note(dict(num_done=1))
    while not list(folder.glob(".lock.note.*[0-9a-f]")):
        pass
os._exit(0)
"""
NOTING = """
import sys
from pathlib import Path
from pipelines.storage import locks
locks.HEARTBEAT_S = 0.01
with locks.hold(Path(sys.argv[1])) as lock:
    lock.note({"num_done": 1})
    while not list(Path(sys.argv[1]).glob(".lock.note.*[0-9a-f]")):
        pass
    print("ready", flush=True)
    sys.stdin.read()
"""


def note_of(folder):
    """Read the only note there is; None where there is none."""
    found = [path for path in folder.glob(".lock.note.*") if path.suffix != ".new"]
    return json.loads(found[0].read_bytes()) if found else None


def test_note_is_written_with_the_heartbeat_and_deleted_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with hold(tmp_path) as lock:
        lock.note({"num_done": 1})
        wait_until(lambda: note_of(tmp_path) == {"num_done": 1})
        lock.note(FACTS)
        wait_until(lambda: note_of(tmp_path) == FACTS)
    assert names(tmp_path) == [".lock.guard"]


def test_note_is_not_written_before_the_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 1e6)
    with hold(tmp_path) as lock:
        lock.note(FACTS)
        lock.check()
        assert names(tmp_path) == [".lock", ".lock.guard"]


def test_note_that_says_nothing_new_is_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with hold(tmp_path) as lock:
        lock.note(FACTS)
        wait_until(lambda: note_of(tmp_path) == FACTS)
        (path,) = tmp_path.glob(".lock.note.*")
        make_old(path)
        for _ in range(2):
            make_old(tmp_path / ".lock", 30)
            wait_until(lambda: (tmp_path / ".lock").stat().st_mtime > path.stat().st_mtime + 50)
            lock.note(dict(FACTS))
        assert path.stat().st_mtime < (tmp_path / ".lock").stat().st_mtime - 50


def test_note_changed_behind_the_holders_back_is_still_the_one_that_was_told(tmp_path, monkeypatch):
    facts = dict(FACTS)
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with hold(tmp_path) as lock:
        lock.note(facts)
        facts["num_done"] = object()
        wait_until(lambda: note_of(tmp_path) == FACTS)


@pytest.mark.parametrize(("rate", "error"), [(float("nan"), ValueError), (object(), TypeError)])
def test_note_that_json_cannot_hold_raises_and_disturbs_no_heartbeat(
    rate, error, tmp_path, monkeypatch
):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with hold(tmp_path) as lock:
        with pytest.raises(error):
            lock.note({"rate": rate})
        make_old(tmp_path / ".lock", 30)
        wait_until(lambda: locks.standing(tmp_path)[0].silent_s < 20)


def test_note_of_a_lock_that_was_taken_over_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with hold(tmp_path) as lock:
        lock.note(FACTS)
        wait_until(lambda: note_of(tmp_path) == FACTS)
        write_lock(tmp_path / ".lock", **ELSEWHERE)
        wait_until(lambda: names(tmp_path) == [".lock", ".lock.guard"])


def test_note_of_the_killed_is_swept_and_of_the_living_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    write_lock(tmp_path / ".lock.2-of-2", token="0a", **ELSEWHERE)
    write_lock(tmp_path / ".lock.read.0b", token="0b", pid=number_of_the_dead())
    kept = [".lock.note.0a", ".lock.note.md", "a.lock.note.0c"]
    for name in (*kept, ".lock.note.0b", ".lock.note.0c", ".lock.note.0c.new"):
        (tmp_path / name).write_text("{}")
    with hold(tmp_path, share="1-of-2") as lock:
        lock.note(FACTS)
        wait_until(lambda: len(list(tmp_path.glob(".lock.note.*"))) == 3)
        with hold(tmp_path / "sub"):
            assert notes.read(tmp_path, lock._holder.token) == FACTS
    assert names(tmp_path) == sorted([".lock.2-of-2", ".lock.guard", "sub", *kept])


def test_note_its_holder_is_killed_is_swept_by_the_next_one(tmp_path):
    with running(NOTING, tmp_path) as process:
        process.kill()
        process.wait()
        assert len(names(tmp_path)) == 3
        with hold(tmp_path):
            assert names(tmp_path) == [".lock", ".lock.guard"]


def test_note_killed_at_any_operation_leaves_what_the_next_one_sweeps(tmp_path):
    num_notes = 0
    for operation in itertools.count():
        folder = tmp_path / str(operation)
        code = subprocess.run([sys.executable, "-c", NOTED, folder, str(operation)]).returncode
        num_notes += any(folder.glob(".lock.note.*"))
        with hold(folder) as lock:
            lock.check()
            assert names(folder) == [".lock", ".lock.guard"]
        if not code:
            break
        assert code == -signal.SIGKILL
    assert num_notes > 2


def fill_up(disk):
    with pytest.raises(OSError, match="No space"):
        (disk / "filler").write_bytes(bytes(1 << 20))


def test_note_disk_refuses_disturbs_nobody_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with mounted(tmp_path / "disk", "size=16k") as disk:
        with hold(disk) as lock:
            fill_up(disk)
            lock.note(FACTS)
            for _ in range(3):
                make_old(disk / ".lock", 30)
                wait_until(lambda: locks.standing(disk)[0].silent_s < 20)
            lock.check()
            assert note_of(disk) is None
        assert names(disk) == [".lock.guard", "filler"]


def test_note_disk_takes_it_later_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with mounted(tmp_path / "disk", "size=16k") as disk, hold(disk) as lock:
        fill_up(disk)
        lock.note(FACTS)
        make_old(disk / ".lock", 30)
        wait_until(lambda: locks.standing(disk)[0].silent_s < 20)
        remount(disk, "size=1m")
        wait_until(lambda: note_of(disk) == FACTS)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_read_note_that_is_none_is_none(content, tmp_path):
    if content is not None:
        (tmp_path / ".lock.note.0a").write_bytes(content)
    assert notes.read(tmp_path, "0a") is None
