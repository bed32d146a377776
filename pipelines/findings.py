"""What is known of a judged run, read from its folder: what it is, its results, its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import runs, workspace
from pipelines.errors import PipelineError
from pipelines.images import index, sources
from pipelines.reporting import predictions, results
from pipelines.reporting.pixels import Pixels
from pipelines.reporting.predictions import Predictions
from pipelines.reporting.results import FoldResults, Results
from pipelines.reporting.sections import BlockResult
from pipelines.runs import Run
from pipelines.storage import atomic, set_folders
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.fingerprint import digest


@dataclass(frozen=True)
class Finding:
    """A judged run.

    Attributes:
        workspace_dir: the workspace.
        name: of the run.
        described: what it is.
        results: on one split.
        predictions: of that split's images.
        folds: results over folds under the same protocol; None where there are none.
    """

    workspace_dir: Path
    name: str
    described: Run
    results: Results
    predictions: Predictions
    folds: FoldResults | None = None

    @property
    def path(self) -> Path:
        """Its folder."""
        return runs.folder_of(self.workspace_dir, self.name)

    @property
    def pixels(self) -> Pixels:
        """Its images in their versions."""
        made_from = self.described.fingerprint.get("cache") or {}
        root = image_root(self.workspace_dir)
        return Pixels(self.workspace_dir, made_from, self.results.split, root)


def find(workspace_dir: Path, name: str, split: str = "") -> Finding:
    """Read a judged run.

    Args:
        workspace_dir: the workspace.
        name: of the run; empty for the latest.
        split: "test" or "val"; empty for test, or val where only that was judged.

    Raises:
        TrainingError: there is no such run, it is not finished, or it has no results.
        ManifestError: a file of it is damaged, or its predictions are of other images.
    """
    name = name or runs.latest(workspace_dir)
    described = runs.read(workspace_dir, name)
    runs.check_finished(workspace_dir, name)
    run_dir = runs.folder_of(workspace_dir, name)
    found = results.read(run_dir, results.choose_split(run_dir, split))
    of_images = predictions.read(run_dir, found)
    of_folds = results.read_folds(run_dir, found.split)
    return Finding(workspace_dir, name, described, found, of_images, of_folds)


def chain(finding: Finding) -> tuple[list[BlockResult], list[str]]:
    """Read the runs that a run goes back to, and itself.

    Returns:
        Those that were judged on the same split, from the first one on; and the names of those that
        were not, or cannot be read any more.
    """
    split = finding.results.split
    found = [BlockResult(finding.name, finding.described.blocks[0], finding.results)]
    missing: list[str] = []
    for name, described in _before(finding):
        if described is None:
            missing.append(name)
            continue
        try:
            judged = results.read(runs.folder_of(finding.workspace_dir, name), split)
            found.append(BlockResult(name, described.blocks[0], judged))
        except PipelineError:
            missing.append(name)
    return found[::-1], missing[::-1]


def ancestry(finding: Finding) -> list[tuple[str, Run]]:
    """Return the runs that a run goes back to, judged or not, from the first one on, and itself.

    Those that cannot be read any more are left out.
    """
    before = [(name, run) for name, run in _before(finding) if run is not None]
    return [*before[::-1], (finding.name, finding.described)]


def _before(finding: Finding) -> Iterator[tuple[str, Run | None]]:
    """Go back over the runs that a run started from; None, at the end, for one that is not read."""
    name, described = finding.name, finding.described
    seen = {name}
    while described.parent and described.parent not in seen:
        name = described.parent
        seen.add(name)
        try:
            described = runs.read(finding.workspace_dir, name)
        except PipelineError:
            yield name, None
            return
        yield name, described


def index_fingerprint(workspace_dir: Path) -> Mapping[str, Any] | None:
    """Return what the workspace's index was made from; None where nothing says so."""
    try:
        info = atomic.read_json(workspace_dir / index.FOLDER / "index.json")
    except PipelineError:
        return None
    made = info.get("fingerprint") if isinstance(info, dict) else None
    return made if isinstance(made, dict) else None


def control_fingerprint(finding: Finding) -> Mapping[str, Any] | None:
    """Return what the control set's cache that took part was made from, if it is still there."""
    described = finding.described
    features_dir = set_folders.features(described.features_dir, set_folders.CONTROL)
    try:
        cache = FeatureCache(find_folder(finding.workspace_dir / features_dir, described.node))
    except PipelineError:
        return None
    made = cache.fingerprint
    return made if digest(made) == finding.results.control_cache else None


def image_root(workspace_dir: Path) -> Path | None:
    """Return the folder that names of images are relative to; None where nothing says so."""
    try:
        content = workspace.read_file(workspace_dir)
        return sources.root_of(workspace.table(content, "compress", {}).images, workspace_dir)
    except PipelineError:
        return None
