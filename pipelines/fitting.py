"""The models of some runs, trained side by side from one cache: topologies, then default models."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import run_pictures, runs
from pipelines.config import TrainTailConfig
from pipelines.errors import DivergedError, TrainingError
from pipelines.execution import devices
from pipelines.execution.replicas import Replicas
from pipelines.networks import models
from pipelines.networks.backbones import Backbone
from pipelines.networks.topology import Topology
from pipelines.progress import Progress
from pipelines.run_folder import Opened
from pipelines.storage import atomic
from pipelines.storage.cache import FeatureCache
from pipelines.storage.variants import ORIGINAL
from pipelines.training import checkpoints, feeds, judging, step
from pipelines.training.checkpoints import Kept, Store
from pipelines.training.feeds import Feed
from pipelines.training.history import History
from pipelines.training.loop import Budget, Outcome, StoppedError, Trainer, Watch
from pipelines.training.schedule import MAX_EVAL_STEPS, Plateau, Rate, learning_rate, to_steps
from pipelines.training.step import Descent
from pipelines.training.trainee import Compiled, Records, Trainee


@dataclass(frozen=True)
class Fits:
    """Runs at work side by side.

    Attributes:
        workspace_dir: the workspace.
        opened: the runs, whose settings differ in what may be swept alone.
        cache: that they read.
        backbone: whose tail they train.
        replicas: the devices.
        histories: one a run.
        progress: told about the steps.
        is_sweep: whether they are heads of a sweep, which goes on without those that diverge.
        has_pictures: whether their trainings are drawn.
    """

    workspace_dir: Path
    opened: Sequence[Opened]
    cache: FeatureCache
    backbone: Backbone
    replicas: Replicas
    histories: Sequence[History]
    progress: Progress
    is_sweep: bool = False
    has_pictures: bool = True

    def without(self, outcomes: Sequence[Outcome]) -> Fits:
        """Leave out the runs that have diverged, of one outcome a run."""
        left = [i for i, outcome in enumerate(outcomes) if not outcome.diverged]
        opened, histories = [self.opened[i] for i in left], [self.histories[i] for i in left]
        return replace(self, opened=opened, histories=histories)

    def train(self, model: str, watch: Watch) -> list[Outcome]:
        """Train the topologies of all runs, or all default models, to their end.

        Raises:
            TrainingError: the model of a run alone has diverged.
            StoppedError: it was asked to stop.
        """
        config = self.opened[0].config
        branches = self.opened[0].design(model).branches
        train, val = self._feeds(config, branches)
        budget = _budget(config, train.reader.num_steps(config.batch_size), self.seed)
        trainees = [
            self._trainee(run, model, history, train, budget)
            for run, history in zip(self.opened, self.histories, strict=True)
        ]
        trainer = Trainer(trainees, train, val, budget, self.replicas, watch)
        try:
            outcomes = trainer.run(f"train {model}", self.progress)
        except (StoppedError, TrainingError):
            self._draw(has_all=False)
            raise
        for run, trainee, outcome in zip(self.opened, trainees, outcomes, strict=True):
            if outcome.diverged:
                self._tell(run, outcome.diverged)
                continue
            self.progress.say(
                f"{trainee.name}: best val top-1 {outcome.best_val_top1:.2%}, "
                f"{outcome.num_steps:,} step{'' if outcome.num_steps == 1 else 's'}"
            )
        rate, wait = outcomes[0].images_per_s, outcomes[0].data_wait
        if rate is not None:
            self.progress.say(f"{rate:,.0f} images/s, data wait {wait:.1%}")
        del trainer, trainees, train, val
        gc.collect()
        self._draw(has_all=model == "default")
        return outcomes

    @property
    def seed(self) -> int:
        """Of orders and starts."""
        return self.opened[0].described.seed

    def judge_pretrained(self) -> list[Outcome]:
        """Take the backbone's own tail and classifier as the default model of every run."""
        config = self.opened[0].config
        val = self._feed("val", (ORIGINAL,), config, 0)
        outcomes = []
        for run, history in zip(self.opened, self.histories, strict=True):
            design = run.design("default")
            with self.replicas.scope():
                topology = models.build(
                    self.backbone, self.cache, design.with_pretrained_head(), self.seed
                )
            scores = step.compile_scores(topology, val, self.replicas)
            (found,) = judging.evaluate([scores], val, config.batch_size, self.replicas)
            if self.replicas.is_first:
                run.check()
                history.cut("default", 0)
                history.append(_judged(found))
                run.store("default").save(Kept(0, None, 0), topology.arrays(), {"step": 0})
            top5 = "" if found.top5 is None else f", top-5 {found.top5:.2%}"
            self.progress.say(
                f"{self._name(run, 'default')}: val top-1 {found.top1:.2%}{top5}, "
                f"loss {found.loss:.4f}"
            )
            outcomes.append(Outcome(0, found.top1))
        self._draw(has_all=True)
        return outcomes

    def _tell(self, run: Opened, diverged: DivergedError) -> None:
        """Say that a model has diverged, here and in its run's folder; a run alone ends with it."""
        if self.replicas.is_first:
            run.check()
            kept = {"step": diverged.step, "reason": str(diverged)}
            atomic.write_json(run.path / runs.DIVERGED, kept)
        if self.is_sweep:
            self.progress.say(f"{diverged}; its last good checkpoint is kept")
            return
        self._draw(has_all=False)
        raise TrainingError(
            f"{diverged}; its last good checkpoint is kept; give a lower --learning-rate, and "
            "another --run or --overwrite"
        )

    def _draw(self, has_all: bool) -> None:
        """Draw how training went; of runs side by side only at the end, for each takes a moment."""
        if self.has_pictures and self.replicas.is_first and (has_all or len(self.opened) == 1):
            for run in self.opened:
                run_pictures.draw(self.workspace_dir, run.name, run.check)

    def _trainee(
        self, run: Opened, model: str, history: History, train: Feed, budget: Budget
    ) -> Trainee:
        config, name = run.config, self._name(run, model)
        descent = Descent(
            config.momentum,
            config.weight_decay,
            config.label_smoothing,
            config.precision == "mixed_float16",
        )
        with self.replicas.scope():
            topology = models.build(self.backbone, self.cache, run.design(model), self.seed)
            optimizer = step.build_optimizer(descent, topology)
        store = run.store(model)
        if config.start_from and store.is_empty:
            self._take_over(topology, run, model)
        steps_per_epoch = train.reader.num_steps(config.batch_size)
        num_steps = config.epochs * steps_per_epoch
        rate = Rate(
            learning_rate(config.learning_rate, run.described.block_number),
            config.schedule,
            to_steps(config.warmup, steps_per_epoch),
            num_steps,
        )
        compiled = Compiled(
            topology,
            optimizer,
            step.compile_step(topology, optimizer, train, descent, self.replicas),
            step.compile_scores(topology, train, self.replicas),
        )
        records = Records(model, store, history, run.check, self.replicas.is_first)
        plateau = Plateau(config.patience * steps_per_epoch, config.cuts)
        return Trainee(name, compiled, records, rate, plateau)

    def _take_over(self, topology: Topology, run: Opened, model: str) -> None:
        parent = run.config.start_from
        parent_dir = runs.folder_of(self.workspace_dir, parent)
        weights, _ = checkpoints.load(Store.of(parent_dir, model).best)
        taken = topology.assign(weights)
        self.progress.say(
            f"{self._name(run, model)}: {len(taken)} of {len(topology.weights())} weight arrays "
            f"from run {parent}"
        )

    def _feeds(self, config: TrainTailConfig, branches: Sequence[str]) -> tuple[Feed, Feed]:
        """Open train and val; val in memory where there is room left beside train."""
        train = self._feed("train", branches, config, config.cache_memory)
        left = config.cache_memory - train.reader.held_bytes
        return train, self._feed("val", branches, config, left)

    def _feed(
        self, split: str, branches: Sequence[str], config: TrainTailConfig, budget_bytes: int
    ) -> Feed:
        has_gpu, num_classes = devices.has_gpu(), len(self.cache.classes)
        is_dense = not feeds.is_sparse(self.cache.layout, config.expand, has_gpu)
        reader = self.cache.split(split, branches, budget_bytes, is_decoded=is_dense)
        if not has_gpu:
            reader.give_way()
        return feeds.choose(reader, num_classes, config.expand, has_gpu, self.replicas.share)

    def _name(self, run: Opened, model: str) -> str:
        return f"{run.name} {model}" if self.is_sweep else model


