"""Stage 3: train the layers behind a node from its cache, and the default model beside it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from pipelines import fitting, run_folder, run_pictures, runs
from pipelines.config import TrainTailConfig
from pipelines.errors import ConfigError, ManifestError, TrainingError
from pipelines.execution import devices, replicas, slots
from pipelines.execution.replicas import Replicas
from pipelines.fitting import Fits
from pipelines.networks import backbones, models
from pipelines.progress import Progress
from pipelines.run_folder import Opened
from pipelines.storage import atomic, locks
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.training import chain, sweep
from pipelines.training.loop import Outcome, StoppedError, Watch, never


def run(
    workspace_dir: Path,
    features_dir: Path,
    config: TrainTailConfig,
    seed: int,
    progress: Progress,
    watch: Watch = never,
    backbone_name: str = "",
) -> dict[str, Any]:
    """Train a run, a chain of blocks or a sweep of heads, going on where an earlier start stopped.

    Args:
        workspace_dir: the workspace; runs go to runs/<name>/ in it.
        features_dir: the folder of the caches.
        config: the settings.
        seed: of the order and the head's start.
        progress: told about the steps.
        watch: asked behind each step whether to stop; what was done is saved before this raises.
        backbone_name: of the network whose blocks to train where there is no cache yet.

    Returns:
        The summary: stage, run, node, num_steps, best_val_top1, default_best_val_top1,
        images_per_s and data_wait (of the topology's steps in this start, None where there were
        none), seconds. With blocks and sweeps also `runs`: these for each run, and what each was
        swept with; the others are the last block's, or the best head's by validation.

    Raises:
        ConfigError: an unknown branch, or settings that do not go together.
        ManifestError: no whole cache, or a run of this name has other settings.
        TrainingError: the settings do not go together, or the loss is no number.
        ShardError: a shard is damaged, or the disk refuses.
        KeyboardInterrupt: it was asked to stop.
    """
    started = time.monotonic()
    _check_settings(config)
    stage = _Stage(workspace_dir, features_dir, seed, progress, watch)
    try:
        if config.blocks:
            summary = stage.train_blocks(config, backbone_name)
        elif config.sweep:
            summary = stage.train_sweep(config)
        else:
            (summary,) = stage.train([_Ask(config.run, config)])
    except StoppedError as error:
        progress.say(f"stopped and saved: {error}; the same command goes on from there")
        raise KeyboardInterrupt from error
    summary["seconds"] = round(time.monotonic() - started, 3)
    return summary


def missing_nodes(features_dir: Path, config: TrainTailConfig, backbone_name: str) -> list[str]:
    """List the nodes whose caches a chain of blocks still needs.

    Args:
        features_dir: the folder of the caches.
        config: the settings.
        backbone_name: of the network where there is no cache yet.

    Raises:
        ConfigError: the network has fewer blocks.
        ManifestError: the caches do not go together.
    """
    _check_settings(config)
    devices.configure()
    links = chain.plan(_backbone_name(features_dir, backbone_name), config.blocks, config.run)
    return chain.missing(features_dir, links)


@dataclass(frozen=True)
class _Ask:
    """A run that is asked for.

    Attributes:
        run: its name; empty for the node's.
        config: its settings.
    """

    run: str
    config: TrainTailConfig


@dataclass
class _Stage:
    """One start of the command."""

    workspace_dir: Path
    features_dir: Path
    seed: int
    progress: Progress
    watch: Watch
    _replicas: Replicas | None = None
    _backbones: dict[str, backbones.Backbone] = field(default_factory=dict)

    def train_blocks(self, config: TrainTailConfig, backbone_name: str) -> dict[str, Any]:
        """Train one run a block, each from the best of the one before (thesis, 3.4.1)."""
        self._configure(config)
        links = chain.plan(
            _backbone_name(self.features_dir, backbone_name), config.blocks, config.run
        )
        lacking = chain.missing(self.features_dir, links)
        if lacking:
            flags = " ".join(f"--node {node}" for node in lacking)
            raise ManifestError(
                f"{self.features_dir}: no whole cache of {', '.join(lacking)}; run "
                f"`bottleneck extract {flags}`, or give --extract here, too"
            )
        summaries = []
        for link in links:
            here = config.model_copy(update={"node": link.node, "start_from": link.start_from})
            self.progress.say(f"block {link.block}, from the cache of {link.node}: run {link.run}")
            summaries += self.train([_Ask(link.run, here)])
            gc.collect()
        return {**summaries[-1], "runs": summaries}

    def train_sweep(self, config: TrainTailConfig) -> dict[str, Any]:
        """Train the heads of a sweep side by side."""
        chosen = sweep.combinations(config.sweep)
        base = config.run or find_folder(self.features_dir, config.node).name
        width = len(str(len(chosen)))
        asks = [
            _Ask(f"{base}-{number:0{width}d}", _with(config, values))
            for number, values in enumerate(chosen, 1)
        ]
        for one, other in itertools.combinations(asks, 2):
            if one.config == other.config:
                raise ConfigError(
                    f"sweep: {one.run} and {other.run} are the same; leave out one of them",
                    is_usage=True,
                )
        summaries = [
            {**values, "diverged_step": None, **summary}
            for values, summary in zip(chosen, self.train(asks), strict=True)
        ]
        good = [summary for summary in summaries if summary["diverged_step"] is None]
        if not good:
            raise TrainingError(
                f"run {base}-...: every head has diverged; sweep lower learning rates, under "
                "another --run or with --overwrite"
            )
        best = max(good, key=lambda summary: summary["best_val_top1"])  # the first of equals
        if replicas.hosts().index == 0:
            runs.point_latest(self.workspace_dir, best["run"])
        own = {"diverged_step", *chosen[0]}
        head = {name: value for name, value in best.items() if name not in own}
        return {**head, "runs": summaries}

    def train(self, asks: Sequence[_Ask]) -> list[dict[str, Any]]:
        """Train runs from one cache side by side; those that are finished are left as they are."""
        config = asks[0].config
        with contextlib.ExitStack() as stack:
            folder = find_folder(self.features_dir, config.node)
            marks = stack.enter_context(locks.reading(folder))
            cache = FeatureCache(folder)
            fitting.check_cache(cache, config, len(asks))
            opened = self._open(asks, cache, marks, stack)
            left = [found for found in opened if found.summary is None]
            for found in opened:
                if found.summary is not None:
                    self.progress.say(f"nothing to do: run {found.name} is trained")
                    self._draw_missing(found)
            made = self._train(left, cache, len(asks) > 1) if left else {}
            if replicas.hosts().index == 0:
                runs.point_latest(self.workspace_dir, opened[-1].name)
        nothing = {"images_per_s": None, "data_wait": None}
        return [made.get(found.name) or {**(found.summary or {}), **nothing} for found in opened]

    def _open(
        self,
        asks: Sequence[_Ask],
        cache: FeatureCache,
        marks: Sequence[locks.Lock],
        stack: contextlib.ExitStack,
    ) -> list[Opened]:
        """Hold the runs' folders; where several hosts train, the first does, the others wait."""
        here = replicas.hosts()
        wanted = [(ask.run or cache.node, self._describe(cache, ask), ask.config) for ask in asks]
        if here.num > 1:
            self._configure(asks[0].config)
        opened = []
        if here.index == 0:
            opened = [
                run_folder.open_run(self.workspace_dir, *what, marks, stack) for what in wanted
            ]
            left = [found for found in opened if found.summary is None]
            for found in left:
                self._load(cache, found.config)  # refuses what does not go with it
            for found in left:
                run_folder.begin(self.workspace_dir, found)  # writes, and clears
        self._wait_for_hosts()
        if here.index > 0:
            opened = [run_folder.read_run(self.workspace_dir, *what) for what in wanted]
        return opened

    def _describe(self, cache: FeatureCache, ask: _Ask) -> runs.Run:
        return run_folder.describe(
            self.workspace_dir,
            self.features_dir,
            cache,
            ask.run or cache.node,
            ask.config,
            self.seed,
        )

    def _train(
        self, opened: Sequence[Opened], cache: FeatureCache, is_sweep: bool
    ) -> dict[str, dict[str, Any]]:
        """Train topologies, then default models; return the summaries by run."""
        config = opened[0].config
        backbone, devices_here = self._load(cache, config), self._configure(config)
        with fitting.open_fits(
            self.workspace_dir, opened, cache, backbone, devices_here, self.progress, is_sweep
        ) as fits:
            topologies = fits.train("topology", self.watch)
            left = iter(self._train_defaults(fits.without(topologies), config))
        defaults = [topology if topology.diverged else next(left) for topology in topologies]
        found = {}
        for run, topology, default in zip(opened, topologies, defaults, strict=True):
            summary = _summary(run, topology, default)
            if default.diverged:  # or its topology has
                summary |= {"diverged_step": default.diverged.step, "default_best_val_top1": None}
            elif devices_here.is_first:
                run.check()
                atomic.write_json(run.path / runs.SUMMARY, summary)
            times = {"images_per_s": topology.images_per_s, "data_wait": topology.data_wait}
            found[run.name] = {**summary, **times}
        self._wait_for_hosts()  # the next block reads what the first host has just written
        return found

    def _train_defaults(self, fits: Fits, config: TrainTailConfig) -> list[Outcome]:
        if not fits.opened:
            return []
        if config.default == "pretrained":
            return fits.judge_pretrained()
        return fits.train("default", self.watch)

    def _draw_missing(self, run: Opened) -> None:
        if replicas.hosts().index == 0:
            run_pictures.draw(self.workspace_dir, run.name, run.check, only_missing=True)

    def _configure(self, config: TrainTailConfig) -> Replicas:
        """Set up TensorFlow and the devices, once."""
        if self._replicas is None:
            os.environ.update(slots.visible_to_one(config.devices))
            num_cpus = int(config.devices.partition("cpu:")[2] or 1)
            devices.configure(precision=config.precision, num_cpus=num_cpus)
            devices.make_deterministic()
            num_hosts = replicas.hosts().num
            if num_hosts > 1:
                self.progress.say(f"waiting for all {num_hosts} hosts of TF_CONFIG")
            self._replicas = replicas.open_replicas(num_cpus)
        return self._replicas

    def _load(self, cache: FeatureCache, config: TrainTailConfig) -> backbones.Backbone:
        """Load the network, once; refuse settings that do not go with it."""
        self._configure(config)
        key = str(cache.fingerprint["weights_sha256"])
        if key not in self._backbones:
            self._backbones[key] = models.load_backbone(cache, self.workspace_dir)
        if "pretrained" in (config.default, config.head_init):
            models.check_own_classes(self._backbones[key], cache.classes)
        return self._backbones[key]

    def _wait_for_hosts(self) -> None:
        if self._replicas is not None:
            self._replicas.total(np.zeros(1))


