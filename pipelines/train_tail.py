"""Stage 3: train the layers behind a node from its cache, and the default model beside it."""

from __future__ import annotations

import contextlib
import gc
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import runs
from pipelines.config import TrainTailConfig
from pipelines.errors import ManifestError, TrainingError
from pipelines.execution import devices
from pipelines.networks import backbones, models
from pipelines.networks.topology import Topology
from pipelines.progress import Progress
from pipelines.storage import atomic, locks
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.fingerprint import check_same
from pipelines.storage.variants import ORIGINAL
from pipelines.training import checkpoints, feeds, loop, schedule
from pipelines.training.history import History

_MEND = "choose another name with --run, or start over with --overwrite"


def run(
    workspace_dir: Path,
    features_dir: Path,
    config: TrainTailConfig,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train a run, going on where an earlier start of it stopped.

    Args:
        workspace_dir: the workspace; the run goes to runs/<name>/ in it.
        features_dir: the folder of the caches.
        config: the settings.
        seed: of the order and the head's start.
        progress: told about the steps.

    Returns:
        The summary: stage, run, node, num_steps, best_val_top1, default_best_val_top1, seconds.

    Raises:
        ConfigError: an unknown branch.
        ManifestError: no whole cache, or a run of this name has other settings.
        TrainingError: the settings do not go together, or the loss is no number.
        ShardError: a shard is damaged, or the disk refuses.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = find_folder(features_dir, config.node)
        marks = stack.enter_context(locks.reading(folder))
        cache = FeatureCache(folder)
        name = config.run or cache.node
        run_dir = runs.folder_of(workspace_dir, name)
        if config.start_from == name:
            raise TrainingError(
                f"run {name}: cannot start from itself; choose another name with --run"
            )
        asked = _describe(workspace_dir, features_dir, cache, config, seed)
        check = partial(locks.check_all, [stack.enter_context(locks.hold(run_dir)), *marks])
        _sweep(run_dir)
        summary = _continue_or_clear(run_dir, asked, config)
        if summary is None:
            backbone = _load_backbone(workspace_dir, cache, config)
            if not (run_dir / runs.RUN).exists():
                runs.write(workspace_dir, name, asked)
            training = _Training(
                workspace_dir, run_dir, cache, backbone, asked, config, seed, progress, check
            )
            summary = {"stage": "train-tail", "run": name, "node": cache.node, **training.run()}
            check()
            atomic.write_json(run_dir / runs.SUMMARY, summary)
        else:
            progress.say(f"nothing to do: run {name} is trained")
        runs.point_latest(workspace_dir, name)
    return {**summary, "seconds": round(time.monotonic() - started, 3)}


def _describe(
    workspace_dir: Path,
    features_dir: Path,
    cache: FeatureCache,
    config: TrainTailConfig,
    seed: int,
) -> runs.Run:
    """Say what a run with these settings is."""
    branches = cache.choose_branches(config.branches)
    cache.choose_branches([ORIGINAL])  # the default model's
    models.check_branches(branches, config.gradients, config.head_init)
    block_number, parent = 1, None
    if config.start_from:
        parent_run = runs.read(workspace_dir, config.start_from)
        _check_parent(parent_run, cache, config.start_from)
        block_number = parent_run.block_number + 1
        parent_dir = runs.folder_of(workspace_dir, config.start_from)
        if not (parent_dir / runs.SUMMARY).exists():
            raise TrainingError(f"{parent_dir}: not finished; train that run to its end first")
        parent = {
            "run": config.start_from,
            **{name: checkpoints.sha256(loop.Paths.of(parent_dir, name).best) for name in _MODELS},
        }
    settings = config.model_dump(
        mode="json",
        exclude={
            "run",
            "node",
            "start_from",
            "expand",
            "memory_budget_mb",
            "features_dir",
            "overwrite",
        },
    )
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
        default_kind=config.default,
        features_dir=str(features_dir.relative_to(workspace_dir) if is_inside else features_dir),
        seed=seed,
    )


_MODELS = ("topology", "default")


def _check_parent(parent: runs.Run, cache: FeatureCache, name: str) -> None:
    made = parent.fingerprint["cache"]
    for key in ("backbone", "weights_sha256"):
        if made[key] != cache.fingerprint[key]:
            raise TrainingError(
                f"run {name}: trained with {key} {made[key]}, the cache {cache.path} has "
                f"{cache.fingerprint[key]}; start from a run of the same network"
            )
    if parent.classes != cache.classes:
        raise TrainingError(f"run {name}: trained on other classes than {cache.path} has")