@contextlib.contextmanager
def open_fits(
    workspace_dir: Path,
    opened: Sequence[Opened],
    cache: FeatureCache,
    backbone: Backbone,
    replicas: Replicas,
    progress: Progress,
    is_sweep: bool = False,
) -> Iterator[Fits]:
    """Put runs to work side by side; see `Fits` for the arguments."""
    histories = [History(run.path / runs.HISTORY, run.path / "tensorboard") for run in opened]
    try:
        yield Fits(workspace_dir, opened, cache, backbone, replicas, histories, progress, is_sweep)
    finally:
        for history in histories:
            history.close()


def _judged(evaluation: judging.Evaluation) -> dict[str, Any]:
    """Return the history's line of a model that is not trained."""
    return {
        "model": "default",
        "step": 0,
        "epoch": 0.0,
        "learning_rate": None,
        "train_loss": None,
        "train_top1": None,
        "val_loss": evaluation.loss,
        "val_top1": evaluation.top1,
        "val_top5": evaluation.top5,
    }


def _budget(config: TrainTailConfig, steps_per_epoch: int, seed: int) -> Budget:
    eval_every = to_steps(config.eval_every, steps_per_epoch)
    every = eval_every or min(MAX_EVAL_STEPS, steps_per_epoch)
    return Budget(config.epochs, config.batch_size, every, seed)
