"""Caches that are there already, found by any spelling of their node's name."""

from __future__ import annotations

from pathlib import Path

from pipelines.errors import ManifestError
from pipelines.storage.cache import loosely
from pipelines.storage.layout import FORMAT_VERSION
from pipelines.storage.manifest import PLAN, ShardFolder
from pipelines.storage.plan import Plan


def read_plan(folder: ShardFolder, overwrite: bool) -> Plan | None:
    """Return the published plan; None where there is none, or a damaged one may be replaced."""
    try:
        return folder.read_plan("features", FORMAT_VERSION)
    except ManifestError:
        if not overwrite:
            raise
        return None


def names_of_default(features_dir: Path, backbone_name: str) -> list[str]:
    """Find the cache of the node that is taken where none is named."""
    folders = [ShardFolder(path.parent) for path in features_dir.glob(f"*/{PLAN}")]
    plans = [(folder.path.name, read_plan(folder, True)) for folder in folders]
    return [
        name
        for name, plan in plans
        if plan
        and plan.details.get("feeds_decision")
        and plan.fingerprint["backbone"] == backbone_name
    ]


def existing_folder(features_dir: Path, name: str) -> ShardFolder | None:
    """Find a node's folder by any spelling of its name (`mixed9` is `mixed_9`)."""
    if not features_dir.is_dir():
        return None
    for path in sorted(features_dir.iterdir()):
        if loosely(path.name) == loosely(name):
            return ShardFolder(path)
    return None
