"""Judged runs as one page for people: verdict, comparisons, pictures, gained and lost images."""

from __future__ import annotations

import contextlib
import functools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines import findings, holdings, runs
from pipelines.analysis import style
from pipelines.analysis.curves import Training
from pipelines.config import ReportConfig
from pipelines.errors import ConfigError, PipelineError
from pipelines.findings import Finding
from pipelines.images import index
from pipelines.progress import Progress
from pipelines.reporting import commands, gallery, page, sections
from pipelines.reporting.commands import Trained
from pipelines.reporting.page import Noted, RunView
from pipelines.reporting.sections import CacheRow
from pipelines.runs import Run
from pipelines.storage import atomic, parquet
from pipelines.storage.cache import FeatureCache
from pipelines.training import evaluations

FILE = "report.html"
_NUM_ORIGINALS = 2_000  # whose quality is looked at


def run(
    workspace_dir: Path, config: ReportConfig, names: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Write the report of judged runs.

    Args:
        workspace_dir: the workspace.
        config: the settings.
        names: of the runs; none for the latest.
        progress: told about the images.

    Returns:
        The summary: stage, runs, to (the file), size_bytes; for each run in verdicts its verdict
        and kind; num_shown and num_changed images of all runs.

    Raises:
        ConfigError: the page of so many runs would be too large without any image.
        TrainingError: a run is not there, not finished, or not judged.
        ManifestError: a file of it is damaged, or its predictions are of other images.
        ShardError: the file system refuses.
    """
    asked = list(dict.fromkeys(names)) or [runs.latest(workspace_dir)]
    found = [findings.find(workspace_dir, name, config.split) for name in asked]
    views = [_view(one, f"run-{place}", progress) for place, one in enumerate(found, start=1)]
    render = functools.partial(_render, asked=asked, config=config)
    bare_bytes = len(render(views))
    if bare_bytes > page.MAX_BYTES:
        raise _too_large(bare_bytes, len(views))
    budget = (page.MAX_BYTES - bare_bytes) // len(views)
    views = [
        replace(view, gallery=_gallery(one, config.images, budget, progress))
        for view, one in zip(views, found, strict=True)
    ]
    views, html = _fitted(views, render, bare_bytes)
    path = _path(workspace_dir, config, asked)
    atomic.make_folder(path.parent)
    atomic.write_bytes(path, html)
    galleries = [view.gallery for view in views if view.gallery is not None]
    return {
        "stage": "report",
        "runs": asked,
        "to": str(path),
        "size_bytes": len(html),
        "verdicts": {
            one.name: {"kind": one.results.verdict_kind, "verdict": one.results.verdict}
            for one in found
        },
        "num_shown": sum(len(one.cards) for one in galleries),
        "num_changed": sum(one.num_changed for one in galleries),
    }


def _render(views: Sequence[RunView], asked: Sequence[str], config: ReportConfig) -> bytes:
    version = metadata.version("bottleneck-pipeline")
    command = shlex.join(["bottleneck", "report", *asked, *_flags(config)])
    return page.render(views, version, command).encode()


def _fitted(
    views: Sequence[RunView], render: Callable[[Sequence[RunView]], bytes], bare_bytes: int
) -> tuple[list[RunView], bytes]:
    """Leave out images, of every run its share, until the page has room for the others.

    What a card takes was estimated: names of classes, for one, may be of any length.

    Args:
        views: with their images.
        render: makes the page.
        bare_bytes: its size without images.

    Returns:
        What is shown, and the page.

    Raises:
        ConfigError: there is no room without any.
    """
    shown, html = list(views), render(views)
    while len(html) > page.MAX_BYTES:
        if not any(view.gallery and view.gallery.cards for view in shown):
            raise _too_large(len(html), len(shown))
        share = (page.MAX_BYTES - bare_bytes) / (len(html) - bare_bytes)
        shown = [replace(view, gallery=_trimmed(view, share)) for view in shown]
        html = render(shown)
    return shown, html


def _trimmed(view: RunView, share: float) -> gallery.Gallery | None:
    """Return the gallery with so much of what it takes."""
    found = view.gallery
    if found is None:
        return None
    return gallery.within(found, int(share * found.size_bytes), view.results.seed)


def _too_large(size_bytes: int, num_runs: int) -> ConfigError:
    mend = "name fewer runs" if num_runs > 1 else "give the classes shorter names"
    return ConfigError(
        f"report of {style.count(num_runs, 'run')}: {size_bytes:,} bytes without any image, "
        f"expected {page.MAX_BYTES:,} at most; {mend}"
    )


def _path(workspace_dir: Path, config: ReportConfig, asked: Sequence[str]) -> Path:
    if config.to:
        return workspace_dir / config.to
    return (workspace_dir if len(asked) > 1 else runs.folder_of(workspace_dir, asked[0])) / FILE


def _flags(config: ReportConfig) -> list[str]:
    """Name the settings that change what the page shows."""
    default = ReportConfig()
    flags = ["--images", str(config.images)] if config.images != default.images else []
    return [*flags, *(["--split", config.split] if config.split else [])]


def _view(finding: Finding, slug: str, progress: Progress) -> RunView:
    """Put together all but the images."""
    found, described = finding.results, finding.described
    return RunView(
        slug=slug,
        results=found,
        class_names=described.classes,
        parent=described.parent,
        comparison=sections.comparison(found),
        folds=sections.folds(finding.folds),
        leaning=sections.leaning(found.leans_on),
        blocks=sections.blocks(*findings.chain(finding), slug),
        qualities=sections.qualities(found, slug),
        calibration=sections.calibration(found, slug),
        classes=sections.classes(found),
        caches=_caches(finding),
        originals=_originals(finding, slug, progress),
        training=_training(finding, slug),
        gallery=None,
        settings=sections.flattened(described.fingerprint),
        commands=commands.of_run(
            [_trained(name, one) for name, one in findings.ancestry(finding)],
            findings.index_fingerprint(finding.workspace_dir),
            findings.control_fingerprint(finding),
            [found.command, *([finding.folds.command] if finding.folds else [])],
        ),
    )


def _trained(name: str, described: Run) -> Trained:
    return Trained(name, described.node, described.features_dir, described.fingerprint)


def _caches(finding: Finding) -> Noted:
    """Sum up the caches beside the run's own."""
    described = finding.described
    folder = finding.workspace_dir / described.features_dir
    rows, notes = [], []
    for path in sorted(folder.glob("*/manifest.json")):
        try:
            rows.append(CacheRow(path.parent.name, holdings.sizes(FeatureCache(path.parent))))
        except PipelineError as error:
            notes.append(f"{error}.")
    if described.node not in [row.node for row in rows]:
        notes.insert(
            0,
            f"The cache of {described.node} is not there any more; "
            f"bottleneck extract --node {described.node} brings it back.",
        )
    return Noted(rows=rows, note=" ".join(notes))


def _originals(finding: Finding, slug: str, progress: Progress) -> Noted:
    """Look at the quality of the originals: the stored ones, or else the files."""
    workspace_dir, what = finding.workspace_dir, f"report {finding.name}: originals"
    stored, histogram = finding.pixels.stored(), None
    if stored is not None:
        with contextlib.suppress(PipelineError):  # damaged: the files say the same
            histogram = holdings.qualities(stored.folder, _NUM_ORIGINALS, progress, what)
    if histogram is None:
        root = findings.image_root(workspace_dir)
        ids = _indexed(finding)[:_NUM_ORIGINALS]
        if root is not None:
            histogram = holdings.qualities_of_files(root, ids, len(ids), progress, what)
    if not histogram or not histogram["num_images"]:
        note = "Neither variants nor images are there; bottleneck compress brings them back."
        return Noted(note=note)
    picture = sections.originals(histogram, slug)
    note = "" if picture else f"None of {histogram['num_images']:,} originals looked at is a JPEG."
    return Noted(rows=histogram, picture=picture, note=note)


def _indexed(finding: Finding) -> list[str]:
    """Name all images; those that were judged where there is no index any more."""
    path = finding.workspace_dir / index.FOLDER / "images.parquet"
    try:
        names: list[str] = parquet.read_table(path, ["id"])["id"].to_pylist()
        return names
    except PipelineError:
        return finding.predictions.ids()


def _training(finding: Finding, slug: str) -> Noted:
    try:
        history = evaluations.read(finding.path / runs.HISTORY)
    except PipelineError as error:
        return Noted(note=f"{error}.")
    topology, default = (history[model] for model in evaluations.MODELS)
    data = Training(finding.name, finding.described.node, topology, default)
    if not data.models:
        return Noted(note=f"{runs.HISTORY} is gone; training the run again writes it.")
    rows = [(model, sections.thinned(points)) for model, points in data.models]
    return Noted(rows=rows, picture=sections.training(data, slug))


def _gallery(
    finding: Finding, num_images: int, budget_bytes: int, progress: Progress
) -> gallery.Gallery:
    asked = gallery.Asked(num_images, budget_bytes, finding.results.seed)
    num_drawn = gallery.num_drawn(finding.predictions, asked)
    progress.start(f"report {finding.name}: images", num_drawn, "image")
    return gallery.make(finding.predictions, finding.pixels, asked, progress.advance)
