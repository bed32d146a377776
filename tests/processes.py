"""Commands as real processes, killed at a moment of the test's choice; trees of files compared."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("bottleneck")
_DEADLINE_S = 120.0


def bottleneck(workspace_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the program in a workspace to its end."""
    return subprocess.run(
        [PROGRAM, *arguments, "-C", str(workspace_dir)],
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
        [PROGRAM, *arguments, "-C", str(workspace_dir)],
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


def _take_ctrl_c() -> None:
    """Let a new process act on Ctrl-C, though a shell may have these tests ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(workspace: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own, as a terminal does."""
    with subprocess.Popen(
        [PROGRAM, *arguments, "-C", str(workspace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_take_ctrl_c,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def snapshots(
    times: Sequence[Callable[[], bool]],
    folder: Path,
    copies: Path,
    workspace: Path,
    *arguments: str,
) -> None:
    """Stop a command at several moments, copy a folder each time, and kill it at the last one.

    A process that is stopped has written just what one that is killed there leaves behind; its
    workers are stopped with it.

    Args:
        times: each tells whether its moment has come; one after another.
        folder: what is copied.
        copies: where the copies go, as 0, 1 ...
        workspace: where the command runs.
        arguments: of the command.
    """
    command = [PROGRAM, *arguments, "-C", str(workspace)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            for number, is_time in enumerate(times):
                deadline = time.monotonic() + _DEADLINE_S
                while not is_time():
                    assert process.poll() is None, f"ended before {number}: {process.stderr.read()}"
                    assert time.monotonic() < deadline, f"moment {number} never came"
                    time.sleep(0.001)
                family = [process.pid, *children(process.pid)]
                for pid in family:
                    os.kill(pid, signal.SIGSTOP)
                wait_until(lambda pids=family: all(state(pid) == "T" for pid in pids))
                shutil.copytree(folder, copies / str(number))
                if number + 1 < len(times):
                    for pid in family:
                        os.kill(pid, signal.SIGCONT)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def children(pid: int) -> list[int]:
    """List the processes below one."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *children(child)]
    return found


def state(pid: int) -> str:
    """Return the letter for what a process does (see proc(5)); "X" where there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


@contextlib.contextmanager
def running(code: str, *arguments: Path | str) -> Iterator[subprocess.Popen[str]]:
    """Run Python code until it says it is ready; stdin and stdout are the test's; kill it then."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], line: str) -> str:
    """Give a process that runs a line and return the one that it answers."""
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().rstrip("\n")


def open_files(pid: int) -> set[Path]:
    """Return what files a process has open."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(path.readlink())
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another process or thread is about to do; fails when it never does."""
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.002)


def modules_loaded_by(
    workspace_dir: Path, *arguments: str, status: int = 0
) -> tuple[str, set[str]]:
    """Run a command in a fresh interpreter; returns its output and the top-level modules loaded."""
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
    assert result.returncode == status, result.stderr
    output, _, modules = result.stdout.partition("MODULES")
    return output + result.stderr, set(modules.split())


def tree(folder: Path, leave_out: Sequence[str] = (".lock",)) -> dict[str, bytes]:
    """Return the bytes of every file below a folder by its path in there.

    Without those of certain names, locks' guards, what commands log, and what a killed check of the
    disk has left, which stays for a minute.
    """
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in (".lock.guard", *leave_out)
        and path.relative_to(folder).parts[0] != "logs"
        and not path.parent.name.startswith(".disk.")
    }


def num_lines(path: Path) -> int:
    """Count the ends of line in a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if os.path.exists(path) else 0  # noqa: PTH110
