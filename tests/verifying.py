"""A workspace with variants and with caches of both formats, to be damaged and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from commands import invoke
from extracting import Extract, fill
from images import make_class_folders
from processes import tree
from shards import flip_bit

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.execution import inline
from pipelines.progress import Silent
from pipelines.workspace import read_file

VARIANTS = "variants/jpeg"
CACHES = {"features": Extract("parquet"), "tf": Extract("tfrecord", "uint8")}
NUM_VARIANTS, NUM_FEATURES = 3, 6  # shards of the variants, of the two nodes in a folder of caches
# Shards of each kind, and the folder of caches where they lie.
PATTERNS = {
    "variants": (f"{VARIANTS}/train-*.parquet", ""),
    "parquet": ("features/front/train-*.parquet", "features"),
    "tfrecord": ("tf/pool/train-*.tfrecord", "tf"),
}


def make_workspace(root: Path) -> Path:
    """Compress a few images and extract made-up ones; the caches of TFRecord lie in tf/."""
    make_class_folders(root / "images", num_per_class=6)
    workspace = root / "workspace"
    workspace.mkdir()
    (workspace / "bottleneck.toml").write_text(f'[compress]\nimages = "{root / "images"}"\n')
    compress_again(workspace)
    for name, extract in CACHES.items():
        fill(workspace / name, extract)
    return workspace


def compress_again(workspace: Path) -> dict[str, Any]:
    """Make the variants, or go on with them; returns the summary."""
    kept = read_file(workspace)["compress"]
    config = CompressConfig(**kept, qualities=(50,), shards=NUM_VARIANTS)
    return compress.run(workspace, config, 0, Silent(), inline.open_crew)


def run_stage(workspace: Path, kind: str) -> int:
    """Run the stage that made the shards of a kind; returns how many it took over."""
    if kind != "variants":
        features = PATTERNS[kind][1]
        return fill(workspace / features, CACHES[features]).num_resumed_shards
    return compress_again(workspace)["num_resumed_shards"]


def verified(workspace: Path, *flags: str, features: str = "", status: int) -> dict[str, Any]:
    """Run `bottleneck verify --json`; returns its summary.

    Args:
        workspace: where.
        flags: more of them.
        features: folder of the caches that are looked at, where it is not the usual one.
        status: the exit status that is expected.
    """
    flags = (*flags, *(("--features-dir", str(workspace / features)) if features else ()))
    result = invoke("verify", *flags, "--json", "-C", workspace)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def content(workspace: Path) -> dict[str, bytes]:
    """Return every file's bytes, but not of locks, nor of what was moved aside."""
    found = tree(workspace, (".lock",))
    return {name: data for name, data in found.items() if "/bad/" not in name}


def flip_middle(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    path.write_bytes(flip_bit(path.read_bytes(), 4 * path.stat().st_size))


def first(workspace: Path, pattern: str) -> Path:
    """Return the first file that a pattern finds."""
    return min(workspace.glob(pattern))
