"""Caches that are there and whole, found without loading the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError
from pipelines.execution.tasks import Output
from pipelines.extraction import cut_check
from pipelines.extraction.plans import MEND
from pipelines.storage import existing
from pipelines.storage.fingerprint import check_same
from pipelines.storage.layout import FORMAT_VERSION


def names(features_dir: Path, asked: Sequence[str], backbone: str) -> list[str]:
    """Name the nodes that are asked for, as far as their caches are begun."""
    return list(asked) or existing.names_of_default(features_dir, backbone)


def planned_batch_size(
    features_dir: Path, named: Sequence[str], asked: Mapping[str, Any], overwrite: bool
) -> int | None:
    """Return the batch size that a plan has fixed; None where there is none.

    Args:
        features_dir: of the caches.
        named: nodes, by any spelling.
        asked: the part of the fingerprint that is known so far, without the batch size.
        overwrite: whether a cache made with other settings goes; its batch size counts not.
    """
    for name in named:
        folder = existing.existing_folder(features_dir, name)
        plan = existing.read_plan(folder, overwrite=True) if folder else None
        if plan is not None and (not overwrite or _comparable(plan.fingerprint, asked) == asked):
            return int(plan.fingerprint["batch_size"])
    return None


def find(
    features_dir: Path, named: Sequence[str], asked: Mapping[str, Any], overwrite: bool
) -> list[Output] | None:
    """Find the caches if all are whole and made with the asked settings.

    Args:
        features_dir: of the caches.
        named: nodes, by any spelling.
        asked: the part of the fingerprint that is known so far.
        overwrite: whether others may be there; they are not whole then.

    Raises:
        ManifestError: a cache is there with other settings.
    """
    found = []
    for name in named:
        folder = existing.existing_folder(features_dir, name)
        plan = existing.read_plan(folder, overwrite) if folder else None
        if folder is None or plan is None:
            return None
        if plan.format_version < FORMAT_VERSION and not overwrite:
            raise ManifestError(
                f"{folder.path}: format version {plan.format_version}, this program writes "
                f"{FORMAT_VERSION}; train on it as it is, or make it anew with --overwrite"
            )
        made = _comparable(plan.fingerprint, asked)
        if not overwrite:
            check_same(made, asked, folder.path, MEND)
        output = Output(folder, plan)
        if not folder.is_finished(plan) or output.missing() or made != asked:
            return None
        found.append(output)
    return found or None


def are_checked(outputs: Sequence[Output], num_wanted: int, num_images: int) -> bool:
    """Tell whether the cut has been checked in all of them, on as many images as are wanted."""
    return all(cut_check.is_checked(o.folder, num_wanted, num_images) for o in outputs)


def _comparable(made: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Take what is asked of a fingerprint, of the profile as well."""
    found = {key: value for key, value in made.items() if key in {*asked, "from_node"}}
    profile = found.get("profile", {})
    return {**found, "profile": {key: profile.get(key) for key in asked["profile"]}}
