"""One start of train-tail: TensorFlow set up once, runs opened and trained from their caches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import fitting, run_folder, run_pictures, runs, trainable
from pipelines.config import TrainTailConfig
from pipelines.execution import devices, replicas, slots
from pipelines.execution.replicas import Replicas
from pipelines.fitting import Fits
from pipelines.networks import backbones, models
from pipelines.progress import Progress
from pipelines.run_folder import Opened
from pipelines.storage import atomic, locks
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.training.loop import Outcome, Watch, never


@dataclass(frozen=True)
class Ask:
    """A run that is asked for.

    Attributes:
        run: its name; empty for the node's.
        config: its settings.
    """

    run: str
    config: TrainTailConfig


@dataclass
class Start:
    """One start of the command.

    Attributes:
        workspace_dir: the workspace; runs go to runs/<name>/ in it.
        features_dir: the folder of the caches.
        seed: of the order and the heads' starts.
        progress: told about the steps.
        watch: asked behind each step whether to stop.
        weights_dir: where a relative path of the backbone's weights starts; None for the workspace.
        is_latest: whether these runs become those that eval takes when none is named.
        has_pictures: whether runs are drawn.
        has_defaults: whether default models are trained beside the topologies; a run without one
            can be judged beside another's, and no run can start from it.
        open_cache: opens the cache in a folder.
    """

    workspace_dir: Path
    features_dir: Path
    seed: int
    progress: Progress
    watch: Watch = never
    weights_dir: Path | None = None
    is_latest: bool = True
    has_pictures: bool = True
    has_defaults: bool = True
    open_cache: Callable[[Path], FeatureCache] = FeatureCache
    _replicas: Replicas | None = None
    _backbones: dict[str, backbones.Backbone] = field(default_factory=dict)

    def train(self, asks: Sequence[Ask]) -> list[dict[str, Any]]:
        """Train runs from one cache side by side; those that are finished are left as they are."""
        config = asks[0].config
        with contextlib.ExitStack() as stack:
            folder = find_folder(self.features_dir, config.node)
            marks = stack.enter_context(locks.reading(folder))
            cache = self.open_cache(folder)
            trainable.check_cache(cache, config, len(asks))
            opened = self._open(asks, cache, marks, stack)
            left = [found for found in opened if found.summary is None]
            for found in opened:
                if found.summary is not None:
                    self.progress.say(f"nothing to do: run {found.name} is trained")
                    self._draw_missing(found)
            made = self._train(left, cache, len(asks) > 1) if left else {}
            if self.is_latest and replicas.hosts().index == 0:
                runs.point_latest(self.workspace_dir, opened[-1].name)
        nothing = {"images_per_s": None, "data_wait": None}
        return [made.get(found.name) or {**(found.summary or {}), **nothing} for found in opened]

    def _open(
        self,
        asks: Sequence[Ask],
        cache: FeatureCache,
        marks: Sequence[locks.Lock],
        stack: contextlib.ExitStack,
    ) -> list[Opened]:
        """Hold the runs' folders; where several hosts train, the first does, the others wait."""
        here = replicas.hosts()
        wanted = [(ask.run or cache.node, self.describe(cache, ask), ask.config) for ask in asks]
        if here.num > 1:
            self.configure(asks[0].config)
        opened = []
        if here.index == 0:
            opened = [
                run_folder.open_run(self.workspace_dir, *what, marks, stack) for what in wanted
            ]
            left = [found for found in opened if found.summary is None]
            for found in left:
                self._load(cache, found.config)  # refuses what does not go with it
            for found in left:
                run_folder.begin(self.workspace_dir, found, self.is_latest)  # writes, and clears
        self._wait_for_hosts()
        if here.index > 0:
            opened = [run_folder.read_run(self.workspace_dir, *what) for what in wanted]
        return opened

    def describe(self, cache: FeatureCache, ask: Ask) -> runs.Run:
        """Say what a run with these settings is."""
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
        backbone, devices_here = self._load(cache, config), self.configure(config)
        with fitting.open_fits(
            self.workspace_dir, opened, cache, backbone, devices_here, self.progress, is_sweep
        ) as fits:
            fits = replace(fits, has_pictures=self.has_pictures)
            topologies = fits.train("topology", self.watch)
            left = iter(self._train_defaults(fits.without(topologies), config))
        defaults = [
            topology if topology.diverged or not self.has_defaults else next(left)
            for topology in topologies
        ]
        found = {}
        for run, topology, default in zip(opened, topologies, defaults, strict=True):
            summary = _summary(run, topology, default)
            if default.diverged or not self.has_defaults:
                summary["default_best_val_top1"] = None
            if default.diverged:  # or its topology has
                summary["diverged_step"] = default.diverged.step
            elif devices_here.is_first:
                run.check()
                atomic.write_json(run.path / runs.SUMMARY, summary)
            times = {"images_per_s": topology.images_per_s, "data_wait": topology.data_wait}
            found[run.name] = {**summary, **times}
        self._wait_for_hosts()  # the next block reads what the first host has just written
        return found

    def _train_defaults(self, fits: Fits, config: TrainTailConfig) -> list[Outcome]:
        if not (fits.opened and self.has_defaults):
            return []
        if config.default == "pretrained":
            return fits.judge_pretrained()
        return fits.train("default", self.watch)

    def _draw_missing(self, run: Opened) -> None:
        if self.has_pictures and replicas.hosts().index == 0:
            run_pictures.draw(self.workspace_dir, run.name, run.check, only_missing=True)

    def configure(self, config: TrainTailConfig) -> Replicas:
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
        self.configure(config)
        key = f"{cache.fingerprint['weights_sha256']} {config.precision}"
        if key not in self._backbones:
            weights_dir = self.weights_dir or self.workspace_dir
            self._backbones[key] = models.load_backbone(cache, weights_dir)
        trainable.check_parts(cache, config, self.configure(config))
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
