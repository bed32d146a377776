"""Workers and their parents killed at random for a few seconds; and that it would be noticed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import working

SOAK = Path(__file__).parent / "soak" / "workers.py"


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "seed"), [("compress", 4), ("extract", 2)])
def test_soak_few_seconds_of_kills_change_nothing_and_leave_nothing(stage, seed):
    command = [sys.executable, SOAK, "--seconds", "3", "--seed", str(seed), "--stage", stage]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["faults"] == []
    assert summary["rounds"] >= 1
    assert summary["killed_workers"] + summary["killed_parents"] >= 1


@pytest.fixture
def fault_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Return what finds the fault of a program that is to leave the file `a` and nothing else."""
    monkeypatch.syspath_prepend(SOAK.parent)
    monkeypatch.setattr(working, "_DEADLINE_S", 5.0)
    import workers

    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    (tmp_path / "undisturbed" / "a").write_text("whole")

    def find(program: str) -> str:
        folder = tmp_path / "disturbed"
        prelude = "import os, sys, subprocess; os.chdir(sys.argv[1])\n"
        command = [sys.executable, "-c", prelude + program, folder]
        made = workers.Made("", tmp_path / "undisturbed", folder, [command], 0.0)
        return workers.Round(random.Random(0), made).run()

    return find


def test_soak_what_ends_as_it_should_is_no_fault(fault_of):
    assert fault_of("open('a', 'w').write('whole'); open('.lock.guard', 'w')") == ""


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("open('a', 'w').write('half')", "1 files differ, first a"),
        ("pass", "1 files differ, first a"),
        (
            "open('a', 'w').write('whole'); open('.a.17-beef.tmp', 'w')",
            "1 files differ, first .a.17-beef.tmp",
        ),
        ("open('a', 'w').write('whole'); open('.lock', 'w')", "1 files differ, first .lock"),
        ("sys.exit('error: no such thing')", "a start ended with 1: error: no such thing\n"),
    ],
)
def test_soak_what_ends_otherwise_is_a_fault(program, fault, fault_of):
    assert fault_of(program) == fault


def test_soak_process_that_is_left_is_a_fault(fault_of):
    quiet = "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True"
    sleeper = f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], {quiet})"
    fault = fault_of(f"open('a', 'w').write('whole'); {sleeper}")
    assert fault.startswith("processes are left: [")
    for pid in json.loads(fault.partition(": ")[2]):
        os.kill(pid, signal.SIGKILL)
