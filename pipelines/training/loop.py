"""Training models side by side on one reading of the cache, resumable at any moment."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from pipelines.errors import DivergedError, TrainingError
from pipelines.execution.replicas import Replicas
from pipelines.execution.threads import ahead
from pipelines.progress import Progress
from pipelines.training import judging
from pipelines.training.clock import Clock
from pipelines.training.feeds import Fed, Feed
from pipelines.training.trainee import Trainee

_LARGE = 1e4  # from here on a loss is shown in short
_ASK_EVERY = 10  # questions, one of which goes to all hosts: it waits for the slowest


@dataclass(frozen=True)
class Budget:
    """What models that are trained side by side have in common.

    Attributes:
        epochs: most passes over the train split.
        batch_size: images a step, over all devices.
        eval_every: steps between evaluations.
        seed: of the order.
    """

    epochs: int
    batch_size: int
    eval_every: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How the training of a model ended.

    Attributes:
        num_steps: steps taken.
        best_val_top1: accuracy of the best checkpoint on val, 0..1.
        images_per_s: in the steps of this start, the first left out; None where there was no other.
        data_wait: share of their time that they waited for batches.
        diverged: why the model left the training; its last good checkpoint is kept.
    """

    num_steps: int
    best_val_top1: float
    images_per_s: float | None = None
    data_wait: float | None = None
    diverged: DivergedError | None = None


# Opened while models are in training; gives a function that tells whether to stop.
Watch = Callable[[], AbstractContextManager[Callable[[], bool]]]


def never() -> AbstractContextManager[Callable[[], bool]]:
    """Watch for nothing."""
    return nullcontext(lambda: False)


class StoppedError(Exception):
    """A training was asked to stop, and is saved."""


