"""Judging in folds: every model trained and judged on each part of all images, from one cache."""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import comparators, runs
from pipelines.analysis.naming import BRANCH, DEFAULT, TOPOLOGY
from pipelines.comparators import Control
from pipelines.errors import ConfigError, ManifestError
from pipelines.evaluation import figures, fold_figures, folds, predictions
from pipelines.evaluation.figures import Asked
from pipelines.evaluation.fold_figures import Judged
from pipelines.evaluation.folds import TEST, TRAIN, Fold, FoldedCache
from pipelines.evaluation.scoring import Party
from pipelines.evaluation.tally import Tally
from pipelines.fold_plans import Entry, Plan
from pipelines.judged import Judging
from pipelines.progress import Progress, Silent
from pipelines.storage import atomic, locks, parquet
from pipelines.storage.cache import FeatureCache
from pipelines.storage.fingerprint import digest
from pipelines.storage.variants import ORIGINAL
from pipelines.train_runs import Start

_AT_WORK = "-at-work-"  # in the name of a folder that a fold is trained in
_VAL_SHARE = 0.15  # where the images' own splits have no val


def run(plan: Plan, asked: Asked, start: Start, progress: Progress) -> dict[str, Any]:
    """Train and judge in every fold that is not done yet; return the figures of all.

    Args:
        plan: what.
        asked: what the figures are of.
        start: of the trainings; its folders and seed are those of the folds in turn.
        progress: told about the models.

    Raises:
        ConfigError: there are fewer images of a class than folds, or a fold has too few images.
        TrainingError: a model cannot be trained.
        StoppedError: it was asked to stop.
    """
    _, labels = folds.read_labels(plan.cache)
    val_share = _val_share(plan.cache)
    every = [
        fold
        for seed in plan.seeds
        for fold in folds.make(
            labels, plan.cache.classes, plan.num_folds, seed, val_share, plan.is_honest
        )
    ]
    _check_batches(plan, every)
    atomic.make_folder(plan.folder)
    with locks.hold(plan.folder.parent) as lock, contextlib.ExitStack() as stack:
        marks = [m for path in plan.caches for m in stack.enter_context(locks.reading(path))]
        check = partial(locks.check_all, [lock, *marks])
        atomic.sweep(plan.folder)
        left = [_FoldAtWork(plan, fold, start, check) for fold in every if not _is_done(plan, fold)]
        _clear_others(plan.folder, [fold.folder for fold in left])
        num_models = len(plan.entries)
        total, done = num_models * len(every), num_models * (len(every) - len(left))
        progress.start("folds", total, "model", done)
        for fold in left:
            fold.run(progress)
            gc.collect()
    return fold_figures.figures([_read(plan, fold) for fold in every], asked)


def _check_batches(plan: Plan, every: Sequence[Fold]) -> None:
    """Refuse folds that leave fewer images than a batch has.

    Raises:
        ConfigError: they do.
    """
    num_images = min(len(fold.rows[TRAIN]) for fold in every)
    for entry in plan.entries:
        for ask in (run.ask for run in entry.chain):
            if ask.config.batch_size > num_images:
                raise ConfigError(
                    f"--folds {plan.num_folds}: leaves {num_images} images to learn from, and run "
                    f"{ask.run} takes batches of {ask.config.batch_size}; give more folds, or "
                    f"train that run with --batch-size {num_images} or less"
                )


def _val_share(cache: FeatureCache) -> float:
    """Return the share of val in train and val, as the images were divided."""
    num_val = cache.num_rows("val")
    return num_val / (num_val + cache.num_rows("train")) if num_val else _VAL_SHARE


