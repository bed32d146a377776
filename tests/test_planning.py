"""One process at a time plans: beside shares, never beside another's whole."""

from __future__ import annotations

import contextlib
import os

import pytest
from lockers import ELSEWHERE, HOLDER, OVER_S, names, number_of_the_dead, write_lock
from processes import ask, running, wait_until

from pipelines.errors import ManifestError
from pipelines.storage.locks import hold, planning

PLANNER = """
import sys, time
from pathlib import Path
from pipelines.storage import locks
print("ready", flush=True)
for line in sys.stdin:
    with locks.planning(Path(sys.argv[1])):
        print("planning", flush=True)
        time.sleep(float(sys.stdin.readline()))
"""
ONE_OF_MANY = """
import sys
from pathlib import Path
from pipelines.storage import locks
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with locks.hold(folder, share=sys.argv[2]), locks.planning(folder) as lock:
    (folder / "inside").touch(exist_ok=False)
    has_planned = not (folder / "plan").exists()
    (folder / "plan").touch()
    lock.check()
    (folder / "inside").unlink()
print("first" if has_planned else "then", flush=True)
"""


def refuse_to_wait(words: str) -> None:
    raise AssertionError(words)


def test_planning_block_ends_leaves_only_the_guard(tmp_path):
    with planning(tmp_path / "a" / "set", refuse_to_wait) as lock:
        lock.check()
        assert names(tmp_path / "a" / "set") == [".lock.guard", ".lock.plan"]
    assert names(tmp_path / "a" / "set") == [".lock.guard"]


@pytest.mark.parametrize("share", ["", "1-of-2"])
def test_planning_by_who_holds_the_folder_needs_no_waiting(share, tmp_path):
    with hold(tmp_path, share=share) as held, planning(tmp_path, refuse_to_wait) as lock:
        lock.check()
        held.check()


def test_planning_beside_anothers_share_goes(tmp_path):
    with running(HOLDER, tmp_path, "1-of-2") as process:
        assert ask(process, "hold") == "held"
        with planning(tmp_path, refuse_to_wait) as lock:
            lock.check()
    with running(PLANNER, tmp_path) as process:
        assert ask(process, "plan") == "planning"
        with hold(tmp_path, share="2-of-2") as lock:
            lock.check()


def test_planning_where_another_holds_the_whole_says_who(tmp_path):
    with running(HOLDER, tmp_path) as process:
        assert ask(process, "hold") == "held"
        words = (
            rf"{tmp_path}: another command is at work here \(\.lock: pid {process.pid} on .* stop"
        )
        with pytest.raises(ManifestError, match=words), planning(tmp_path, refuse_to_wait):
            pass
    assert names(tmp_path) == [".lock", ".lock.guard"]


def test_hold_whole_where_another_plans_says_who(tmp_path):
    with running(PLANNER, tmp_path) as process:
        assert ask(process, "plan") == "planning"
        words = rf"another command is at work here \(\.lock\.plan: pid {process.pid} on "
        with pytest.raises(ManifestError, match=words), hold(tmp_path):
            pass


def test_planning_another_plans_says_so_once_and_waits(tmp_path):
    said = []
    with running(PLANNER, tmp_path) as process, contextlib.ExitStack() as stack:
        assert ask(process, "plan") == "planning"

        def let_it_end(words: str) -> None:
            said.append(words)
            process.stdin.write("0.3\n")  # time for several looks
            process.stdin.flush()

        stack.enter_context(planning(tmp_path, let_it_end)).check()
    (words,) = said
    assert words.startswith(
        f"{tmp_path}: waiting for another command that plans here (.lock.plan: pid {process.pid} "
        f"on {os.uname().nodename}, last heartbeat "
    )


def test_planning_who_is_waited_for_is_killed_goes_on(tmp_path):
    with running(PLANNER, tmp_path) as process:
        assert ask(process, "plan") == "planning"
        with planning(tmp_path, lambda words: process.kill()) as lock:
            lock.check()


@pytest.mark.parametrize("age_s", [0.0, OVER_S])
def test_planning_dead_or_silent_one_is_taken_over_at_once(age_s, tmp_path):
    changes = ELSEWHERE if age_s else {"pid": number_of_the_dead()}
    write_lock(tmp_path / ".lock.plan", age_s, **changes)
    with planning(tmp_path, refuse_to_wait) as lock:
        lock.check()


def test_planning_taken_over_while_suspended_is_noticed(tmp_path):
    words = r"\.lock\.plan: was taken over by pid .* on node-7; this process had been silent"
    with planning(tmp_path) as lock:
        write_lock(tmp_path / ".lock.plan", **ELSEWHERE)
        with pytest.raises(ManifestError, match=words):
            lock.check()
    assert names(tmp_path) == [".lock.guard", ".lock.plan"]


def test_planning_error_in_the_block_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), planning(tmp_path):
        raise ZeroDivisionError
    assert names(tmp_path) == [".lock.guard"]


def test_planning_many_at_once_plan_one_after_the_other(tmp_path):
    with contextlib.ExitStack() as stack:
        tasks = [stack.enter_context(running(ONE_OF_MANY, tmp_path, f"{i}-of-6")) for i in range(6)]
        for task in tasks:
            task.stdin.write("go\n")
            task.stdin.flush()
        answers = sorted(task.stdout.readline() for task in tasks)
    assert answers == ["first\n"] + ["then\n"] * 5
    wait_until(lambda: names(tmp_path) == [".lock.guard", "plan"])
