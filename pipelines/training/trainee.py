"""One model in training: its state, its steps, and what it leaves on disk.

Everything that decides the next step (weights, optimiser, step, plateau, the losses since the last
evaluation, length of the history) is in its last checkpoint; the order of the images is a pure
function of (seed, epoch, step). A run that was killed replays the steps since then and ends with
the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipelines.errors import DivergedError, TrainingError
from pipelines.networks.topology import Topology
from pipelines.training.checkpoints import Found, Kept, Store
from pipelines.training.feeds import Fed
from pipelines.training.history import History
from pipelines.training.judging import Evaluation, Scores
from pipelines.training.schedule import Plateau, Rate

_OPTIMIZER, _LOSSES = "optimizer/", "progress/losses"
_SHOWN = 5  # images named in an error


@dataclass
class State:
    """Where a training stands.

    Attributes:
        step: steps taken.
        plateau: of the validation top-1.
        is_finished: nothing is left to do.
        judged_step: step of the last evaluation, -1 before the first.
        history_length: lines of the model's history.
        best_top5: best validation top-5 so far, below 0 for none.
        best_top5_step: the step of that evaluation.
        losses: (loss, top-1 on the batch) of each step since the last evaluation.
    """

    step: int
    plateau: Plateau
    is_finished: bool = False
    judged_step: int = -1
    history_length: int = 0
    best_top5: float = -1.0
    best_top5_step: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Give all but the losses, which are an array."""
        values = asdict(self)
        values.pop("losses")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], losses: np.ndarray) -> State:
        """Undo `to_json`."""
        pairs = [(float(loss), float(top1)) for loss, top1 in losses]
        return cls(**{**values, "plateau": Plateau(**values["plateau"]), "losses": pairs})


@dataclass(frozen=True)
class Compiled:
    """A model's functions on the devices.

    Attributes:
        topology: its weights.
        optimizer: Keras's, with its state.
        step: a batch to float32 (2,): loss and top-1 before the step.
        scores: a batch to float32 (images, classes).
    """

    topology: Topology
    optimizer: Any
    step: Callable[[Fed], Any]
    scores: Scores


@dataclass(frozen=True)
class Records:
    """What a model leaves on disk.

    Attributes:
        model: "topology" or "default", as it stands in the history.
        store: of its checkpoints.
        history: of its run.
        check: called before each write; raises where the run is another process's by now.
        is_written: whether this host writes; others read alone.
    """

    model: str
    store: Store
    history: History
    check: Callable[[], None] = lambda: None
    is_written: bool = True


