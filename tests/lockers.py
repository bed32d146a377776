"""Locks as other processes leave them, and a process that holds one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from pipelines.storage import holders, locks

OVER_S = locks.SILENT_S + 1
NEARLY_S = locks.SILENT_S - 10
ELSEWHERE = {"host": "node-7", "machine": "node-7 another-boot 1"}
HOLDER = """
import sys
from pathlib import Path
from pipelines.errors import PipelineError
from pipelines.storage import locks
print("ready", flush=True)
for line in sys.stdin:
    try:
        with locks.hold(Path(sys.argv[1]), share="".join(sys.argv[2:])) as lock:
            print("held", flush=True)
            for line in sys.stdin:
                lock.check()
                print("mine", flush=True)
    except PipelineError as error:
        print(error, flush=True)
"""
# Ends itself at the operation of the number that it is given; what it does then is added to this.
KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.storage import locks
left = int(sys.argv[2])
def count(event, arguments):
    global left
    if event in ("open", "fcntl.flock", "os.link", "os.remove", "os.rename", "os.utime"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
sys.addaudithook(count)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_old(path: Path, seconds: float = OVER_S) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def write_lock(path: Path, age_s: float = 0.0, **changes: object) -> None:
    """Write a lock of this process, but for what is changed, as another would find it."""
    path.parent.mkdir(exist_ok=True)
    passing = path.with_name("passing")
    passing.write_bytes(dataclasses.replace(holders.this_process(), **changes).to_bytes())
    make_old(passing, age_s)
    passing.replace(path)


def number_of_the_dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid
