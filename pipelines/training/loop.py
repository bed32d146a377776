"""Training one model of a run from the cache, resumable at every evaluation.

Everything that decides the next step (weights, optimiser, step, plateau, length of the history) is
in the last checkpoint; the order of the images is a pure function of (seed, epoch, step). A run
that was killed replays the steps since then and ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.analysis import metrics
from pipelines.errors import TrainingError
from pipelines.networks.topology import Topology
from pipelines.storage.batches import FeatureReader
from pipelines.training import checkpoints, feeds
from pipelines.training.feeds import Feed
from pipelines.training.history import History
from pipelines.training.schedule import MAX_EVAL_STEPS, Plateau

_OPTIMIZER = "optimizer/"


@dataclass(frozen=True)
class Settings:
    """What one training is run with.

    Attributes:
        epochs: most passes over the train split.
        batch_size: images a step.
        learning_rate: constant.
        eval_every: steps between evaluations; 0 for 2,000 or one epoch, the shorter.
        patience: epochs without a better validation accuracy that end it.
        seed: of the order.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    eval_every: int
    patience: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        num_steps: steps taken.
        best_val_top1: accuracy of the best checkpoint on val, 0..1.
    """

    num_steps: int
    best_val_top1: float


@dataclass(frozen=True)
class Evaluation:
    """How a model does on one split.

    Attributes:
        loss: mean cross entropy in nats.
        top1: accuracy, 0..1.
        top5: the same within the five highest; None at five classes or fewer.
    """

    loss: float
    top1: float
    top5: float | None


@dataclass(frozen=True)
class Paths:
    """Where one model's checkpoints are."""

    last: Path
    best: Path

    @classmethod
    def of(cls, run_dir: Path, model: str) -> Paths:
        """Return the paths of a run's model, "topology" or "default"."""
        folder = run_dir / "checkpoints"
        return cls(folder / f"{model}-last.npz", folder / f"{model}-best.npz")


@dataclass
class _State:
    step: int
    plateau: Plateau
    is_finished: bool
    history_length: int

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_val_top1": self.plateau.best,
            "best_step": self.plateau.best_step,
            "is_finished": self.is_finished,
            "history_length": self.history_length,
        }


