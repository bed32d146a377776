"""Which trained models a run is compared with, and the controls that are trained to that end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import control_caches, run_folder, runs
from pipelines.analysis.naming import CONTROL, COPIES, RUN, TOPOLOGY
from pipelines.errors import ConfigError, ManifestError, PipelineError
from pipelines.evaluation.scoring import Contestant
from pipelines.networks.topology import Design
from pipelines.runs import Run
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.fingerprint import check_same
from pipelines.storage.variants import ORIGINAL
from pipelines.train_runs import Ask, Start
from pipelines.training import checkpoints, evaluations
from pipelines.training.checkpoints import Store

_logger = logging.getLogger(__name__)
AUTO, ALL, MEAN, RUNS = "auto", "all", "mean", "runs"
WORDS = (AUTO, ALL, MEAN, RUNS, COPIES, CONTROL)


@dataclass(frozen=True)
class Chosen:
    """What a run is compared with, beside its default model.

    Attributes:
        has_mean: the mean of the default model's scores over the branches.
        others: further runs that read the same cache.
        named: those of them that were asked for by name.
        copies: whether the control of copies takes part.
        control: whether the control set does.
        is_training: whether controls that are not trained yet are to be.
    """

    has_mean: bool
    others: tuple[str, ...]
    named: tuple[str, ...]
    copies: bool
    control: bool
    is_training: bool


def choose(workspace_dir: Path, name: str, described: Run, asked: Sequence[str]) -> Chosen:
    """Turn a setting into what a run is compared with.

    Args:
        workspace_dir: the workspace.
        name: of the run.
        described: what it is.
        asked: words of `WORDS`, and names of runs.

    Raises:
        ConfigError: a word is neither, or does not go with this run.
        TrainingError: a run that is named is not finished.
    """
    words = set(asked)
    others = _others(workspace_dir, name, described)
    named = tuple(_run_of(workspace_dir, word) for word in asked if word not in WORDS)
    for other in named:
        _check_named(workspace_dir, name, other, described)
    is_all, is_auto = ALL in words, AUTO in words
    is_control = described.copies > 0 or control_caches.is_of_control(described)
    for word in (COPIES, CONTROL):
        if word in words and is_control:
            raise ConfigError(
                f"--compare {word}: run {name} is a control itself; compare the run that it is a "
                "control of",
                is_usage=True,
            )
    has = {word: not is_control and (word in words or is_all) for word in (COPIES, CONTROL)}
    if is_auto and not is_control:
        for word in has:
            has[word] = has[word] or _is_there(workspace_dir, name, described, word)
    takes_runs = bool({AUTO, ALL, RUNS} & words)
    return Chosen(
        bool({AUTO, ALL, MEAN} & words) and len(described.branches) > 1,
        tuple(dict.fromkeys([*(others if takes_runs else ()), *named])),
        named,
        has[COPIES],
        has[CONTROL],
        is_all or bool({COPIES, CONTROL} & words),
    )


def of_run(name: str, described: Run, run_dir: Path, model: str, called: str) -> Contestant:
    """Return a model of a finished run as one that is compared.

    Raises:
        TrainingError: its checkpoint is missing.
    """
    # No training here: which branches would be walked backward does not matter.
    design = Design((ORIGINAL,))
    if model == "topology":
        design = Design(
            described.branches, described.fusion, gradients="all", copies=described.copies
        )
    checkpoint = Store.of(run_dir, model).best
    return Contestant(called, name, design, described.seed, checkpoint, called == CONTROL)


def train_controls(start: Start, name: str, chosen: Chosen) -> None:
    """Train the controls of a run that are not there, with its settings, budget and seed.

    The control of a run that starts from another is a chain of controls. All are looked at before
    the first is trained.

    Args:
        start: where, and on what.
        name: of the run.
        chosen: which controls.

    Raises:
        ManifestError: a cache is missing, or a run of a control's name is something else.
        TrainingError: it cannot be trained.
    """
    workspace_dir, chain = start.workspace_dir, chain_of(start.workspace_dir, name)
    words = [word for word, has in ((COPIES, chosen.copies), (CONTROL, chosen.control)) if has]
    planned = [(one, control_of(workspace_dir, *one, word)) for word in words for one in chain]
    for one, control in planned:
        if not _is_trained(workspace_dir, *one, control):
            _train(start, *one, control)


def chain_of(workspace_dir: Path, name: str) -> list[tuple[str, Run]]:
    """Return a run behind those that it starts from: names, and what they are.

    Raises:
        TrainingError: one of them is gone.
        ManifestError: one was trained anew since; where its checkpoints are gone, nobody knows.
    """
    found = [(name, runs.read(workspace_dir, name))]
    while found[0][1].parent:
        child, described = found[0]
        parent = described.parent
        found.insert(0, (parent, runs.read(workspace_dir, parent)))
        for model in evaluations.MODELS:
            started_from = described.fingerprint["start_from"].get(model)
            best = _best(workspace_dir, parent, model)
            if started_from and best and checkpoints.sha256(best) != started_from:
                raise ManifestError(
                    f"run {parent}: trained anew since run {child} started from it; train run "
                    f"{child} again"
                )
    return found


def control_name(name: str, word: str) -> str:
    """Return the name of a run's control."""
    return f"{name}-{word}"


@dataclass(frozen=True)
class Control:
    """How a control of a run is trained.

    Attributes:
        ask: its name and settings.
        cache: that it reads.
    """

    ask: Ask
    cache: FeatureCache


