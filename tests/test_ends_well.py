"""Commands that are ended: at once, in one line, with no process and no file left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from images import make_class_folders
from processes import PROGRAM, children, started, state, tree, wait_until

_WITHIN_S = 10.0  # far more than it takes; what is stuck would stay for minutes
WORDS = "interrupted; what is whole is kept, the same command goes on from there"


def is_alive(pid: int) -> bool:
    return state(pid) not in ("Z", "X")


def is_python_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "set", num_per_class=30, size=(240, 320))
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/bottleneck.toml").write_text(
        '[compress]\nimages = "../set"\nshards = 12\n'
        '[extract]\nbackbone = "efficientnet_lite0"\nshards = 12\n'
    )
    return tmp_path / "workspace"


def workers_of(process: subprocess.Popen[str], number: int) -> list[int]:
    """Wait until a command has so many workers, and return their numbers."""

    def found() -> list[int]:
        assert process.poll() is None, process.stderr.read()
        return [pid for pid in children(process.pid) if is_python_worker(pid)]

    wait_until(lambda: len(found()) >= number)
    return found()


def leftovers(workspace: Path) -> list[str]:
    names = [path.name for path in workspace.rglob("*") if path.is_file()]
    return [
        name
        for name in names
        if name.endswith(".tmp") or (name.startswith(".lock") and name != ".lock.guard")
    ]


def all_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + _WITHIN_S
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(is_alive, pids))


@pytest.mark.parametrize("gaps_s", [(), (0.0,), (0.02, 0.05), (0.3,)])
def test_compress_ctrl_c_pressed_any_number_of_times_ends_everything(workspace, gaps_s):
    with started(workspace, "compress", "--workers", "2") as process:
        pids = workers_of(process, 2)
        os.killpg(process.pid, signal.SIGINT)
        for gap_s in gaps_s:
            time.sleep(gap_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=_WITHIN_S)
        assert all_gone(pids)
    if not gaps_s:
        assert process.returncode == 1
        assert errors.splitlines()[-1] == WORDS
        assert leftovers(workspace) == []
    assert process.returncode != 0


def test_compress_asked_to_end_by_a_scheduler_ends_as_by_ctrl_c(workspace):
    with started(workspace, "compress", "--workers", "2") as process:
        pids = workers_of(process, 2)
        process.terminate()  # SIGTERM, to the command alone
        _, errors = process.communicate(timeout=_WITHIN_S)
        assert all_gone(pids)
    assert (process.returncode, errors.splitlines()[-1]) == (1, WORDS)
    assert leftovers(workspace) == []


def test_compress_killed_takes_its_workers_with_it_and_the_next_goes_on(workspace):
    with started(workspace, "compress", "--workers", "2") as process:
        pids = workers_of(process, 2)
        wait_until(lambda: any(workspace.rglob("receipts/*.json")))
        process.kill()
        process.wait()
        assert all_gone(pids)
    for name in ("workspace", "undisturbed"):
        folder = workspace.parent / name
        folder.mkdir(exist_ok=True)
        (folder / "bottleneck.toml").write_bytes((workspace / "bottleneck.toml").read_bytes())
        subprocess.run([PROGRAM, "compress", "-C", folder, "-q"], check=True)
    assert leftovers(workspace) == []
    assert tree(workspace / "variants") == tree(workspace.parent / "undisturbed/variants")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_extract_ended_while_its_worker_loads_the_network_leaves_no_process(workspace, ending):
    subprocess.run([PROGRAM, "compress", "-C", workspace, "--limit", "12", "-q"], check=True)
    with started(workspace, "extract") as process:
        pids = workers_of(process, 1)
        time.sleep(0.5)
        if ending == signal.SIGINT:
            os.killpg(process.pid, ending)
        else:
            process.send_signal(ending)
        _, errors = process.communicate(timeout=_WITHIN_S)
        assert all_gone(pids)
    assert process.returncode == (-ending if ending == signal.SIGKILL else 1)
    if ending != signal.SIGKILL:
        assert errors.splitlines()[-1] == WORDS
        assert leftovers(workspace) == []
