from __future__ import annotations

import pytest

from pipelines.training.schedule import MAX_EVAL_STEPS, Plateau, learning_rate


def follow(patience_steps, evaluations):
    """Give the step at which the plateau is reached, None where it is not, and the last state."""
    plateau = Plateau(patience_steps)
    for step, accuracy in evaluations:
        plateau = plateau.after(step, accuracy)
        if plateau.is_over(step):
            return step, plateau
    return None, plateau


@pytest.mark.parametrize(
    ("block_number", "expected"), [(1, 0.01), (2, 0.001), (3, 0.0001), (7, 1e-8)]
)
def test_learning_rate_of_kth_block_is_a_tenth_of_the_one_before(block_number, expected):
    assert learning_rate(0.01, block_number) == pytest.approx(expected, rel=1e-12)


def test_learning_rate_starts_from_the_given_one():
    assert learning_rate(0.2, 2) == pytest.approx(0.02, rel=1e-12)


def test_evaluations_are_as_far_apart_as_in_the_thesis():
    assert MAX_EVAL_STEPS == 2000


def test_plateau_of_rising_curve_is_never_over():
    curve = [(step, step / 1000) for step in range(0, 500, 10)]
    assert follow(10, curve)[0] is None


def test_plateau_of_falling_curve_ends_one_patience_after_the_best():
    curve = [(0, 0.5), (10, 0.7), (20, 0.6), (30, 0.6), (40, 0.9)]
    step, plateau = follow(20, curve)
    assert (step, plateau.best, plateau.best_step) == (30, 0.7, 10)


def test_plateau_longer_patience_sees_the_later_rise():
    curve = [(0, 0.5), (10, 0.7), (20, 0.6), (30, 0.6), (40, 0.9)]
    step, plateau = follow(31, curve)
    assert (step, plateau.best, plateau.best_step) == (None, 0.9, 40)


def test_plateau_tie_counts_as_no_better():
    step, plateau = follow(20, [(0, 0.5), (10, 0.5), (20, 0.5), (30, 0.6)])
    assert (step, plateau.best_step) == (20, 0)


def test_plateau_first_evaluation_is_better_even_at_zero():
    plateau = Plateau(5)
    assert plateau.is_better(0.0)
    assert not plateau.after(0, 0.0).is_better(0.0)


def test_plateau_first_evaluation_never_ends_it():
    assert not Plateau(1).after(0, 0.3).is_over(0)