@dataclass(frozen=True)
class _FoldAtWork:
    plan: Plan
    fold: Fold
    start: Start
    check: Callable[[], None]

    @property
    def folder(self) -> Path:
        """A workspace of its own, for the runs of this fold."""
        made = digest(self.plan.fingerprint)[:8]
        return self.plan.folder / f"{self.fold.name}{_AT_WORK}{made}"

    def run(self, progress: Progress) -> None:
        """Train all models, judge them, keep what came out and nothing else."""
        atomic.make_folder(self.folder)
        for entry in self.plan.entries:
            for run in entry.chain:
                self._start(entry, run).train([run.ask])
            progress.advance(1)
        self._judge()
        shutil.rmtree(self.folder)

    def _start(self, entry: Entry, run: Control) -> Start:
        return replace(
            self.start,
            workspace_dir=self.folder,
            features_dir=run.cache.path.parent,
            seed=self.fold.seed,
            open_cache=partial(FoldedCache, fold=self.fold),
            # The default model is the same for all; a chain asks for its own.
            has_defaults=entry.called == TOPOLOGY or len(entry.chain) > 1,
        )

    def _judge(self) -> None:
        plan = self.plan
        contestants = {
            (entry.called, model): comparators.of_run(
                entry.run,
                runs.read(self.folder, entry.run),
                runs.folder_of(self.folder, entry.run),
                model,
                entry.called if model == TOPOLOGY else model,
            )
            for entry in plan.entries
            for model in ((TOPOLOGY, DEFAULT) if entry.called == TOPOLOGY else (TOPOLOGY,))
        }
        topology, default, *others = contestants.values()
        party = Party(topology, default, tuple(others), plan.has_mean, plan.control_branches)
        cache = FoldedCache(plan.cache.path, self.fold)
        control = None if plan.control is None else FoldedCache(plan.control.path, self.fold)
        judging = Judging(plan.workspace_dir, plan.described, party, cache, control, TEST)
        table, receipt = _files(plan, self.fold)
        receipt.unlink(missing_ok=True)
        tally = judging.tally(table, Silent(), self.check)
        atomic.write_json(receipt, _summary(plan, self.fold, tally, judging.branches))


def _clear_others(folder: Path, kept: Sequence[Path]) -> None:
    """Delete what starts that were killed have left, but for what is gone on with."""
    for path in folder.glob(f"*{_AT_WORK}*"):
        if path not in kept:
            shutil.rmtree(path)


def _files(plan: Plan, fold: Fold) -> tuple[Path, Path]:
    """Return the table of a fold's images, and what says that it is whole and of what."""
    return plan.folder / f"{fold.name}.parquet", plan.folder / f"{fold.name}.json"


def _summary(plan: Plan, fold: Fold, tally: Tally, branches: tuple[str, ...]) -> dict[str, Any]:
    right = tally.ranks(TOPOLOGY) == 0
    return {
        "made_from": plan.fingerprint,
        "seed": fold.seed,
        "fold": fold.number,
        "averages": {name: figures.averages(tally, name) for name in (DEFAULT, TOPOLOGY)},
        "leans_on": figures.leans_on(tally, branches, right),
    }


def _is_done(plan: Plan, fold: Fold) -> bool:
    table, receipt = _files(plan, fold)
    if not (table.exists() and receipt.exists()):
        return False
    try:
        return bool(atomic.read_json(receipt)["made_from"] == plan.fingerprint)
    except (ManifestError, KeyError, TypeError):
        return False


def _read(plan: Plan, fold: Fold) -> Judged:
    """Read what came out of a fold."""
    path, receipt = _files(plan, fold)
    table, summary = (
        parquet.read_table(path, predictions.rank_columns(path)),
        atomic.read_json(receipt),
    )
    branches = [
        name.removeprefix("default_").removesuffix("_rank")
        for name in table.column_names
        if name.startswith("default_") and name.endswith("_rank")
    ]
    of_branch = {name: table[f"default_{name}_rank"].to_numpy() for name in branches}
    control = None
    if predictions.CONTROL_ORACLE in table.column_names:
        control = table[predictions.CONTROL_ORACLE].to_numpy()
    others = predictions.others(table.column_names)
    ranks = {
        DEFAULT: of_branch[ORIGINAL],
        TOPOLOGY: table["topology_rank"].to_numpy(),
        **{name: table[f"{name}_rank"].to_numpy() for name in others},
        **{f"{BRANCH}{name}": of_branch[name] for name in branches if name != ORIGINAL},
    }
    oracle = np.min(list(of_branch.values()), axis=0)
    return Judged(fold.seed, fold.number, ranks, oracle, control, summary)
