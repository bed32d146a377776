"""Commands as real processes, killed at a moment of the test's choice; trees of files compared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_COMMAND = Path(sys.executable).with_name("bottleneck")
_DEADLINE_S = 120.0


def bottleneck(workspace_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the program in a workspace to its end."""
    return subprocess.run(
        [_COMMAND, *arguments, "-C", str(workspace_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_DEADLINE_S,
    )


def kill_when(
    is_time: Callable[[], bool], workspace_dir: Path, *arguments: str, every_s: float = 0.002
) -> None:
    """Start a command and end it with SIGKILL as soon as `is_time()`; fails when it ended first."""
    with subprocess.Popen(
        [_COMMAND, *arguments, "-C", str(workspace_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + _DEADLINE_S
        try:
            while not is_time():
                assert process.poll() is None, f"ended too early: {process.stderr.read()}"
                assert time.monotonic() < deadline, "the moment never came"
                time.sleep(every_s)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def modules_loaded_by(workspace_dir: Path, *arguments: str) -> tuple[str, set[str]]:
    """Run a command in a fresh interpreter; returns its stdout and the top-level modules loaded."""
    program = (
        "import sys\n"
        "from bottleneck_cli.main import main\n"
        "status = main(sys.argv[1:], standalone_mode=False)\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})\n"
        "sys.exit(status)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments, "-C", str(workspace_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_DEADLINE_S,
    )
    assert result.returncode == 0, result.stderr
    output, _, modules = result.stdout.partition("MODULES")
    return output + result.stderr, set(modules.split())


def tree(folder: Path, leave_out: Sequence[str] = (".lock",)) -> dict[str, bytes]:
    """Return the bytes of every file below a folder by its path in there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in leave_out
    }


def num_lines(path: Path) -> int:
    """Count the ends of line in a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if os.path.exists(path) else 0  # noqa: PTH110
