"""The cache of the control set that goes with a run's, and what of it takes part."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError, ManifestError, ShardError
from pipelines.runs import Run
from pipelines.storage import content, set_folders
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.set_folders import CONTROL
from pipelines.storage.variants import ORIGINAL

# What would be a difference between the sets that is none of their images' versions.
_SAME = ("backbone", "weights_sha256", content.KEY, "protocol")


def open_for(workspace_dir: Path, described: Run, cache: FeatureCache) -> FeatureCache:
    """Open the cache of the control set that goes with a run's.

    Args:
        workspace_dir: the workspace.
        described: the run.
        cache: that it reads.

    Raises:
        ManifestError: there is none, or it was made otherwise than the run's but for the versions.
        ShardError: it is not whole.
        ConfigError: it has fewer versions than the run has branches, or no originals.
    """
    features_dir = workspace_dir / set_folders.features(described.features_dir, CONTROL)
    commands = (
        f"run `bottleneck compress --set control`, then `{shlex.join(_extract(described, cache))}`"
    )
    try:
        found = FeatureCache(find_folder(features_dir, described.node))
    except (ManifestError, ShardError) as error:
        raise ManifestError(f"the control set has no whole cache: {commands} ({error})") from error
    for key, value in _identity(cache).items():
        other = _identity(found)[key]
        if other != value:
            raise ManifestError(
                f"{found.path}: made with another {key} than {cache.path}; {commands}, each with "
                "--overwrite"
            )
    _check_versions(described, found)
    return found


def is_there(workspace_dir: Path, described: Run) -> bool:
    """Tell whether the control set has a cache of the run's node, whatever it is."""
    features_dir = workspace_dir / set_folders.features(described.features_dir, CONTROL)
    return (features_dir / described.node).exists()


def branches_for(described: Run, branches: Sequence[str]) -> tuple[str, ...]:
    """Return as many branches of the control set as a run has, with the original where it has it.

    Args:
        described: the run.
        branches: of the control set's cache.
    """
    others = [branch for branch in branches if branch != ORIGINAL]
    has_original = ORIGINAL in described.branches
    taken = others[: len(described.branches) - has_original]
    return (ORIGINAL, *taken) if has_original else tuple(taken)


def is_of_control(described: Run) -> bool:
    """Tell whether a run reads a cache of the control set."""
    return set_folders.settings_of(described.features_dir)[1] == CONTROL


def _check_versions(described: Run, found: FeatureCache) -> None:
    branches = found.layout.branches
    if ORIGINAL not in branches:  # the default model on it is what the others are held against
        raise ConfigError(
            f"{found.path}: lacks the branch {ORIGINAL}; extract it again with that among its "
            "--branches, and --overwrite"
        )
    taken = branches_for(described, branches)
    if len(taken) < len(described.branches):
        raise ConfigError(
            f"{found.path}: has {len(taken)} branches, and the run {len(described.branches)}; "
            "leave the control set out, or train a run of fewer --branches"
        )


def _extract(described: Run, cache: FeatureCache) -> list[str]:
    """Return the words of the command that makes the cache, whatever bottleneck.toml says."""
    words = ["bottleneck", "extract", "--set", CONTROL, "--node", described.node]
    words += ["--backbone", cache.fingerprint["backbone"], "--dtype", cache.layout.dtype]
    weights, default = cache.details.get("weights"), ExtractConfig()
    if weights not in (None, default.weights):
        words += ["--weights", str(weights)]
    if described.features_dir != default.features_dir:
        words += ["--features-dir", described.features_dir]
    return words


def _identity(cache: FeatureCache) -> dict[str, Any]:
    """Return what both caches have to have in common."""
    return {
        **{key: cache.fingerprint.get(key) for key in _SAME},
        "dtype": cache.layout.dtype,
        "precision": cache.fingerprint.get("profile", {}).get("precision"),
    }
