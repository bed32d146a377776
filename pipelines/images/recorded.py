"""What the images of a cache were: the sets of variants that hold or list them, their hashes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.errors import PipelineError
from pipelines.images import index
from pipelines.storage import content, parquet, set_folders, variants
from pipelines.storage.variants import ORIGINAL, VariantSet

_COLUMNS = ["id", "sha256"]
_PLACES = (set_folders.stored, set_folders.listed)


def open_stored(
    workspace_dir: Path, made_from: Mapping[str, Any], names: Sequence[str] = (ORIGINAL,)
) -> VariantSet | None:
    """Open the set of variants that a cache was made from, where its images are still there.

    Args:
        workspace_dir: the workspace.
        made_from: fingerprint of the cache.
        names: of the variants that are wanted.
    """
    folders = [set_folders.stored(name) for name in set_folders.SETS]
    for found in _sets_of(workspace_dir, made_from, folders, names):
        is_same = found.plan.fingerprint == made_from.get("variants")
        if is_same and variants.stored_names(found.plan):
            return found
    return None


def hashes(workspace_dir: Path, made_from: Mapping[str, Any], splits: Collection[str]) -> pa.Table:
    """Read the SHA-256 of a cache's original files, where anything still says what they were.

    Args:
        workspace_dir: the workspace.
        made_from: fingerprint of the cache.
        splits: of the images.

    Returns:
        id (string) and sha256 (binary, 32 bytes) in any order; without rows where nothing does,
        and without the images of which nothing does.
    """
    folders = [place(name) for name in set_folders.SETS for place in _PLACES]
    for found in _sets_of(workspace_dir, made_from, folders, ()):
        tasks = [task for task in found.plan.tasks if task.split in splits]
        try:
            tables = [parquet.read_table(found.folder / task.shard, _COLUMNS) for task in tasks]
        except PipelineError:
            continue  # damaged: another one says the same
        if tables:
            return pa.concat_tables(tables)
    return index.hashes(workspace_dir / index.FOLDER)


def _sets_of(
    workspace_dir: Path, made_from: Mapping[str, Any], folders: Sequence[Path], names: Sequence[str]
) -> Iterator[VariantSet]:
    """Open those sets that were made of the very images of a cache, in whatever versions."""
    made_of = made_from.get(content.KEY)
    for folder in folders:
        try:
            found = variants.open_set(workspace_dir / folder, names)
        except PipelineError:
            continue
        if made_of is None:  # a cache of the first release, which says nothing of its images
            is_same = found.plan.fingerprint == made_from.get("variants")
        else:
            is_same = content.digest_of(found.receipts) == made_of
        if is_same:
            yield found
