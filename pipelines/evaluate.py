"""Stage 4: judge the topology of a run against its default model, image by image."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import comparators, control_caches, cross_validation, fold_plans, judged, runs
from pipelines.comparators import ALL, AUTO, Chosen
from pipelines.config import EvalConfig
from pipelines.config_eval import HONEST, THESIS
from pipelines.errors import ConfigError, ManifestError, PipelineError, SavedInterrupt
from pipelines.evaluation import figures, image_lists
from pipelines.fold_plans import Plan
from pipelines.judged import Judging
from pipelines.progress import Progress, Silent
from pipelines.runs import Run
from pipelines.storage import atomic, locks
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.fingerprint import digest
from pipelines.train_runs import Start
from pipelines.training import checkpoints
from pipelines.training.loop import StoppedError, Watch, never

_logger = logging.getLogger(__name__)
RESULTS_VERSION = 2  # of results.json; 1 had no comparators


def run(
    workspace_dir: Path,
    config: EvalConfig,
    seed: int,
    progress: Progress,
    watch: Watch = never,
    images_dir: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a run on one split, or return the results that are there for the same checkpoints.

    Writes results.json, predictions.parquet and images/ to the run's folder; those of val get
    "-val" in their names.

    Args:
        workspace_dir: the workspace.
        config: the settings.
        seed: of the resampling.
        progress: told about the images.
        watch: asked while controls are trained whether to stop.
        images_dir: the folder that the images' names are relative to, for the lists of images.

    Returns:
        The results, as docs/evaluation.md has them.

    Raises:
        TrainingError: no such run, or it is not finished; or a score is no finite number.
        ManifestError: a cache is gone or was made anew with other settings.
        ConfigError: the split has no images, or what to compare with is not there.
        SavedInterrupt: it was asked to stop.
    """
    name = config.run or runs.latest(workspace_dir)
    described = runs.read(workspace_dir, name)
    runs.check_finished(workspace_dir, name)
    top_k = judged.choose_top_k(config.top_k, len(described.classes))
    chosen = comparators.choose(workspace_dir, name, described, config.compare)
    cache, control = _caches(workspace_dir, described, chosen, config)
    if config.folds:
        seeds = tuple(range(seed, seed + config.seeds))
        plan = fold_plans.make_plan(
            workspace_dir, name, described, chosen, control, config.folds, seeds, config.is_honest
        )
        return _judge_in_folds(plan, top_k, config.command(name), progress, watch)
    split = config.reported_split
    if not cache.num_rows(split):
        raise ConfigError(f"{cache.path}: no images in split {split}; choose another with --split")
    if chosen.is_training:
        _train_controls(workspace_dir, name, described, chosen, progress, watch)
    run_dir = runs.folder_of(workspace_dir, name)
    party = judged.open_party(workspace_dir, name, described, chosen, run_dir, control)
    judging = Judging(workspace_dir, described, party, cache, control, split)
    files = Files.of(run_dir, "" if config.is_honest else "-val")
    made = _made_from(judging, seed, top_k)
    if files.are_there:
        results = atomic.read_json(files.results)
        if isinstance(results, dict) and made.items() <= results.items():
            if not image_lists.have_paths(files.images, images_dir):
                _list_images(judging, files, images_dir)
                progress.say(f"run {name}: its lists of images were written again")
            progress.say(f"nothing to do: run {name} is judged")
            return results
    command = [*config.command(name), "--seed", str(seed)]
    return _judge(judging, files, {**made, "command": command}, progress, images_dir)


@dataclass(frozen=True)
class Files:
    """What an evaluation leaves in a run's folder.

    Attributes:
        results: the figures.
        predictions: what each image was taken for.
        images: folder of the lists of images.
    """

    results: Path
    predictions: Path
    images: Path

    @classmethod
    def of(cls, run_dir: Path, suffix: str) -> Files:
        """Return those of a run; those of val have "-val" in their names."""
        return cls(
            run_dir / f"results{suffix}.json",
            run_dir / f"predictions{suffix}.parquet",
            run_dir / f"images{suffix}",
        )

    @property
    def are_there(self) -> bool:
        """Tell whether all of it is."""
        return all(path.exists() for path in (self.results, self.predictions, self.images))


def _caches(
    workspace_dir: Path, described: Run, chosen: Chosen, config: EvalConfig
) -> tuple[FeatureCache, FeatureCache | None]:
    """Open a run's cache, and the control set's where it takes part or happens to be there."""
    cache = FeatureCache(find_folder(workspace_dir / described.features_dir, described.node))
    if cache.fingerprint != described.fingerprint["cache"]:
        raise ManifestError(
            f"{cache.path}: made anew with other settings since this run was trained; train again"
        )
    if chosen.control:
        return cache, control_caches.open_for(workspace_dir, described, cache)
    has_versions = len(described.branches) > 1 and not control_caches.is_of_control(described)
    if has_versions and {AUTO, ALL} & set(config.compare):
        try:
            return cache, control_caches.open_for(workspace_dir, described, cache)
        except PipelineError as error:  # it is looked at where it is there
            if control_caches.is_there(workspace_dir, described):
                _logger.warning("the control set is left out: %s", error)
    return cache, None


