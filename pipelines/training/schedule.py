"""Learning rate and end of a block (thesis, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVAL_STEPS = 2_000  # thesis, Algorithm 2: evaluate and save a checkpoint every 2,000 steps


def learning_rate(first: float, block_number: int) -> float:
    """Return the constant learning rate of the k-th block trained: first * 10^-(k-1).

    Args:
        first: learning rate of the first block.
        block_number: k, counted from 1.
    """
    return first / 10 ** (block_number - 1)


@dataclass(frozen=True)
class Plateau:
    """Where a block stands: the best validation accuracy so far, and when it was seen.

    A plateau is reached when no evaluation was better for `patience_steps` steps.

    Attributes:
        patience_steps: one epoch's steps in the thesis.
        best: the best accuracy so far, below 0 before the first evaluation.
        best_step: the step of that evaluation.
    """

    patience_steps: int
    best: float = -1.0
    best_step: int = 0

    def is_better(self, accuracy: float) -> bool:
        """Tell whether an evaluation beats all earlier ones; a tie does not."""
        return accuracy > self.best

    def after(self, step: int, accuracy: float) -> Plateau:
        """Return the state after an evaluation at `step`."""
        if self.is_better(accuracy):
            return Plateau(self.patience_steps, accuracy, step)
        return self

    def is_over(self, step: int) -> bool:
        """Tell whether the block has ended at `step`."""
        return step - self.best_step >= self.patience_steps
