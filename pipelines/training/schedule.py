"""Learning rate and end of a block (thesis, Algorithm 2), and what a user may choose beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

MAX_EVAL_STEPS = 2_000  # thesis, Algorithm 2: evaluate and save a checkpoint every 2,000 steps
_CUT = 10.0  # by which a learning rate is divided, from block to block and within one


def learning_rate(first: float, block_number: int) -> float:
    """Return the learning rate at which the k-th block begins: first * 10^-(k-1).

    Args:
        first: learning rate of the first block.
        block_number: k, counted from 1.
    """
    return first / _CUT ** (block_number - 1)


def to_steps(text: str, steps_per_epoch: int) -> int:
    """Turn "2000", or "0.5 epochs", into a number of steps, which is 1 or more but for "0".

    Args:
        text: a whole number, or a number with the word.
        steps_per_epoch: of the train split.
    """
    number = text.partition("epoch")[0]
    # As decimals: 0.07 as a float is a little more, which would make one step more of it.
    return math.ceil(Decimal(number) * steps_per_epoch) if "epoch" in text else int(number)


@dataclass(frozen=True)
class Rate:
    """The learning rate within a block; constant, as in the thesis, where nothing else is said.

    Attributes:
        first: of the block.
        shape: "constant", or "cosine" down to 0 at `num_steps`.
        warmup_steps: steps over which it rises evenly to `first`.
        num_steps: the most that the block takes.
    """

    first: float
    shape: str = "constant"
    warmup_steps: int = 0
    num_steps: int = 1

    def at(self, step: int, num_cuts: int = 0) -> float:
        """Return the learning rate of a step.

        Args:
            step: counted from 0.
            num_cuts: how often a plateau has cut it.
        """
        rate = self.first / _CUT**num_cuts
        if step < self.warmup_steps:
            return rate * (step + 1) / self.warmup_steps
        if self.shape == "cosine":
            behind = self.num_steps - self.warmup_steps
            rate *= (1 + math.cos(math.pi * (step - self.warmup_steps) / behind)) / 2
        return rate


@dataclass(frozen=True)
class Plateau:
    """Where a block stands: the best validation accuracy so far, and when it was seen.

    A plateau is reached when no evaluation was better for `patience_steps` steps. It ends the
    block, or cuts the learning rate where that is still allowed; then the steps count anew.

    Attributes:
        patience_steps: one epoch's steps in the thesis.
        max_cuts: how often the learning rate is cut before a plateau ends the block.
        best: the best accuracy so far, below 0 before the first evaluation.
        best_step: the step of that evaluation.
        num_cuts: how often the learning rate was cut.
        cut_step: when it was cut last.
    """

    patience_steps: int
    max_cuts: int = 0
    best: float = -1.0
    best_step: int = 0
    num_cuts: int = 0
    cut_step: int = 0

    def is_better(self, accuracy: float) -> bool:
        """Tell whether an evaluation beats all earlier ones; a tie does not."""
        return accuracy > self.best

    def after(self, step: int, accuracy: float) -> Plateau:
        """Return the state after an evaluation at `step`."""
        best, best_step = self.best, self.best_step
        if self.is_better(accuracy):
            best, best_step = accuracy, step
        num_cuts, cut_step = self.num_cuts, self.cut_step
        if num_cuts < self.max_cuts and step - max(best_step, cut_step) >= self.patience_steps:
            num_cuts, cut_step = num_cuts + 1, step
        return Plateau(self.patience_steps, self.max_cuts, best, best_step, num_cuts, cut_step)

    def is_over(self, step: int) -> bool:
        """Tell whether the block has ended at `step`."""
        return step - max(self.best_step, self.cut_step) >= self.patience_steps