class Trainer:
    """Trains models side by side; one that diverges leaves, and the others go on."""

    def __init__(
        self,
        trainees: Sequence[Trainee],
        train: Feed,
        val: Feed,
        budget: Budget,
        replicas: Replicas,
        watch: Watch = never,
    ) -> None:
        """Prepare a training; nothing is written yet.

        Args:
            trainees: the models; they take the same batches and are judged at the same steps.
            train: images to learn from.
            val: images to select the best checkpoint on.
            budget: what they have in common.
            replicas: the devices.
            watch: asked behind each step and each batch of an evaluation whether to stop.
        """
        self._trainees, self._train, self._val = list(trainees), train, val
        self._budget, self._replicas, self._watch = budget, replicas, watch
        self._is_asked: Callable[[], bool] = lambda: False
        self._questions = itertools.count()
        self.steps_per_epoch = train.reader.num_steps(budget.batch_size)
        self._num_steps = budget.epochs * self.steps_per_epoch
        self._clock = Clock()

    def run(self, what: str, progress: Progress) -> list[Outcome]:
        """Train until plateau or last epoch, each model from its own last checkpoint on.

        Args:
            what: name of the bar.
            progress: told about steps and evaluations.

        Raises:
            TrainingError: no checkpoint can be read.
            StoppedError: as asked; everything is saved.
        """
        for trainee in self._trainees:
            trainee.restore()
        self._check_hosts()
        with self._watch() as self._is_asked:
            try:
                self._train_all(what, progress)
            finally:
                progress.close()  # a plateau ends the bar, too
            if self._is_to_stop(is_last=True):
                self._stop()
        return [
            Outcome(
                trainee.state.step,
                trainee.state.plateau.best,
                self._clock.images_per_s if self._clock.num_images else None,
                self._clock.data_wait if self._clock.num_images else None,
                trainee.diverged,
            )
            for trainee in self._trainees
        ]

    @property
    def _active(self) -> list[Trainee]:
        return [trainee for trainee in self._trainees if trainee.is_active]

    def _train_all(self, what: str, progress: Progress) -> None:
        self._judge(progress)
        if self._active:
            first = min(trainee.state.step for trainee in self._active)
            progress.start(what, self._num_steps, "step", first)
            self._clock.resume()
            # One ahead of the reader's own, so that an epoch begins while the last one ends.
            batches = ahead(self._batches(first), 1)
            for step, fed in enumerate(self._clock.timed(batches), first):
                taking = [trainee for trainee in self._active if trainee.state.step == step]
                for trainee in taking:
                    trainee.take(fed)
                self._clock.count(fed.num_images)
                if step == first:
                    self._clock.restart()
                progress.show(self._shown(taking))
                progress.advance(1)
                if self._is_to_stop():
                    self._stop()
                self._judge(progress)
                if not self._active:
                    break

    def _check_hosts(self) -> None:
        """Check that all hosts read the same checkpoints, before they wait for each other."""
        steps = np.array([trainee.state.step for trainee in self._trainees], np.float64)
        if not np.array_equal(self._replicas.total(steps), steps * self._replicas.hosts.num):
            raise TrainingError(
                f"the hosts in TF_CONFIG go on from other checkpoints (here step {steps[0]:.0f}); "
                "all of them have to see the same workspace"
            )

    def _is_to_stop(self, is_last: bool = False) -> bool:
        """Tell whether this host was asked to stop; of several, whether any was.

        They ask each other now and then, all behind the same step, and so stop at the same one:
        the first saves what all of them have. Each asks as often as the others.
        """
        if self._replicas.hosts.num == 1:
            return self._is_asked()
        if next(self._questions) % _ASK_EVERY and not is_last:
            return False
        return bool(self._replicas.total(np.array([float(self._is_asked())]))[0])

    def _batches(self, first: int) -> Iterator[Fed]:
        size, seed = self._budget.batch_size, self._budget.seed
        first_epoch, first_step = divmod(first, self.steps_per_epoch)
        for epoch in range(first_epoch, self._budget.epochs):
            start = first_step if epoch == first_epoch else 0
            yield from self._train.epoch(size, seed, epoch, start)

    def _is_due(self, trainee: Trainee) -> bool:
        step, every = trainee.state.step, self._budget.eval_every
        is_time = step % every == 0 or step == self._num_steps
        return is_time and trainee.state.judged_step != step

    def _judge(self, progress: Progress) -> None:
        """Judge those that are due."""
        begun_s = time.perf_counter()
        due = [trainee for trainee in self._active if self._is_due(trainee) and trainee.settle()]
        if not due:
            return

        def on_batch() -> None:
            if self._is_to_stop():
                self._stop()

        evaluations = judging.evaluate(
            [trainee.scores for trainee in due],
            self._val,
            self._budget.batch_size,
            self._replicas,
            on_batch,
        )
        judged_s = time.perf_counter()
        judged = []
        for trainee, evaluation in zip(due, evaluations, strict=True):
            epoch = trainee.state.step / self.steps_per_epoch
            is_better = trainee.take_in(evaluation, epoch, self._num_steps)
            if trainee.diverged:
                continue
            judged.append((trainee, evaluation, is_better))
            trainee.log(
                {
                    "time": round(time.time(), 3),
                    "num_devices": self._replicas.share.num,
                    "images_per_s": round(self._clock.images_per_s, 2),
                    "data_wait": round(self._clock.data_wait, 5),
                    "judge_s": round(judged_s - begun_s, 3),
                    "save_s": round(time.perf_counter() - judged_s, 3),
                }
            )
        if judged:
            progress.say(_said(judged, self.steps_per_epoch))
        self._clock.resume()

    def _stop(self) -> None:
        for trainee in self._active:
            trainee.save_unjudged()
        # Those that are finished are saved. Nothing is left where all have turned out to diverge.
        left = self._active or [t for t in self._trainees if not t.diverged]
        if left:
            where = (f"{trainee.name} at step {trainee.state.step:,}" for trainee in left)
            raise StoppedError(", ".join(where))

    def _shown(self, taking: Sequence[Trainee]) -> str:
        """Say beside the bar how it goes."""
        losses = [t.last_loss for t in taking if t.last_loss is not None]
        rates = [trainee.last_rate for trainee in taking]
        parts = [
            f"loss {_range(losses, '.4f')}" if losses else "",
            f"lr {_range(rates, '.2g')}" if rates else "",
        ]
        if self._clock.num_images:
            parts.append(f"{self._clock.images_per_s:,.0f} images/s")
            parts.append(f"data wait {self._clock.data_wait:.1%}")
        return ", ".join(filter(None, parts))


def _range(values: Sequence[float], form: str) -> str:
    low, high = (format(v, ".3g" if abs(v) >= _LARGE else form) for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _said(judged: Sequence[tuple[Trainee, judging.Evaluation, bool]], steps_per_epoch: int) -> str:
    """Say in one line how the models do, and which of several does best."""
    first, found, is_better = judged[0]
    at = f"step {first.state.step:,} (epoch {first.state.step / steps_per_epoch:.2f})"
    if len(judged) > 1:
        top1s = [evaluation.top1 for _, evaluation, _ in judged]
        best = judged[top1s.index(max(top1s))][0].name
        return f"{at}, {len(judged)} models: val top-1 {_range(top1s, '.2%')}, best: {best}"
    top5 = "" if found.top5 is None else f", top-5 {found.top5:.2%}"
    return f"{first.name}, {at}: val top-1 {found.top1:.2%}{top5}, loss {found.loss:.4f}" + (
        ", best so far" if is_better else ""
    )