class Trainee:
    """A model in training.

    Attributes:
        name: what messages call it.
        records: what it leaves on disk.
        state: where it stands.
        last_loss: of the last step whose loss is known.
        last_rate: learning rate of the last step.
        diverged: why it takes no further step.
    """

    def __init__(
        self, name: str, compiled: Compiled, records: Records, rate: Rate, start: Plateau
    ) -> None:
        """Begin at step 0; nothing is written yet.

        Args:
            name: what messages call it.
            compiled: the model.
            records: what it leaves on disk.
            rate: its learning rate.
            start: what ends it.
        """
        self.name, self.records, self.state = name, records, State(0, start)
        self._compiled, self._rate = compiled, rate
        self.last_loss: float | None = None
        self.last_rate = float("nan")
        self.diverged: DivergedError | None = None
        self._saved_step: int | None = None
        self._pending: list[tuple[int, Any, Fed]] = []

    @property
    def scores(self) -> Scores:
        """The model's forward pass."""
        return self._compiled.scores

    @property
    def is_active(self) -> bool:
        """Tell whether it has steps left to take."""
        return not self.state.is_finished and self.diverged is None

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self._rate.at(self.state.step, self.state.plateau.num_cuts)

    def restore(self) -> None:
        """Go on from the last checkpoint, where there is one; cut the history back to it.

        Raises:
            TrainingError: no checkpoint can be read, or they are of another model.
        """
        found = self.records.store.load()
        if found is not None:
            self._take_over(found)
        if self.records.is_written:
            self.records.check()
            if found is not None and not found.is_named:
                self._save(-1)
            self.records.store.delete_others()
            self.records.history.cut(self.records.model, self.state.history_length)

    def _take_over(self, found: Found) -> None:
        optimizer = self._compiled.optimizer
        try:
            self._compiled.topology.assign(found.arrays)
            for i, variable in enumerate(optimizer.variables):
                variable.assign(found.arrays[f"{_OPTIMIZER}{i:04d}"])
            self.state = State.from_json(found.state, found.arrays[_LOSSES])
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{self.records.store.path(found.step)}: of another model: {error!r}; delete the "
                "run's folder and train it again"
            ) from error
        self._saved_step = found.step

    def take(self, fed: Fed) -> None:
        """Take a step; its loss is looked at when the next one is on its way."""
        if self.learning_rate != self.last_rate:
            self.last_rate = self.learning_rate
            self._compiled.optimizer.learning_rate = self.last_rate
        self.state.step += 1
        self._pending.append((self.state.step, self._compiled.step(fed), fed))
        self.settle(1)

    def settle(self, num_left: int = 0) -> bool:
        """Wait for all steps but the last few, and look at their losses.

        Returns:
            Whether all are finite numbers; else the model has diverged.
        """
        while len(self._pending) > num_left and self.diverged is None:
            step, result, fed = self._pending.pop(0)
            loss, top1 = (float(value) for value in result.numpy())
            if not np.isfinite(loss):
                self._diverge(step, f"the loss is {loss} at step {step}, on images {_named(fed)}")
            else:
                self.last_loss = loss
                self.state.losses.append((loss, top1))
        return self.diverged is None

    def take_in(self, evaluation: Evaluation, epoch: float, num_steps: int) -> bool:
        """Take in how the model does at this step: plateau, history, checkpoint.

        Args:
            evaluation: on val.
            epoch: that lie behind.
            num_steps: the most there are.

        Returns:
            Whether it is the best so far by top-1; not where a score is no finite number: then it
            has diverged.
        """
        state = self.state
        if not np.isfinite(evaluation.loss):
            self._diverge(state.step, f"a score is not a finite number at step {state.step}")
            return False
        line = self._line(evaluation, epoch)
        is_better = state.plateau.is_better(evaluation.top1)
        state.plateau = state.plateau.after(state.step, evaluation.top1)
        if evaluation.top5 is not None and evaluation.top5 > state.best_top5:
            state.best_top5, state.best_top5_step = evaluation.top5, state.step
        state.is_finished = state.step >= num_steps or state.plateau.is_over(state.step)
        previous, state.judged_step = state.judged_step, state.step
        state.losses, state.history_length = [], state.history_length + 1
        if self.records.is_written:
            self.records.check()
            self.records.history.append(line)
        self._save(previous)
        return is_better

    def save_unjudged(self) -> None:
        """Save a checkpoint between two evaluations, so that nothing has to be replayed."""
        if self.settle() and self._saved_step not in (None, self.state.step):
            self._save(self.state.judged_step)

    def log(self, timing: Mapping[str, float]) -> None:
        """Note how the time went up to an evaluation; the disk may refuse it."""
        if self.records.is_written:
            head = {"model": self.records.model, "step": self.state.step}
            self.records.history.note({**head, **timing})

    def _diverge(self, step: int, how: str) -> None:
        self.diverged, self._pending = DivergedError(f"{self.name}: {how}", step), []

    def _save(self, previous: int) -> None:
        """Save a checkpoint; `previous` is the step of the one to keep for it, or -1."""
        state = self.state
        if self.records.is_written:
            self.records.check()
            kept = Kept(
                state.step,
                previous if previous >= 0 else None,
                state.plateau.best_step if state.plateau.best >= 0 else None,
                state.best_top5_step if state.best_top5 >= 0 else None,
            )
            self.records.store.save(kept, self._arrays(), state.to_json())
        self._saved_step = state.step

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Give what a checkpoint holds, one by one."""
        yield from self._compiled.topology.arrays()
        for i, variable in enumerate(self._compiled.optimizer.variables):
            yield f"{_OPTIMIZER}{i:04d}", np.array(variable.numpy())
        yield _LOSSES, np.array(self.state.losses, np.float64).reshape(-1, 2)

    def _line(self, evaluation: Evaluation, epoch: float) -> dict[str, Any]:
        """Return the history's line."""
        state = self.state
        loss, top1 = np.mean(state.losses, axis=0).tolist() if state.losses else (None, None)
        return {
            "model": self.records.model,
            "step": state.step,
            "epoch": round(epoch, 6),
            "learning_rate": self._rate.at(max(0, state.step - 1), state.plateau.num_cuts),
            "train_loss": loss,
            "train_top1": top1,
            "val_loss": evaluation.loss,
            "val_top1": evaluation.top1,
            "val_top5": evaluation.top5,
        }


def _named(fed: Fed) -> str:
    """Name some images of a batch."""
    more = f" and {len(fed.ids) - _SHOWN} more" if len(fed.ids) > _SHOWN else ""
    return ", ".join(fed.ids[:_SHOWN]) + more