def _continue_or_clear(
    run_dir: Path, asked: runs.Run, config: TrainTailConfig
) -> dict[str, Any] | None:
    """Return the summary of a run that is finished already; clear one that is to be replaced."""
    path = run_dir / runs.RUN
    if not path.exists():
        _clear(run_dir)  # what a kill in the middle of --overwrite left
        return None
    made = atomic.read_json(path)["fingerprint"]
    try:
        check_same(made, asked.fingerprint, run_dir, _MEND)
    except ManifestError:
        if not config.overwrite:
            raise
        path.unlink()
        _clear(run_dir)
        return None
    summary = run_dir / runs.SUMMARY
    return atomic.read_json(summary) if summary.exists() else None


def _clear(run_dir: Path) -> None:
    """Delete what training and evaluation made of a run, but run.json and what is not theirs."""
    for name in ("checkpoints", "tensorboard"):
        if (run_dir / name).is_dir():
            shutil.rmtree(run_dir / name)
    for pattern in (runs.HISTORY, runs.SUMMARY, "results*.json", "predictions*.parquet"):
        for path in run_dir.glob(pattern):
            path.unlink()


def _load_backbone(
    workspace_dir: Path, cache: FeatureCache, config: TrainTailConfig
) -> backbones.Backbone:
    """Load the network; refuse what does not go with it before anything is written."""
    devices.configure()
    devices.make_deterministic()
    backbone = models.load_backbone(cache, workspace_dir)
    if "pretrained" in (config.default, config.head_init):
        models.check_own_classes(backbone, cache.classes)
    return backbone


def _sweep(run_dir: Path) -> None:
    for folder in (run_dir, run_dir / "checkpoints"):
        if folder.is_dir():
            atomic.sweep(folder)


@dataclass(frozen=True)
class _Training:
    """One start of a run: both models, one after the other."""

    workspace_dir: Path
    run_dir: Path
    cache: FeatureCache
    backbone: backbones.Backbone
    asked: runs.Run
    config: TrainTailConfig
    seed: int
    progress: Progress
    check: Callable[[], None]

    def run(self) -> dict[str, Any]:
        """Train both models and return the summary's numbers."""
        history = History(self.run_dir / runs.HISTORY, self.run_dir / "tensorboard")
        try:
            topology = self._train("topology", self.asked.branches, history)
            if self.config.default == "pretrained":
                default = self._judge_pretrained()
            else:
                default = self._train("default", (ORIGINAL,), history)
        finally:
            history.close()
        return {
            "num_steps": topology.num_steps,
            "best_val_top1": topology.best_val_top1,
            "default_best_val_top1": default.best_val_top1,
        }

    def _train(self, name: str, branches: tuple[str, ...], history: History) -> loop.Outcome:
        """Train one model to its end."""
        config, paths = self.config, loop.Paths.of(self.run_dir, name)
        model = models.build(
            self.backbone, self.cache, branches, config.gradients, config.head_init, self.seed
        )
        if config.start_from and not paths.last.exists():
            self._take_over(model, name)
        budget = config.memory_budget_mb * 1_000_000
        train = self.cache.split("train", branches, budget)
        left = budget - (self.cache.resident_bytes("train", branches) if train.is_loaded else 0)
        val = self.cache.split("val", branches, left)
        settings = loop.Settings(
            config.epochs,
            config.batch_size,
            schedule.learning_rate(config.learning_rate, self.asked.block_number),
            config.eval_every,
            config.patience,
            self.seed,
        )
        feed = feeds.choose(train, config.expand, devices.has_gpu())
        trainer = loop.Trainer(name, model, train, val, settings, paths, history, feed, self.check)
        total = settings.epochs * trainer.steps_per_epoch
        outcome = trainer.run(
            lambda step: self.progress.start(f"train {name}", total, "step", step),
            lambda: self.progress.advance(1),
        )
        self.progress.say(
            f"{name}: best val top-1 {outcome.best_val_top1:.4f}, {outcome.num_steps} steps"
        )
        del trainer, train, val
        gc.collect()
        return outcome

    def _take_over(self, model: Topology, name: str) -> None:
        assert self.config.start_from
        parent_dir = runs.folder_of(self.workspace_dir, self.config.start_from)
        weights, _ = checkpoints.load(loop.Paths.of(parent_dir, name).best)
        taken = model.assign(weights)
        self.progress.say(
            f"{name}: {len(taken)} of {len(model.weights())} weight arrays "
            f"from run {self.config.start_from}"
        )

    def _judge_pretrained(self) -> loop.Outcome:
        """Take the backbone's own tail and classifier as the default model."""
        paths = loop.Paths.of(self.run_dir, "default")
        model = models.build(
            self.backbone, self.cache, (ORIGINAL,), "original", "pretrained", self.seed
        )
        val = self.cache.split("val", (ORIGINAL,), 0)
        evaluation = loop.evaluate(loop.compile_logits(model), val, self.config.batch_size)
        self.check()
        checkpoints.save(paths.best, model.weights(), {"step": 0})
        return loop.Outcome(0, evaluation.top1)
