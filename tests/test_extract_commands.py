"""`bottleneck extract` with a real network: killed at seven moments, and started twice at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import make_class_folders
from processes import PROGRAM, bottleneck, snapshots, tree, wait_until

from pipelines import extract
from pipelines.config import ExtractConfig
from pipelines.execution import inline
from pipelines.progress import Silent

NODES = ("avg_pool", "top_activation")
NUM_SHARDS = 6
CONFIG = ExtractConfig(
    backbone="efficientnet_lite0",
    branches=("original", "q050"),
    node=NODES,
    batch_size=2,
    shards=NUM_SHARDS,
    format="tfrecord",
    dtype="uint8",
    check_images=3,
)
COMMAND = (
    *("extract", "--backbone", CONFIG.backbone, "--branches", "original,q050"),
    *(flag for node in NODES for flag in ("--node", node)),
    *("--batch-size", "2", "--shards", str(NUM_SHARDS), "--check-images", "3"),
    *("--format", CONFIG.format, "--dtype", CONFIG.dtype),
)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("networks_once")]


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the variants of twelve images."""
    root = tmp_path_factory.mktemp("compressed")
    make_class_folders(root / "images", num_per_class=6)
    workspace = root / "workspace"
    workspace.mkdir()
    (workspace / "bottleneck.toml").touch()
    flags = ["--qualities", "50", "--shards", "3"]
    result = bottleneck(workspace, "compress", "--images", str(root / "images"), *flags)
    assert result.returncode == 0, result.stderr
    return workspace


@pytest.fixture(scope="module")
def clean(compressed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command comes to when nothing goes wrong."""
    workspace = Path(shutil.copytree(compressed, tmp_path_factory.mktemp("clean") / "workspace"))
    result = bottleneck(workspace, *COMMAND)
    assert result.returncode == 0, result.stderr
    return tree(workspace / "features")


def moments(features_dir: Path) -> list:
    """Return seven moments of the command, one after another, as functions that say "now".

    A file that is there for a moment only may have been missed; the next thing that stays counts.
    """
    first, second = (features_dir / node for node in NODES)

    def num_receipts() -> int:
        return len([*features_dir.glob("*/receipts/*.json")])

    return [
        lambda: (first / ".lock").exists() and (second / ".lock").exists(),
        lambda: (first / "plan.json").exists(),
        lambda: (second / "plan.json").exists(),
        lambda: any(features_dir.glob("*/.train-00000-*.tmp")) or num_receipts() >= 1,
        lambda: num_receipts() >= 1,
        lambda: any(features_dir.glob("*/cut-check.json")),
        lambda: num_receipts() >= 10,
    ]


def is_planned(node_dir: Path) -> bool:
    return (node_dir / "plan.json").exists() and not any(node_dir.parent.glob("*/.lock.plan"))


@contextlib.contextmanager
def heartbeat(lock: Path) -> Iterator[None]:
    """Touch a lock for its holder, which is stopped, however long the block takes."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.5):
            os.utime(lock)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_extract_command_killed_at_seven_moments_ends_with_the_same_bytes(
    compressed, clean, tmp_path
):
    workspace = Path(shutil.copytree(compressed, tmp_path / "workspace"))
    features_dir, copies = workspace / "features", tmp_path / "copies"
    snapshots(moments(features_dir), features_dir, copies, workspace, *COMMAND)
    states = {str(sorted(tree(copies / str(number), ()))) for number in range(7)}
    assert len(states) >= 5, "moments that differ"
    for number in range(7):
        shutil.rmtree(features_dir)
        shutil.copytree(copies / str(number), features_dir)
        num_held = len([*features_dir.glob("*/receipts/*.json")])
        summary = extract.run(workspace, CONFIG, 0, Silent(), inline.open_crew)
        assert summary["num_resumed_shards"] == num_held <= 2 * NUM_SHARDS
        assert tree(features_dir) == clean, f"killed at moment {number}"


def test_extract_command_beside_another_exits_1_naming_it(compressed, clean, tmp_path):
    workspace = Path(shutil.copytree(compressed, tmp_path / "workspace"))
    program = [PROGRAM, *COMMAND, "-C", str(workspace)]
    first, second = (workspace / "features" / node for node in NODES)
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as other:
        try:
            # Has planned, and keeps nobody waiting who would plan, too.
            wait_until(lambda: is_planned(second) or other.poll() is not None)
            other.send_signal(signal.SIGSTOP)  # so that it is not done too soon
            with heartbeat(first / ".lock"):
                result = bottleneck(workspace, *COMMAND)
            other.send_signal(signal.SIGCONT)
            errors = other.communicate(timeout=120)[1]
        finally:
            other.kill()
    assert result.returncode == 1
    assert result.stdout == ""
    said = result.stderr.splitlines()[-1]
    assert said.startswith(f"error: {first}: another command is at work here (.lock: pid ")
    assert f"pid {other.pid} on " in said
    assert other.returncode == 0, errors
    assert tree(workspace / "features") == clean
