"""`bottleneck extract` with a real network: workers, shares and variants on the fly, one result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from images import make_class_folders
from processes import bottleneck, tree

NODES = ("avg_pool", "top_activation")
EXTRACT = (
    *("extract", "--backbone", "efficientnet_lite0", "--branches", "original,q050"),
    *(flag for node in NODES for flag in ("--node", node)),
    *("--shards", "4", "--batch-size", "2", "--check-images", "3", "--threads", "1"),
)
pytestmark = pytest.mark.slow


def run_command(workspace: Path, *arguments: str) -> dict[str, Any]:
    result = bottleneck(workspace, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that names eight images, one of them a broken one."""
    root = tmp_path_factory.mktemp("listed")
    make_class_folders(root / "images", num_per_class=4, size=(60, 80))[2].write_bytes(b"no image")
    settings = f"images = '{root / 'images'}'\nqualities = [50]\nshards = 3\nmax_bad_share = 0.2\n"
    (root / "workspace").mkdir()
    (root / "workspace" / "bottleneck.toml").write_text(f"[compress]\n{settings}")
    return root / "workspace"


@pytest.fixture(scope="module")
def compressed(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("compressed") / "workspace"
    shutil.copytree(listed, workspace)
    run_command(workspace, "compress")
    return workspace


@pytest.fixture(scope="module")
def features(compressed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one worker makes."""
    workspace = Path(shutil.copytree(compressed, tmp_path_factory.mktemp("one") / "workspace"))
    assert run_command(workspace, *EXTRACT, "--workers", "1")["num_images"] == 7
    return tree(workspace / "features")


@pytest.fixture
def workspace(compressed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compressed, tmp_path / "workspace"))


def test_extract_command_two_workers_write_the_same_as_one(workspace, features):
    summary = run_command(workspace, *EXTRACT, "--workers", "2")
    assert (summary["num_workers"], summary["is_whole"]) == (2, True)
    assert tree(workspace / "features") == features


def test_extract_command_shares_write_the_same_as_one_start(workspace, features):
    for index, is_whole in ((1, False), (0, True)):
        flags = ["--task-index", str(index), "--num-tasks", "2", "--workers", "1"]
        summary = run_command(workspace, *EXTRACT, *flags)
        manifests = [(workspace / "features" / n / "manifest.json").exists() for n in NODES]
        assert manifests == [summary["is_whole"]] * 2 == [is_whole] * 2
    assert tree(workspace / "features") == features


def test_extract_command_on_the_fly_writes_the_same_as_from_stored_variants(
    listed, features, tmp_path
):
    workspace = Path(shutil.copytree(listed, tmp_path / "workspace"))
    summary = run_command(workspace, *EXTRACT, "--on-the-fly", "--workers", "2")
    assert (summary["num_images"], summary["num_quarantined"]) == (7, 1)
    assert not (workspace / "variants" / "jpeg").exists()
    assert tree(workspace / "features") == features