class Trainer:
    """Trains one model of a run."""

    def __init__(
        self,
        name: str,
        topology: Topology,
        train: FeatureReader,
        val: FeatureReader,
        settings: Settings,
        paths: Paths,
        history: History,
        feed: Feed | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a training; nothing is written yet.

        Args:
            name: "topology" or "default", as it stands in the history.
            topology: the model, as it starts.
            train: images to learn from.
            val: images to select the best checkpoint on.
            settings: what it is run with.
            paths: of the checkpoints.
            history: where evaluations are written.
            feed: how batches of `train` reach the step; dense ones where none is given.
            check: called before each write; raises where the run is another process's by now.
        """
        import keras

        self._name, self._topology = name, topology
        self._train, self._val = train, val
        self._settings, self._paths, self._history = settings, paths, history
        self._feed = feed or feeds.dense(train)
        self._check = check
        self._optimizer = keras.optimizers.SGD(settings.learning_rate)
        self._optimizer.build(topology.trainable_variables)
        self._step_function = _compile_step(topology, self._optimizer, self._feed)
        self._logits = compile_logits(topology)
        self.steps_per_epoch = train.num_steps(settings.batch_size)
        self._eval_every = settings.eval_every or min(MAX_EVAL_STEPS, self.steps_per_epoch)
        patience_steps = settings.patience * self.steps_per_epoch
        self._state = _State(0, Plateau(patience_steps), False, 0)

    def run(self, on_start: Callable[[int], None], on_step: Callable[[], None]) -> Outcome:
        """Train until the plateau or the last epoch, from the last checkpoint on.

        Args:
            on_start: told the step from which this start goes on.
            on_step: called after each step.

        Raises:
            TrainingError: the loss is not a finite number, or a checkpoint is damaged.
        """
        if self._paths.last.exists():
            self._restore()
        self._check()
        self._history.cut(self._name, self._state.history_length)
        if self._state.is_finished:
            return Outcome(self._state.step, self._state.plateau.best)
        on_start(self._state.step)
        if not self._paths.last.exists():
            self._evaluate([], [])
        num_steps = self._settings.epochs * self.steps_per_epoch
        losses: list[float] = []
        hits: list[float] = []
        for arrays in self._batches():
            loss, top1 = self._step_function(*arrays)
            losses.append(float(loss))
            hits.append(float(top1))
            self._state.step += 1
            if not np.isfinite(losses[-1]):
                raise TrainingError(
                    f"the loss of {self._name} is {losses[-1]} at step {self._state.step}; "
                    "lower --learning-rate (the last good checkpoint is kept)"
                )
            on_step()
            is_last = self._state.step == num_steps
            if self._state.step % self._eval_every == 0 or is_last:
                self._state.is_finished = is_last
                self._evaluate(losses, hits)
                losses, hits = [], []
            if self._state.is_finished:
                break
        return Outcome(self._state.step, self._state.plateau.best)

    def _batches(self) -> Iterator[tuple[np.ndarray, ...]]:
        size = self._settings.batch_size
        first_epoch, first_step = divmod(self._state.step, self.steps_per_epoch)
        for epoch in range(first_epoch, self._settings.epochs):
            start = first_step if epoch == first_epoch else 0
            yield from self._feed.epoch(size, self._settings.seed, epoch, start)

    def _evaluate(self, losses: list[float], hits: list[float]) -> None:
        """Judge the model on val, write the history's line and the checkpoints."""
        state = self._state
        try:
            evaluation = evaluate(self._logits, self._val, self._settings.batch_size)
        except FloatingPointError as error:
            raise TrainingError(
                f"{self._name} at step {state.step}: {error}; "
                "lower --learning-rate (the last good checkpoint is kept)"
            ) from error
        is_better = state.plateau.is_better(evaluation.top1)
        state.plateau = state.plateau.after(state.step, evaluation.top1)
        state.is_finished = state.is_finished or state.plateau.is_over(state.step)
        self._check()
        self._history.append(
            {
                "model": self._name,
                "step": state.step,
                "epoch": round(state.step / self.steps_per_epoch, 6),
                "learning_rate": self._settings.learning_rate,
                "train_loss": float(np.mean(losses)) if losses else None,
                "train_top1": float(np.mean(hits)) if hits else None,
                "val_loss": evaluation.loss,
                "val_top1": evaluation.top1,
                "val_top5": evaluation.top5,
            }
        )
        state.history_length = self._history.length(self._name)
        if is_better:
            self._check()
            checkpoints.save(self._paths.best, self._topology.weights(), state.to_json())
        optimizer = {
            f"{_OPTIMIZER}{i:04d}": variable.numpy().copy()
            for i, variable in enumerate(self._optimizer.variables)
        }
        weights = self._topology.weights()
        self._check()
        checkpoints.save(self._paths.last, {**weights, **optimizer}, state.to_json())

    def _restore(self) -> None:
        arrays, value = checkpoints.load(self._paths.last)
        self._topology.assign(arrays)
        for i, variable in enumerate(self._optimizer.variables):
            variable.assign(arrays[f"{_OPTIMIZER}{i:04d}"])
        patience_steps = self._state.plateau.patience_steps
        self._state = _State(
            value["step"],
            Plateau(patience_steps, value["best_val_top1"], value["best_step"]),
            value["is_finished"],
            value["history_length"],
        )


def compile_logits(topology: Topology) -> Callable[[np.ndarray], Any]:
    """Return a compiled forward pass: float32 (batch, branches, *shape) -> float32 logits."""
    import tensorflow as tf

    # One trace for batches of every size, the smaller last one included.
    return tf.function(
        lambda features: topology.logits(features, False),
        input_signature=[tf.TensorSpec((None, *topology.input_shape), tf.float32)],
        autograph=False,
    )


def evaluate(
    logits_of: Callable[[np.ndarray], Any], reader: FeatureReader, batch_size: int
) -> Evaluation:
    """Judge a model on all images of a split.

    Raises:
        FloatingPointError: a score is not finite.
    """
    ranks, loss_sum, num_classes = [], 0.0, 0
    for batch in reader.in_order(batch_size):
        logits = logits_of(batch.features).numpy()
        if not np.isfinite(logits).all():
            raise FloatingPointError("a score is not a finite number")
        ranks.append(metrics.label_ranks(logits, batch.labels))
        loss_sum += float(_cross_entropy(logits, batch.labels).sum())
        num_classes = logits.shape[1]
    every = np.concatenate(ranks)
    return Evaluation(
        loss_sum / len(every),
        metrics.top_k_accuracy(every, 1),
        metrics.top5_or_none(every, num_classes),
    )


def _compile_step(topology: Topology, optimizer: Any, feed: Feed) -> Callable[..., Any]:
    import tensorflow as tf

    variables = topology.trainable_variables

    signature = [*feed.signature, tf.TensorSpec((None,), tf.int32)]

    @tf.function(input_signature=signature, autograph=False)
    def step(*arrays: Any) -> tuple[Any, Any]:
        features, labels = feed.unpack(*arrays[:-1]), arrays[-1]
        with tf.GradientTape() as tape:
            logits = topology.logits(features, True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)
        hits = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    return step


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return float64 (batch,) losses in nats from float32 (batch, classes) logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return log_sum - shifted[np.arange(len(labels)), labels]