def control_of(workspace_dir: Path, name: str, described: Run, word: str) -> Control:
    """Say how a run's control is trained: with the run's settings, but for what it controls.

    Args:
        workspace_dir: the workspace.
        name: of the run.
        described: what it is.
        word: `COPIES` or `CONTROL`.

    Raises:
        ManifestError: a cache is missing, or not the one that goes with the run's.
        ConfigError: the control set has fewer versions than the run has branches.
    """
    cache = FeatureCache(find_folder(workspace_dir / described.features_dir, described.node))
    changed: dict[str, Any] = {"branches": (ORIGINAL,), "copies": len(described.branches)}
    if word == CONTROL:
        cache = control_caches.open_for(workspace_dir, described, cache)
        changed = {"branches": control_caches.branches_for(described, cache.layout.branches)}
    changed["start_from"] = control_name(described.parent, word) if described.parent else ""
    config = run_folder.settings_of(described).model_copy(update=changed)
    return Control(Ask(control_name(name, word), config), cache)


def _train(start: Start, name: str, described: Run, control: Control) -> None:
    own = control.ask.run
    start.progress.say(f"training the control run {own}, with the settings of run {name}")
    features_dir = control.cache.path.parent
    replace(start, features_dir=features_dir, seed=described.seed).train([control.ask])


def _run_of(workspace_dir: Path, word: str) -> str:
    """Return the run that a word names: by its name, or by that among the comparators.

    The latter tells a run called "mean" from the word.
    """
    is_run = (runs.folder_of(workspace_dir, word) / runs.RUN).exists()
    return word if is_run or not word.startswith(RUN) else word.removeprefix(RUN)


def _is_there(workspace_dir: Path, name: str, described: Run, word: str) -> bool:
    """Tell whether a run's control is trained; one that does not go with it is told, and left."""
    own = control_name(name, word)
    if not (runs.folder_of(workspace_dir, own) / runs.RUN).exists():
        return False
    try:
        control = control_of(workspace_dir, name, described, word)
        is_trained = _is_trained(workspace_dir, name, described, control)
        return is_trained and _has_checkpoint(workspace_dir, own)
    except PipelineError as error:
        _logger.warning("run %s is left out: %s", own, error)
        return False


def _is_trained(workspace_dir: Path, name: str, described: Run, control: Control) -> bool:
    """Tell whether a control is trained, of the run as it is now.

    Raises:
        ManifestError: a run of its name is something else.
        TrainingError: the control that it starts from is not there.
    """
    own = control.ask.run
    run_dir = runs.folder_of(workspace_dir, own)
    if not (run_dir / runs.RUN).exists():
        return False
    there = runs.read(workspace_dir, own)
    expected = run_folder.describe(
        workspace_dir,
        control.cache.path.parent,
        control.cache,
        own,
        control.ask.config,
        described.seed,
    )
    mend = f"no control of run {name} as that is now; delete {run_dir}, and eval trains it anew"
    check_same(there.fingerprint, expected.fingerprint, run_dir, mend)
    return (run_dir / runs.SUMMARY).exists()


def _others(workspace_dir: Path, name: str, described: Run) -> list[str]:
    """Name the finished runs that read the same cache, but the controls of this one."""
    return [
        other
        for other in _runs(workspace_dir)
        if other not in (name, control_name(name, COPIES), control_name(name, CONTROL))
        and _goes_with(workspace_dir, other, described)
    ]


def _runs(workspace_dir: Path) -> Iterator[str]:
    for path in sorted((workspace_dir / "runs").glob(f"*/{runs.RUN}")):
        yield path.parent.name


def _goes_with(workspace_dir: Path, other: str, described: Run) -> bool:
    with contextlib.suppress(PipelineError):
        there = runs.read(workspace_dir, other)
        if there.fingerprint.get("cache") == described.fingerprint["cache"]:
            runs.check_finished(workspace_dir, other)
            if there.copies and not described.copies:  # another run's control
                return False
            return _has_checkpoint(workspace_dir, other)
    return False


def _has_checkpoint(workspace_dir: Path, other: str) -> bool:
    """Tell whether a finished run can be compared; one that cannot be is told, and left."""
    if _best(workspace_dir, other, TOPOLOGY):
        return True
    _logger.warning("run %s is left out: its checkpoint is gone; train it again", other)
    return False


def _best(workspace_dir: Path, name: str, model: str) -> Path | None:
    """Return the best checkpoint of a run's model, where it is still there."""
    with contextlib.suppress(PipelineError):
        best = Store.of(runs.folder_of(workspace_dir, name), model).best
        return best if best.exists() else None
    return None


def _check_named(workspace_dir: Path, name: str, other: str, described: Run) -> None:
    for word in (COPIES, CONTROL):
        if other == control_name(name, word):
            raise ConfigError(f"--compare {other}: is a control; give {word}", is_usage=True)
    if other == name:
        raise ConfigError(f"--compare {other}: is the run itself; leave it out", is_usage=True)
    if not (runs.folder_of(workspace_dir, other) / runs.RUN).exists():
        known = ", ".join([*WORDS, *_others(workspace_dir, name, described)])
        raise ConfigError(
            f"--compare {other}: neither a word for what to compare nor a run; there are {known}",
            is_usage=True,
        )
    there = runs.read(workspace_dir, other)
    runs.check_finished(workspace_dir, other)
    if there.fingerprint.get("cache") != described.fingerprint["cache"]:
        raise ConfigError(
            f"--compare {other}: reads another cache ({there.features_dir}, node {there.node}) "
            f"than this run ({described.features_dir}, node {described.node}); only runs on the "
            "same cache are compared image by image"
        )
