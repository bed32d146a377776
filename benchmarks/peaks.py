"""What a command holds at most: resident memory of its process and of those that it starts.

Linux only: the figures are those of /proc, the shared libraries of each process included; added up,
though they may not have been at their highest all at once.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

_PROGRAM = "from bottleneck_cli.main import main; main()"
_LOOK_EVERY_S = 0.02


def peak_mb(*arguments: str) -> float:
    """Run `bottleneck` with these arguments in a process; its peak resident memory in MB.

    Raises:
        RuntimeError: the command failed; its own message is on stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments, "-q"], stdout=subprocess.DEVNULL
    )
    highest_kb: dict[int, int] = {}
    while process.poll() is None:
        for pid in _family(process.pid):
            # The last look counts: before its `exec` a process has the memory of the one that
            # started it, and from there on its peak only rises.
            highest_kb[pid] = _highest_kb(pid) or highest_kb.get(pid, 0)
        time.sleep(_LOOK_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"bottleneck {' '.join(arguments)}: exit status {process.returncode}")
    return sum(highest_kb.values()) * 1024e-6


def _family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text(encoding="ascii").split():
                found += _family(int(child))
    return found


def _highest_kb(pid: int) -> int:
    """Return what a process held at most so far, in KiB; 0 for one that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
