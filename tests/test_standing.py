"""Who holds what, listed without writing a byte."""

from __future__ import annotations

import contextlib
import os
import time

import pytest
from disks import mounted, remount
from lockers import (
    ELSEWHERE,
    HOLDER,
    NEARLY_S,
    OVER_S,
    make_old,
    names,
    number_of_the_dead,
    write_lock,
)
from processes import ask, running, wait_until

from pipelines.errors import ShardError
from pipelines.storage import locks
from pipelines.storage.locks import hold, planning, reading, standing


def content(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_standing_names_every_kind_of_lock_and_its_holder(tmp_path):
    with running(HOLDER, tmp_path, "1-of-12") as process, contextlib.ExitStack() as stack:
        assert ask(process, "hold") == "held"
        before = time.time()
        for share in ("10-of-12", "2-of-12"):
            stack.enter_context(hold(tmp_path, share=share))
        stack.enter_context(planning(tmp_path))
        stack.enter_context(reading(tmp_path))
        found = standing(tmp_path)
    assert [lock.share for lock in found] == ["plan", "1-of-12", "2-of-12", "10-of-12", "read"]
    pids = [os.getpid()] * 5
    pids[1] = process.pid
    assert [lock.holder.pid for lock in found] == pids
    assert {lock.holder.host for lock in found} == {os.uname().nodename}
    assert all(0 <= lock.silent_s < 20 and lock.note is None for lock in found)
    assert found[0].holder.since == pytest.approx(before, abs=10)


def test_standing_whole_is_no_share(tmp_path):
    with hold(tmp_path):
        assert [lock.share for lock in standing(tmp_path)] == [""]
    assert standing(tmp_path) == []


def test_standing_gives_the_note_of_each(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with hold(tmp_path, share="1-of-2") as first, hold(tmp_path, share="2-of-2"):
        first.note({"num_done": 3})
        wait_until(lambda: [lock.note for lock in standing(tmp_path)] == [{"num_done": 3}, None])


def test_standing_dead_and_silent_ones_hold_nothing_and_stay(tmp_path):
    write_lock(tmp_path / ".lock.1-of-3", pid=number_of_the_dead())
    write_lock(tmp_path / ".lock.2-of-3", OVER_S, **ELSEWHERE)
    write_lock(tmp_path / ".lock.3-of-3", NEARLY_S, **ELSEWHERE)
    write_lock(tmp_path / ".lock.new.0a")
    (tmp_path / ".lock.note.0b.new").touch()
    before = content(tmp_path)
    (found,) = standing(tmp_path)
    assert (found.share, found.holder.host) == ("3-of-3", "node-7")
    assert found.silent_s == pytest.approx(NEARLY_S, abs=5)
    assert content(tmp_path) == before


def test_standing_heartbeat_a_little_ahead_of_this_hosts_clock_is_just_now(tmp_path):
    write_lock(tmp_path / ".lock", -NEARLY_S, **ELSEWHERE)
    assert [lock.silent_s for lock in standing(tmp_path)] == [0]


def test_standing_damaged_lock_has_no_holder(tmp_path):
    (tmp_path / ".lock").write_bytes(b"{")
    (found,) = standing(tmp_path)
    assert (found.share, found.holder, found.note) == ("", None, None)
    make_old(tmp_path / ".lock")
    assert standing(tmp_path) == []


def test_standing_read_only_folder_is_read(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        write_lock(disk / ".lock", **ELSEWHERE)
        remount(disk, "ro")
        assert [lock.holder.host for lock in standing(disk)] == ["node-7"]


def test_standing_nothing_there_is_nobody_and_makes_nothing(tmp_path):
    (tmp_path / "file").touch()
    assert standing(tmp_path / "missing") == standing(tmp_path / "file") == []
    assert names(tmp_path) == ["file"]


def test_standing_file_system_refuses_is_an_error(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ShardError, match=rf"{tmp_path}: cannot be read: Is a directory"):
        standing(tmp_path)
