"""One fold: its models trained, their best checkpoints kept, and judged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import comparators, runs
from pipelines.analysis.naming import BRANCH, DEFAULT, TOPOLOGY
from pipelines.comparators import Control
from pipelines.errors import ManifestError, PipelineError
from pipelines.evaluation import figures, predictions
from pipelines.evaluation.fold_figures import Judged
from pipelines.evaluation.folds import TEST, TRAIN, Fold, FoldedCache
from pipelines.evaluation.scoring import Party
from pipelines.evaluation.tally import Tally
from pipelines.fold_plans import Entry, Plan
from pipelines.judged import Judging
from pipelines.progress import Progress, Silent
from pipelines.storage import atomic, parquet
from pipelines.storage.fingerprint import check_same
from pipelines.storage.variants import ORIGINAL
from pipelines.train_runs import Start
from pipelines.training.checkpoints import Store


@dataclass(frozen=True)
class FoldRun:
    """One fold of a plan.

    On disk, beside each other: a table of the fold's images; what says that it is whole and of
    what; and a workspace of the fold's own, whose runs keep their best checkpoints, so that one
    more comparator costs its own training and no other.

    Attributes:
        plan: what is trained and judged.
        fold: on which images.
        start: of the trainings; its folders and seed are replaced.
        check: raises where the run's folder is another's by now.
    """

    plan: Plan
    fold: Fold
    start: Start
    check: Callable[[], None]

    @property
    def folder(self) -> Path:
        """The workspace of the fold."""
        return self.plan.folder / self.fold.name

    @property
    def table(self) -> Path:
        """The ranks of the fold's images."""
        return self.plan.folder / f"{self.fold.name}.parquet"

    @property
    def receipt(self) -> Path:
        """What the table is of; written last."""
        return self.plan.folder / f"{self.fold.name}.json"

    @property
    def has_receipt(self) -> bool:
        """Tell whether the fold was judged, whatever was compared."""
        return self.receipt.exists()

    @property
    def _made_from(self) -> dict[str, Any]:
        return {**self.plan.fingerprint, "rows_sha256": self.fold.rows_sha256}

    def run(self, progress: Progress) -> None:
        """Train the models that are not trained yet, and judge all."""
        atomic.make_folder(self.folder)
        for entry in self.plan.entries:
            for run in entry.chain:
                self._train(run)
            progress.advance(1)
        self._judge()
        for path in (self.folder / "runs").glob("*/"):
            _keep_the_best(path)

    def read(self) -> Judged | None:
        """Read what came out of the fold; None where it is not judged yet, or not as planned."""
        try:
            summary = atomic.read_json(self.receipt)
            if summary["made_from"] != self._made_from:
                return None
            table = parquet.read_table(self.table, predictions.rank_columns(self.table))
        except (PipelineError, KeyError, TypeError):  # missing or damaged: judged again
            return None
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
        return Judged(self.fold.seed, self.fold.number, ranks, oracle, control, summary)

    def _train(self, run: Control) -> None:
        """Train a run, if it is not; one of the same name and other settings goes."""
        has_defaults = run.ask.run in self.plan.with_defaults
        start = replace(
            self.start,
            workspace_dir=self.folder,
            features_dir=run.cache.path.parent,
            seed=self.fold.seed,
            open_cache=partial(FoldedCache, fold=self.fold),
            has_defaults=has_defaults,
        )
        run_dir = runs.folder_of(self.folder, run.ask.run)
        expected = start.describe(FoldedCache(run.cache.path, self.fold), run.ask).fingerprint
        if (run_dir / runs.RUN).exists():
            try:
                check_same(runs.read(self.folder, run.ask.run).fingerprint, expected, run_dir, "")
            except ManifestError:
                shutil.rmtree(run_dir)
        models = (TOPOLOGY, DEFAULT) if has_defaults else (TOPOLOGY,)
        if not _is_finished(run_dir, models):
            start.train([run.ask])

    def _judge(self) -> None:
        plan = self.plan
        topology, default, *others = self._contestants()
        party = Party(topology, default, tuple(others), plan.has_mean, plan.control_branches)
        cache = FoldedCache(plan.cache.path, self.fold)
        control = None if plan.control is None else FoldedCache(plan.control.path, self.fold)
        judging = Judging(plan.workspace_dir, plan.described, party, cache, control, TEST)
        self.receipt.unlink(missing_ok=True)
        tally = judging.tally(self.table, Silent(), self.check)
        atomic.write_json(self.receipt, self._summary(tally, judging.branches))

    def _contestants(self) -> Iterator[comparators.Contestant]:
        for entry in self.plan.entries:
            yield self._contestant(entry, TOPOLOGY, entry.called)
            if entry.called == TOPOLOGY:
                yield self._contestant(entry, DEFAULT, DEFAULT)

    def _contestant(self, entry: Entry, model: str, called: str) -> comparators.Contestant:
        described, folder = (
            runs.read(self.folder, entry.run),
            runs.folder_of(self.folder, entry.run),
        )
        return comparators.of_run(entry.run, described, folder, model, called)

    def _summary(self, tally: Tally, branches: tuple[str, ...]) -> dict[str, Any]:
        right = tally.ranks(TOPOLOGY) == 0
        return {
            "made_from": self._made_from,
            "seed": self.fold.seed,
            "fold": self.fold.number,
            "num_train": len(self.fold.rows[TRAIN]),
            "averages": {name: figures.averages(tally, name) for name in (DEFAULT, TOPOLOGY)},
            "leans_on": figures.leans_on(tally, branches, right),
        }


def _is_finished(run_dir: Path, models: tuple[str, ...]) -> bool:
    if not (run_dir / runs.SUMMARY).exists():
        return False
    try:
        return all(Store.of(run_dir, model).best.exists() for model in models)
    except PipelineError:
        return False


def _keep_the_best(run_dir: Path) -> None:
    """Delete of a finished run what only training on needs."""
    for model in (TOPOLOGY, DEFAULT):
        store = Store.of(run_dir, model)
        if store.kept() is not None:
            best = store.best
            for path in store.folder.glob("*.npz"):
                if path != best:
                    path.unlink()
    shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
