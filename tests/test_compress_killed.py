"""Compress stopped by SIGKILL or Ctrl-C: started again it ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from images import make_class_folders
from processes import bottleneck, kill_when, started, tree

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.execution import inline
from pipelines.progress import Silent


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of images that take long enough to be killed in between."""
    root = tmp_path_factory.mktemp("large")
    make_class_folders(root, num_per_class=20, size=(240, 320))
    return root


@pytest.fixture(scope="module")
def clean(large: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the ten variants of the large images come to when nothing goes wrong."""
    workspace = tmp_path_factory.mktemp("clean")
    compress.run(
        workspace, CompressConfig(images=str(large), shards=6), 0, Silent(), inline.open_crew
    )
    return tree(workspace)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("num_receipts", range(1, 6))
def test_compress_killed_between_shards_ends_with_the_same_bytes(
    num_receipts, workers, large, clean, tmp_path
):
    (tmp_path / "bottleneck.toml").touch()
    arguments = ["compress", "--images", str(large), "--shards", "6", "--workers", str(workers)]
    receipts = tmp_path / "variants/jpeg/receipts"
    kill_when(lambda: len([*receipts.glob("*.json")]) >= num_receipts, tmp_path, *arguments)
    result = bottleneck(tmp_path, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_resumed_shards"] >= num_receipts
    assert tree(tmp_path, (".lock", "bottleneck.toml")) == clean


def test_compress_killed_within_a_shard_ends_with_the_same_bytes(large, clean, tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    arguments = ["compress", "--images", str(large), "--shards", "6", "--workers", "1"]
    set_dir = tmp_path / "variants/jpeg"
    kill_when(lambda: any(set_dir.glob(".train-00002*.tmp")), tmp_path, *arguments)
    assert [*set_dir.glob(".train-00002*.tmp")], "was not killed within the shard"
    assert bottleneck(tmp_path, *arguments).returncode == 0
    assert tree(tmp_path, (".lock", "bottleneck.toml")) == clean


@pytest.mark.parametrize("workers", [1, 2])
def test_compress_interrupted_says_so_in_one_line_and_goes_on(workers, large, clean, tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    flags = ["--shards", "6", "--workers", str(workers)]
    arguments = ["compress", "--images", str(large), *flags]
    set_dir = tmp_path / "variants/jpeg"
    with started(tmp_path, *arguments) as process:
        while process.poll() is None and not any(set_dir.glob(".train-00001*.tmp")):
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to workers, too
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    lines = [line for line in errors.splitlines() if not line.startswith(("hash: ", "no splits "))]
    assert lines == ["interrupted; what is whole is kept, the same command goes on from there"]
    assert not any(tmp_path.rglob("*.tmp"))
    assert not (set_dir / "manifest.json").exists()
    assert bottleneck(tmp_path, *arguments).returncode == 0
    assert tree(tmp_path, (".lock", "bottleneck.toml")) == clean
