"""Trainings of a tiny network on a made-up cache, ended at chosen moments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from caches import BRANCHES, tiny

from pipelines.execution.replicas import Replicas
from pipelines.networks import models
from pipelines.networks.topology import Design
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.training import step
from pipelines.training.checkpoints import Store
from pipelines.training.feeds import Feed
from pipelines.training.history import History
from pipelines.training.loop import Budget, Outcome, StoppedError, Trainer
from pipelines.training.schedule import Plateau, Rate
from pipelines.training.step import Descent
from pipelines.training.trainee import Compiled, Records, Trainee

SHAPE = (8, 8, 6)
NUM_TRAIN = 44  # in batches of 15: three steps an epoch, the last of 14 images
NUM_STEPS = 9
MANY_STEPS = 1_000_000_000


@dataclass(frozen=True)
class Fit:
    """What a training is run with.

    Attributes:
        rate: the learning rate.
        descent: how the weights follow.
        design: of the topology.
        epochs, batch_size, eval_every, seed: of the budget.
        patience_steps, cuts: of the plateau.
        budget_bytes: of memory for the splits.
        is_sparse: whether maps are expanded in the step.
    """

    rate: Rate = Rate(0.05)  # noqa: RUF009
    descent: Descent = Descent()  # noqa: RUF009
    design: Design = Design(BRANCHES)  # noqa: RUF009
    epochs: int = 3
    batch_size: int = 15
    eval_every: int = 2
    seed: int = 1
    patience_steps: int = 9
    cuts: int = 0
    budget_bytes: int = 0
    is_sparse: bool = False


class Killed(BaseException):
    """Ends a training between two steps, as a signal would that cannot be caught."""


class _Killer(Silent):
    def __init__(self, num_steps: int) -> None:
        self._left = num_steps

    def advance(self, count: int) -> None:
        self._left -= count
        if not self._left:
            raise Killed


def trainee(run_dir: Path, cache: FeatureCache, fit: Fit, feed: Feed) -> Trainee:
    """Make a model in training, whose records are in a run's folder."""
    topology = models.build(tiny(), cache, fit.design, fit.seed)
    optimizer = step.build_optimizer(fit.descent, topology)
    compiled = Compiled(
        topology,
        optimizer,
        step.compile_step(topology, optimizer, feed, fit.descent, Replicas()),
        step.compile_scores(topology, feed, Replicas()),
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    history = History(run_dir / "history.jsonl", run_dir / "tensorboard")
    records = Records("topology", Store.of(run_dir, "topology"), history)
    return Trainee("topology", compiled, records, fit.rate, Plateau(fit.patience_steps, fit.cuts))


def trainer(
    run_dirs: list[Path], cache: FeatureCache, fits: list[Fit], watch: Any = None
) -> tuple[Trainer, list[Trainee]]:
    """Make a trainer of models side by side; the first fit says what they have in common."""
    first = fits[0]
    feeds = [
        Feed(
            cache.split(split, first.design.branches, first.budget_bytes),
            len(cache.classes),
            first.is_sparse,
        )
        for split in ("train", "val")
    ]
    trainees = [
        trainee(path, cache, fit, feeds[0]) for path, fit in zip(run_dirs, fits, strict=True)
    ]
    budget = Budget(first.epochs, first.batch_size, first.eval_every, first.seed)
    more = {} if watch is None else {"watch": watch}
    return Trainer(trainees, *feeds, budget, Replicas(), **more), trainees


def train(
    run_dir: Path,
    cache: FeatureCache,
    fit: Fit | None = None,
    *,
    kill_after: int = MANY_STEPS,
    stop_after: int = MANY_STEPS,
    **changed: Any,
) -> Outcome | None:
    """Train or go on.

    Args:
        run_dir: of the run.
        cache: to learn from.
        fit: what it is run with.
        kill_after: end it behind so many steps, without a word.
        stop_after: ask it to stop at the so-manieth time that it asks.
        changed: of the fit.

    Returns:
        The outcome, None where it was ended.
    """
    fit = replace(fit or Fit(), **changed)
    left = iter(range(stop_after - 1, -1, -1))

    @contextlib.contextmanager
    def watch() -> Iterator[Any]:
        yield lambda: next(left) == 0

    made, trainees = trainer([run_dir], cache, [fit], watch)
    try:
        return made.run("train", _Killer(kill_after))[0]
    except (Killed, StoppedError):
        return None
    finally:
        trainees[0].records.history.close()