def _summary(run: Opened, topology: Outcome, default: Outcome) -> dict[str, Any]:
    return {
        "stage": "train-tail",
        "run": run.name,
        "node": run.described.node,
        "num_steps": topology.num_steps,
        "best_val_top1": topology.best_val_top1,
        "default_best_val_top1": default.best_val_top1,
    }


def _check_settings(config: TrainTailConfig) -> None:
    """Refuse settings that exclude each other."""
    for one, other in (
        ("blocks", "node"),
        ("blocks", "sweep"),
        ("blocks", "start_from"),
        ("sweep", "start_from"),
    ):
        if getattr(config, one) and getattr(config, other):
            flags = (f"--{name.replace('_', '-')}" for name in (one, other))
            raise ConfigError(f"{' and '.join(flags)}: leave out one of them", is_usage=True)
    if config.extract and not config.blocks:
        raise ConfigError("--extract: goes with --blocks alone", is_usage=True)


def _with(config: TrainTailConfig, values: dict[str, str]) -> TrainTailConfig:
    """Return the settings of one head of a sweep.

    Raises:
        ConfigError: a value is not allowed.
    """
    try:
        return TrainTailConfig.model_validate({**config.model_dump(), **values})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        extra = cast(dict[str, str], TrainTailConfig.model_fields[name].json_schema_extra)
        raise ConfigError(
            f"sweep: {name} = {values.get(name)} is not allowed; allowed: {extra['allowed']}",
            is_usage=True,
        ) from None


def _backbone_name(features_dir: Path, otherwise: str) -> str:
    """Name the network: of the caches that are there, or else of the settings."""
    cache = chain.any_cache(features_dir)
    name = str(cache.fingerprint["backbone"]) if cache else otherwise
    if not name:
        raise TrainingError(f"{features_dir}: no cache here; run `bottleneck extract` first")
    return name
