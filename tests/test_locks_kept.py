"""Locks while they are held: heartbeats, what is lost, and readers."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from disks import mounted
from lockers import (
    ELSEWHERE,
    HOLDER,
    NEARLY_S,
    OVER_S,
    make_old,
    names,
    write_lock,
)
from processes import ask, open_files, running, wait_until

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic, locks
from pipelines.storage.locks import check_all, check_alone, hold, planning, reading

READER = """
import sys
from pathlib import Path
from pipelines.storage import locks
with locks.reading(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def heartbeats() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("heartbeat")}


def test_lock_heartbeat_goes_on_until_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with hold(tmp_path):
        for _ in range(2):
            make_old(tmp_path / ".lock")
            wait_until(lambda: (tmp_path / ".lock").stat().st_mtime > time.time() - NEARLY_S)


def test_lock_check_is_a_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 1e6)
    with hold(tmp_path) as lock:
        make_old(tmp_path / ".lock")
        lock.check()
        assert (tmp_path / ".lock").stat().st_mtime > time.time() - NEARLY_S


def test_lock_end_ends_the_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 1e6)
    before = heartbeats()
    with hold(tmp_path), reading(tmp_path):
        begun = heartbeats() - before
        assert len(begun) == 2
    wait_until(lambda: not begun & heartbeats())


def test_lock_taken_over_while_suspended_is_noticed(tmp_path):
    with running(HOLDER, tmp_path) as process:
        assert ask(process, "hold") == "held"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        make_old(tmp_path / ".lock")
        with hold(tmp_path) as lock:
            process.send_signal(signal.SIGCONT)
            found = ask(process, "check")
            lock.check()  # the other has let go of what is no longer its own
        assert found.startswith(
            f"{tmp_path}/.lock: was taken over by pid {os.getpid()} on {os.uname().nodename}; "
            "this process had been silent for "
        )
    assert names(tmp_path) == [".lock.guard"]


def test_lock_taken_over_is_noticed_by_its_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    before = heartbeats()
    with hold(tmp_path) as lock:
        begun = heartbeats() - before
        write_lock(tmp_path / ".lock", OVER_S, **ELSEWHERE)
        wait_until(lambda: not begun & heartbeats())
        (tmp_path / ".lock").unlink()
        with pytest.raises(ManifestError, match=r"taken over by pid .* on node-7; this process"):
            lock.check()


def test_lock_gone_says_for_how_long_it_was_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 1e6)
    now = time.time()
    with hold(tmp_path) as lock:
        monkeypatch.setattr(time, "time", lambda: now + 500)
        lock.check()
        monkeypatch.setattr(time, "time", lambda: now + 575)
        (tmp_path / ".lock").unlink()
        words = r"\.lock: is gone; this process had been silent for 75 s; run again: what is whole"
        with pytest.raises(ManifestError, match=words):
            lock.check()


@pytest.mark.parametrize("line", ["check", None])
def test_lock_check_and_end_are_never_between_anothers_look_and_taking(line, tmp_path):
    with running(HOLDER, tmp_path) as process:
        assert ask(process, "hold") == "held"
        with atomic.alone(tmp_path, ".lock.guard", wait_s=0):
            if line:
                process.stdin.write("check\n")
                process.stdin.flush()
            else:
                process.stdin.close()
            wait_until(lambda: tmp_path / ".lock.guard" in open_files(process.pid))
            write_lock(tmp_path / ".lock")
        assert ("was taken over by" in process.stdout.readline()) == bool(line)
    assert names(tmp_path) == [".lock", ".lock.guard"]


def test_reading_beside_readers_and_holders_leaves_nothing(tmp_path):
    with hold(tmp_path), reading(tmp_path), reading(tmp_path), hold(tmp_path / "sub"):
        assert sum(name.startswith(".lock.read.") for name in names(tmp_path)) == 2
    with reading(tmp_path), hold(tmp_path), hold(tmp_path / "sub"):
        pass
    assert names(tmp_path) == [".lock.guard", "sub"]


def test_reading_goes_on_for_longer_than_the_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with reading(tmp_path):
        (mark,) = tmp_path.iterdir()
        make_old(mark)
        wait_until(lambda: mark.stat().st_mtime > time.time() - NEARLY_S)


def test_reading_where_nothing_can_be_written_does_nothing(tmp_path):
    with reading(tmp_path / "missing"):
        assert names(tmp_path) == []
    with mounted(tmp_path / "disk", "ro") as disk, reading(disk):
        assert names(disk) == []


def test_reading_error_in_the_block_is_not_lost(tmp_path):
    with pytest.raises(FileNotFoundError), reading(tmp_path):
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == []


def test_reading_mark_taken_for_dead_is_noticed(tmp_path):
    with reading(tmp_path) as marks:
        check_all(marks)
        make_old(tmp_path / f".lock.read.{marks[0]._holder.token}")
        check_alone(tmp_path)
        with pytest.raises(ManifestError, match=r"\.lock\.read\.\w+: is gone; this process"):
            check_all(marks)


def test_check_alone_live_reader_is_named_until_it_ends(tmp_path):
    with running(READER, tmp_path) as process, hold(tmp_path):
        words = rf"reads here \(\.lock\.read\.\w+: pid {process.pid} on {os.uname().nodename}, last"
        with pytest.raises(ManifestError, match=words):
            check_alone(tmp_path)
        process.stdin.close()
        process.wait()
        check_alone(tmp_path)
        assert names(tmp_path) == [".lock", ".lock.guard"]


def test_check_alone_reader_killed_or_silent_is_none(tmp_path):
    write_lock(tmp_path / ".lock.read.0a", OVER_S, **ELSEWHERE)
    with running(READER, tmp_path) as process, hold(tmp_path):
        process.kill()
        process.wait()
        check_alone(tmp_path)
        assert names(tmp_path) == [".lock", ".lock.guard"]


def test_check_alone_file_system_refuses_is_an_error(tmp_path):
    with (
        mounted(tmp_path / "disk", "ro") as disk,
        pytest.raises(ShardError, match="disk: cannot be locked: Read-only file system"),
    ):
        check_alone(disk)


def test_check_alone_share_at_work_is_named_whatever_this_hosts_clock_says(tmp_path, monkeypatch):
    then = time.time
    write_lock(tmp_path / ".lock.1-of-2", **ELSEWHERE)
    with hold(tmp_path, share="0-of-2"), planning(tmp_path):
        for ahead_s in (0, OVER_S, -OVER_S):
            monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: then() + ahead_s)
            with pytest.raises(ManifestError, match=r"is at work here \(\.lock\.1-of-2: pid "):
                check_alone(tmp_path)
        make_old(tmp_path / ".lock.1-of-2")
        check_alone(tmp_path)
