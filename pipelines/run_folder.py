"""The folder of a run that is asked for: described; begun, gone on with, or finished already."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from pipelines import runs
from pipelines.config import TrainTailConfig
from pipelines.errors import ManifestError, TrainingError
from pipelines.networks.topology import Design
from pipelines.storage import atomic, content, locks
from pipelines.storage.cache import FeatureCache
from pipelines.storage.fingerprint import check_same
from pipelines.storage.locks import Lock
from pipelines.storage.variants import ORIGINAL
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store
from pipelines.training.history import TIMINGS

MODELS = ("topology", "default")
_MEND = "choose another name with --run, or start over with --overwrite"
# Settings that say which run, or how fast, but not what comes out of it.
_NOT_ITS_OWN = {
    *("node", "blocks", "extract", "recipe", "run", "start_from", "sweep", "overwrite"),
    *("devices", "expand", "cache_memory", "features_dir"),
}


@dataclass(frozen=True)
class Opened:
    """A run whose folder is ours.

    Attributes:
        name: of the run.
        path: its folder.
        described: what it is.
        config: its settings.
        check: raises where the folder is another process's by now.
        is_begun: whether it goes on from what is there.
        summary: where it is finished already.
    """

    name: str
    path: Path
    described: runs.Run
    config: TrainTailConfig
    check: Callable[[], None]
    is_begun: bool = False
    summary: dict[str, Any] | None = None

    def design(self, model: str) -> Design:
        """Return what its topology is, or its default model."""
        config = self.config
        branches, fusion, copies = self.described.branches, config.fusion, config.copies
        if model == "default":
            branches, fusion, copies = (ORIGINAL,), "concat", 0
        kept = config.gradients, config.head_init, config.batch_norm
        return Design(branches, fusion, *kept, copies)

    def store(self, model: str) -> Store:
        """Return the checkpoints of its topology, or of its default model."""
        return Store.of(self.path, model)


def open_run(
    workspace_dir: Path,
    name: str,
    described: runs.Run,
    config: TrainTailConfig,
    marks: Sequence[Lock],
    stack: contextlib.ExitStack,
) -> Opened:
    """Hold a run's folder until `stack` is closed; nothing in it is changed.

    Args:
        workspace_dir: the workspace.
        name: of the run.
        described: what it is to be.
        config: its settings.
        marks: of the cache that is read.
        stack: lets the folder go.

    Raises:
        ManifestError: a run of this name has other settings, or somebody is at work on it.
    """
    run_dir = runs.folder_of(workspace_dir, name)
    lock = stack.enter_context(locks.hold(run_dir))
    is_begun = _goes_on(run_dir, described, config.overwrite)
    summary = _summary(run_dir) if is_begun else None
    check = partial(locks.check_all, [lock, *marks])
    return Opened(name, run_dir, described, config, check, is_begun, summary)


def begin(workspace_dir: Path, opened: Opened, is_latest: bool = True) -> None:
    """Make a run's folder ready to be written to; clear what is to be replaced.

    Args:
        workspace_dir: the workspace.
        opened: the run.
        is_latest: whether it becomes the run that eval takes when none is named.

    Raises:
        TrainingError: the checkpoints that it is to start from cannot be read.
    """
    if opened.config.start_from and not opened.is_begun:
        parent_dir = runs.folder_of(workspace_dir, opened.config.start_from)
        for model in MODELS:
            checkpoints.load(Store.of(parent_dir, model).best)
    folders = [opened.path, *(opened.store(model).folder for model in MODELS)]
    for folder in folders:
        if folder.is_dir():
            atomic.sweep(folder)
    (opened.path / runs.DIVERGED).unlink(missing_ok=True)
    if not opened.is_begun:
        (opened.path / runs.RUN).unlink(missing_ok=True)
        _clear(opened.path)
        runs.write(workspace_dir, opened.name, opened.described, is_latest)


def check_name(
    workspace_dir: Path, name: str, described: runs.Run, parent: str, has_cache: bool = True
) -> None:
    """Check that a run of a chain can be begun or gone on with, before its parent is trained.

    Args:
        workspace_dir: the workspace.
        name: of the run.
        described: what it is to be, but for the weights that it starts from.
        has_cache: whether it says so of a cache that is there.
        parent: the run that it is to start from; empty for none.

    Raises:
        ManifestError: a run of this name has other settings, or another parent.
    """
    run_dir = runs.folder_of(workspace_dir, name)
    path = run_dir / runs.RUN
    if not path.exists():
        return
    there = runs.read_file(path)
    made = {**there.fingerprint, "start_from": there.parent}
    asked = {**described.fingerprint, "start_from": parent}
    if not has_cache:
        asked["cache"] = made["cache"]
    check_same(made, asked, run_dir, _MEND)


def read_run(
    workspace_dir: Path, name: str, described: runs.Run, config: TrainTailConfig
) -> Opened:
    """Look at a run's folder that another host holds, and has made ready.

    Raises:
        ManifestError: the two hosts see different files, or were given other settings.
    """
    run_dir = runs.folder_of(workspace_dir, name)
    path = run_dir / runs.RUN
    if not path.exists():
        raise ManifestError(
            f"{path}: is not here, the first host has just written it; "
            "all hosts have to see the same workspace"
        )
    made = runs.read_file(path).fingerprint
    check_same(made, described.fingerprint, run_dir, "give every host the same command")
    return Opened(name, run_dir, described, config, lambda: None, True, _summary(run_dir))


def describe(
    workspace_dir: Path,
    features_dir: Path,
    cache: FeatureCache,
    name: str,
    config: TrainTailConfig,
    seed: int,
) -> runs.Run:
    """Say what a run with these settings is.

    Raises:
        ConfigError: an unknown branch.
        TrainingError: the settings do not go together, or not with the run it starts from.
    """
    branches = cache.choose_branches(config.branches)
    cache.choose_branches([ORIGINAL])  # the default model's
    design = Design(branches, config.fusion, config.gradients, config.head_init)
    replace(design, copies=config.copies).check()
    block_number, parent = 1, None
    if config.start_from:
        if config.start_from == name:
            raise TrainingError(
                f"run {name}: cannot start from itself; choose another name with --run"
            )
        parent_run = runs.read(workspace_dir, config.start_from)
        _check_parent(parent_run, cache, config)
        block_number = parent_run.block_number + 1
        parent_dir = runs.folder_of(workspace_dir, config.start_from)
        runs.check_finished(workspace_dir, config.start_from)
        parent = {
            "run": config.start_from,
            **{model: checkpoints.sha256(Store.of(parent_dir, model).best) for model in MODELS},
        }
    settings = config.model_dump(mode="json", exclude=_NOT_ITS_OWN)
    if not config.copies:
        del settings["copies"]  # runs of before this setting have none, and are the same runs
    is_inside = features_dir.is_relative_to(workspace_dir)
    return runs.Run(
        fingerprint={
            "cache": dict(cache.fingerprint),
            "seed": seed,
            "start_from": parent,
            **settings,
            "branches": list(branches),
        },
        node=cache.node,
        blocks=tuple(cache.details["blocks"]),
        block_number=block_number,
        classes=cache.classes,
        branches=branches,
        fusion=config.fusion,
        default_kind=config.default,
        features_dir=str(features_dir.relative_to(workspace_dir) if is_inside else features_dir),
        seed=seed,
    )


def settings_of(run: runs.Run) -> TrainTailConfig:
    """Return the settings that a run was made with, but for those that change nothing of it."""
    kept = {
        key: run.fingerprint[key]
        for key in TrainTailConfig.model_fields.keys() - _NOT_ITS_OWN
        if key in run.fingerprint
    }
    own = {"node": run.node, "start_from": run.parent}
    return TrainTailConfig.model_validate({**kept, **own})


def _check_parent(parent: runs.Run, cache: FeatureCache, config: TrainTailConfig) -> None:
    name, made = config.start_from, parent.fingerprint["cache"]
    for key in ("backbone", "weights_sha256"):
        if made[key] != cache.fingerprint[key]:
            raise TrainingError(
                f"run {name}: trained with {key} {made[key]}, the cache {cache.path} has "
                f"{cache.fingerprint[key]}; start from a run of the same network"
            )
    if made.get(content.KEY) != cache.fingerprint.get(content.KEY):
        raise TrainingError(
            f"run {name}: trained on other images than {cache.path} has, whose test images may be "
            "among them; train that run again, from a cache of these images"
        )
    if parent.classes != cache.classes:
        raise TrainingError(f"run {name}: trained on other classes than {cache.path} has")
    branches = cache.choose_branches(config.branches)
    for flag, there, here in (
        ("branches", ",".join(parent.branches), ",".join(branches)),
        ("copies", str(parent.copies), str(config.copies)),
        ("fusion", parent.fusion, config.fusion),
    ):
        if there != here:
            raise TrainingError(
                f"run {name}: its head is of {flag} {there}, this one of {here}; give "
                f"--{flag} {there}"
            )


def _goes_on(run_dir: Path, described: runs.Run, overwrite: bool) -> bool:
    """Tell whether a run with these settings has been begun; one with others is to be replaced."""
    path = run_dir / runs.RUN
    if not path.exists():
        if overwrite or all(Store.of(run_dir, model).is_empty for model in MODELS):
            return False
        raise ManifestError(
            f"{path}: missing beside checkpoints; restore it, or start over with --overwrite (a "
            "start with it that was killed ends like this)"
        )
    try:
        check_same(runs.read_file(path).fingerprint, described.fingerprint, run_dir, _MEND)
    except ManifestError:
        if not overwrite:
            raise
        return False
    return True


def _summary(run_dir: Path) -> dict[str, Any] | None:
    """Return what a finished run came to; None where there is something left to do, or to mend."""
    path = run_dir / runs.SUMMARY
    try:
        if all(Store.of(run_dir, model).kept() for model in MODELS):
            return cast(dict[str, Any], atomic.read_json(path)) if path.exists() else None
    except ManifestError:
        pass  # training goes through what is there, and writes it anew
    return None


def _clear(run_dir: Path) -> None:
    """Delete what training and evaluation made of a run, but run.json and what is not theirs."""
    for name in ("checkpoints", "tensorboard", "explain", "images*", "folds*"):
        for folder in (path for path in run_dir.glob(name) if path.is_dir()):
            shutil.rmtree(folder)
    made = (runs.HISTORY, TIMINGS, runs.SUMMARY, runs.CURVES, runs.BLOCKS, runs.REPORT)
    for pattern in (*made, "results*.json", "predictions*.parquet"):
        for path in run_dir.glob(pattern):
            path.unlink()