def _judge_in_folds(
    plan: Plan,
    top_k: tuple[int, ...],
    command: list[str],
    progress: Progress,
    watch: Watch,
) -> dict[str, Any]:
    """Train and judge in folds; what is done is kept in the run's folder."""
    workspace_dir, name, described = plan.workspace_dir, plan.name, plan.described
    seed, is_honest = plan.seeds[0], plan.is_honest
    others = [(one.called, one.run, one.chain[-1].ask.config.fusion) for one in plan.entries[1:]]
    asked = judged.ask(described, name, others, top_k, seed)
    start = Start(
        workspace_dir,
        workspace_dir / described.features_dir,
        seed,
        Silent(),
        watch,
        weights_dir=workspace_dir,
        is_latest=False,
        has_pictures=False,
    )
    with _stopped_is_saved():
        found = cross_validation.run(plan, asked, start, progress)
    results = {
        "stage": "eval",
        "results_version": RESULTS_VERSION,
        "run": name,
        "split": "all",
        "seed": seed,
        "command": [*command, "--seed", str(seed)],
        **_describe(described, is_honest),
        **found,
        **judged.verdict(found, is_honest),
    }
    suffix = "" if is_honest else "-val"
    path = runs.folder_of(workspace_dir, name) / f"results{suffix}-folds.json"
    atomic.write_json(path, results)
    return results


def _describe(described: Run, is_honest: bool) -> dict[str, Any]:
    return {
        "protocol": HONEST if is_honest else THESIS,
        "node": described.node,
        "blocks": list(described.blocks),
        "fusion": described.fusion,
        "default_kind": described.default_kind,
    }


def _made_from(judging: Judging, seed: int, top_k: tuple[int, ...]) -> dict[str, Any]:
    """Return what the results follow from; the same again gives the same results."""
    party, control = judging.party, judging.control
    own = {one.name: checkpoints.sha256(one.checkpoint) for one in (party.topology, party.default)}
    others = {one.name: checkpoints.sha256(one.checkpoint) for one in party.others}
    return {
        "results_version": RESULTS_VERSION,
        "run": party.topology.run,
        "split": judging.split,
        "seed": seed,
        "places": list(top_k),
        "has_mean": party.has_mean,
        "checkpoints_sha256": own,
        "comparators_sha256": others,
        "control_cache": None if control is None else digest(control.fingerprint),
    }


def _judge(
    judging: Judging,
    files: Files,
    made: dict[str, Any],
    progress: Progress,
    images_dir: Path | None,
) -> dict[str, Any]:
    """Judge, and write: what the results speak of first, the results last."""
    described, is_honest = judging.described, judging.split == "test"
    caches = [judging.cache, *([judging.control] if judging.control is not None else [])]
    with locks.hold(files.results.parent) as lock, contextlib.ExitStack() as stack:
        marks = [mark for one in caches for mark in stack.enter_context(locks.reading(one.path))]

        def check() -> None:
            locks.check_all([lock, *marks])

        def before_predictions() -> None:
            check()
            files.results.unlink(missing_ok=True)  # they speak of what is now replaced

        check()
        tally = judging.tally(files.predictions, progress, before_predictions)
        names = (judging.branches, described.classes)
        image_lists.write(files.images, files.predictions, *names, images_dir, check)
        others = [(one.name, one.run, one.design.fusion) for one in judging.party.others]
        asked = judged.ask(described, made["run"], others, tuple(made["places"]), made["seed"])
        found = figures.figures(tally, asked)
        results = {
            "stage": "eval",
            **made,
            **_describe(described, is_honest),
            **found,
            **judged.verdict(found, is_honest),
        }
        check()
        if not _made_from(judging, made["seed"], asked.top_k).items() <= made.items():
            raise ManifestError(
                f"{files.results.parent}: a checkpoint was replaced while it was judged; run the "
                "same command again"
            )
        atomic.write_json(files.results, results)
    return results


def _list_images(judging: Judging, files: Files, images_dir: Path | None) -> None:
    """Write the lists again, where the images have moved."""
    with locks.hold(files.results.parent) as lock:
        names = (judging.branches, judging.described.classes)
        check = partial(locks.check_all, [lock])
        image_lists.write(files.images, files.predictions, *names, images_dir, check)


def _train_controls(
    workspace_dir: Path,
    name: str,
    described: Run,
    chosen: Chosen,
    progress: Progress,
    watch: Watch,
) -> None:
    seed, features_dir = described.seed, workspace_dir / described.features_dir
    start = Start(workspace_dir, features_dir, seed, progress, watch, is_latest=False)
    with _stopped_is_saved():
        comparators.train_controls(start, name, chosen)


@contextlib.contextmanager
def _stopped_is_saved() -> Iterator[None]:
    try:
        yield
    except StoppedError as error:
        raise SavedInterrupt(
            f"stopped and saved: {error}; the same command goes on from there"
        ) from error
