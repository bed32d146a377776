"""Folders held by one at a time, whatever is refused, killed or suspended on the way."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disks import mounted
from lockers import (
    ELSEWHERE,
    HOLDER,
    KILLED,
    NEARLY_S,
    make_old,
    names,
    number_of_the_dead,
    write_lock,
)
from processes import ask, open_files, running, wait_until

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic, locks
from pipelines.storage.locks import hold

RACER = """
import contextlib, errno, fcntl, sys
from pathlib import Path
from pipelines.errors import ManifestError
from pipelines.storage import locks
def refuse(*_):
    raise OSError(errno.ENOLCK, "no flock here")
if sys.argv[1] == "without flock":
    fcntl.flock = refuse
print("ready", flush=True)
with contextlib.ExitStack() as kept:
    for line in sys.stdin:
        try:
            kept.enter_context(locks.hold(Path(line.rstrip())))
            print("held", flush=True)
        except ManifestError:
            print("refused", flush=True)
"""
FORKING = """
import os, sys
from pathlib import Path
from pipelines.storage import locks
with locks.hold(Path(sys.argv[1])) as lock:
    child = os.fork()
    if not child:
        raise SystemExit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    lock.check()
"""
HELD = f"""{KILLED}
with locks.hold(folder):
    pass
os._exit(0)
"""


def test_hold_block_ends_leaves_only_the_guard(tmp_path):
    with hold(tmp_path / "a" / "set"):
        assert names(tmp_path / "a" / "set") == [".lock", ".lock.guard"]
    assert names(tmp_path / "a" / "set") == [".lock.guard"]
    assert (tmp_path / "a" / "set" / ".lock.guard").read_bytes() == b""


def test_hold_block_fails_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        raise ZeroDivisionError
    assert names(tmp_path) == [".lock.guard"]


def test_hold_relative_folder_left_meanwhile_is_freed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with hold(Path("set")) as lock:
        monkeypatch.chdir(tmp_path / "elsewhere")
        lock.check()
    assert names(tmp_path / "set") == [".lock.guard"]


def test_hold_other_process_holds_it_says_who(tmp_path):
    with running(HOLDER, tmp_path) as process:
        assert ask(process, "hold") == "held"
        make_old(tmp_path / ".lock", 30)
        words = (
            rf"{tmp_path}: another command is at work here \(\.lock: pid {process.pid} on "
            rf"{os.uname().nodename}, last heartbeat 3\d s ago\); wait for it or stop it"
        )
        with pytest.raises(ManifestError, match=words), hold(tmp_path):
            pass
        assert ask(process, "check") == "mine"


@pytest.mark.parametrize(
    ("first", "second", "goes"),
    [
        ("", "", False),
        ("", "1-of-2", False),
        ("1-of-2", "", False),
        ("1-of-2", "1-of-2", False),
        ("1-of-2", "2-of-2", True),
        ("1-of-12", "11-of-12", True),
        ("1-of-2", "1-of-12", False),
    ],
)
def test_hold_share_goes_with_shares_of_as_many_alone(first, second, goes, tmp_path):
    with hold(tmp_path, share=first):
        refused = pytest.raises(ManifestError, match=r"is at work.* \(\.lock")
        with contextlib.nullcontext() if goes else refused, hold(tmp_path, share=second) as lock:
            lock.check()
    assert names(tmp_path) == [".lock.guard"]


def test_hold_share_of_another_number_says_what_to_do(tmp_path):
    with running(HOLDER, tmp_path, "3-of-8") as process:
        assert ask(process, "hold") == "held"
        words = (
            rf"{tmp_path}: share 1-of-4 was asked for, and share 3-of-8 is at work "
            rf"\(\.lock\.3-of-8: pid {process.pid} on {os.uname().nodename}, last .* s ago\); "
            r"shares with different --num-tasks may not run at the same time; "
            r"wait for them, or give the same --num-tasks 8$"
        )
        with pytest.raises(ManifestError, match=words), hold(tmp_path, share="1-of-4"):
            pass
        process.kill()
        process.wait()
        with hold(tmp_path, share="1-of-4"):
            assert names(tmp_path) == [".lock.1-of-4", ".lock.guard"]


@pytest.mark.parametrize("share", ["guard", "../a", "1-of-2 ", "1", "read.0", "plan"])
def test_hold_no_share_raises(share, tmp_path):
    with (
        pytest.raises(ValueError, match="expected one such as '3-of-8'"),
        hold(tmp_path, share=share),
    ):
        pass


def test_hold_wait_begins_when_the_other_ends(tmp_path, monkeypatch):
    first = contextlib.ExitStack()
    first.enter_context(hold(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: first.close())
    with hold(tmp_path, wait=True) as lock:
        lock.check()


def test_hold_clock_of_this_host_is_wrong_goes_by_the_file_systems(tmp_path, monkeypatch):
    write_lock(tmp_path / ".lock", **ELSEWHERE)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    with pytest.raises(ManifestError, match="another command is at work"), hold(tmp_path):
        pass


def test_hold_lock_from_far_in_the_future_is_no_heartbeat(tmp_path):
    write_lock(tmp_path / ".lock", age_s=-86400, **ELSEWHERE)
    with hold(tmp_path) as lock:
        lock.check()
    write_lock(tmp_path / ".lock", age_s=-NEARLY_S, **ELSEWHERE)
    with pytest.raises(ManifestError, match="another command is at work"), hold(tmp_path):
        pass


def test_hold_leftovers_of_the_dead_are_swept_and_nothing_else(tmp_path):
    dead = number_of_the_dead()
    for name in (".lock.new.0a", ".lock.read.0b", ".lock.2-of-3"):
        write_lock(tmp_path / name, pid=dead)
    (tmp_path / ".lock.new.0c").write_bytes(b'{"pid"')
    make_old(tmp_path / ".lock.new.0c")
    kept = [".lock.md", ".lock.new.0d", ".lock.read.0e", "a.tmp"]
    for name in kept:
        write_lock(tmp_path / name)
    make_old(tmp_path / ".lock.md")
    with hold(tmp_path):
        pass
    assert names(tmp_path) == sorted([".lock.guard", *kept])


def test_hold_killed_at_any_operation_leaves_what_the_next_one_takes(tmp_path):
    for operation in itertools.count():
        folder = tmp_path / str(operation)
        code = subprocess.run([sys.executable, "-c", HELD, folder, str(operation)]).returncode
        with hold(folder) as lock:
            lock.check()
            assert names(folder) == [".lock", ".lock.guard"]
        if not code:
            break
        assert code == -signal.SIGKILL
    assert operation > 8


def race(folders: list[Path], condition: str) -> list[list[str]]:
    """Let eight processes go for one folder after the other; returns the answers for each."""
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(running(RACER, condition)) for _ in range(8)]
        found = []
        for folder in folders:
            for racer in racers:
                racer.stdin.write(f"{folder}\n")
            for racer in racers:
                racer.stdin.flush()
            found.append(sorted(racer.stdout.readline() for racer in racers))
        return found


def test_hold_many_at_once_find_a_dead_one_and_one_takes_it(tmp_path):
    folders = [tmp_path / str(number) for number in range(20)]
    dead = number_of_the_dead()
    for folder in folders:
        write_lock(folder / ".lock", pid=dead)
    assert race(folders, "with flock") == [["held\n"] + ["refused\n"] * 7] * 20


def test_hold_many_at_once_without_flock_one_takes_it(tmp_path):
    folders = [tmp_path / str(number) for number in range(20)]
    assert race(folders, "without flock") == [["held\n"] + ["refused\n"] * 7] * 20


def test_hold_file_system_without_links_holds(tmp_path, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with hold(tmp_path) as lock:
        lock.check()
        assert names(tmp_path) == [".lock", ".lock.guard"]


@pytest.mark.parametrize(("other", "goes"), [(".lock.1-of-2", False), (".lock.read.0a", True)])
def test_hold_another_begins_at_the_same_moment_is_seen(other, goes, tmp_path, monkeypatch):
    link = os.link

    def link_behind_another(source: Path, target: Path) -> None:
        write_lock(tmp_path / other, **ELSEWHERE)
        link(source, target)

    monkeypatch.setattr(os, "link", link_behind_another)
    refused = pytest.raises(ManifestError, match=r"is at work here \(\.lock\.1-of-2: pid .* node-7")
    with contextlib.nullcontext() if goes else refused, hold(tmp_path):
        assert goes
    assert names(tmp_path) == sorted([".lock.guard", other])


def test_hold_name_taken_at_the_same_moment_says_who(tmp_path, monkeypatch):
    link = os.link

    def link_behind_another(source: Path, target: Path) -> None:
        write_lock(tmp_path / ".lock", **ELSEWHERE)
        link(source, target)

    monkeypatch.setattr(os, "link", link_behind_another)
    with pytest.raises(ManifestError, match=r"\.lock: pid .* on node-7, last"), hold(tmp_path):
        pass
    assert names(tmp_path) == [".lock", ".lock.guard"]


def test_hold_looks_and_takes_alone(tmp_path):
    with running(HOLDER, tmp_path) as process:
        with atomic.alone(tmp_path, ".lock.guard", wait_s=0):
            process.stdin.write("hold\n")
            process.stdin.flush()
            wait_until(lambda: tmp_path / ".lock.guard" in open_files(process.pid))
            write_lock(tmp_path / ".lock")
        assert f"pid {os.getpid()} on" in process.stdout.readline()


def test_hold_guard_kept_by_a_suspended_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SILENT_S", 0.05)
    with atomic.alone(tmp_path, ".lock.guard", wait_s=0), hold(tmp_path):
        assert names(tmp_path) == [".lock", ".lock.guard"]


@pytest.mark.parametrize(
    ("options", "words"),
    [("ro", "Read-only file"), ("nr_inodes=1", "No space left"), ("nr_inodes=2", "No space left")],
)
def test_hold_file_system_refuses_is_an_error(options, words, tmp_path):
    with mounted(tmp_path / "disk", options) as disk:
        with pytest.raises(ShardError, match=f"disk: cannot be locked: {words}"), hold(disk):
            pass
        assert names(disk) in ([], [".lock.guard"])


def test_hold_child_forked_meanwhile_does_not_let_go(tmp_path):
    subprocess.run([sys.executable, "-c", FORKING, tmp_path], check=True)
