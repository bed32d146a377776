from __future__ import annotations

import pytest

from pipelines.training.schedule import (
    MAX_EVAL_STEPS,
    Plateau,
    Rate,
    learning_rate,
    to_steps,
)


def follow(patience_steps, evaluations, max_cuts=0):
    """Give the step at which a plateau ends the block, None where none does, and the last state."""
    plateau = Plateau(patience_steps, max_cuts)
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


def test_plateau_cuts_the_rate_before_one_ends_the_block():
    curve = [(0, 0.5), (10, 0.7), (20, 0.6), (30, 0.6), (40, 0.6), (50, 0.6), (60, 0.9)]
    step, plateau = follow(20, curve, max_cuts=1)
    assert (step, plateau.num_cuts, plateau.cut_step, plateau.best) == (50, 1, 30, 0.7)


def test_plateau_rise_behind_a_cut_counts_anew():
    curve = [(0, 0.5), (10, 0.5), (20, 0.5), (30, 0.8), (40, 0.5), (50, 0.5)]
    step, plateau = follow(20, curve, max_cuts=1)
    assert (step, plateau.num_cuts, plateau.cut_step, plateau.best_step) == (50, 1, 20, 30)


def test_plateau_spends_its_cuts_one_patience_apart():
    curve = [(step, 0.5) for step in range(0, 200, 10)]
    step, plateau = follow(20, curve, max_cuts=3)
    assert (step, plateau.num_cuts, plateau.cut_step) == (80, 3, 60)


def test_rate_constant_is_the_first_at_every_step():
    assert {Rate(0.02).at(step) for step in (0, 1, 10**6)} == {0.02}


def test_rate_is_a_tenth_behind_each_cut():
    assert [Rate(0.02).at(7, cuts) for cuts in (0, 1, 2)] == pytest.approx([0.02, 0.002, 0.0002])


def test_rate_rises_evenly_over_the_warm_up():
    rate = Rate(0.4, warmup_steps=4)
    assert [rate.at(step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_rate_cosine_falls_from_the_first_to_nothing():
    rate = Rate(1.0, "cosine", num_steps=10)
    found = [rate.at(step) for step in range(11)]
    assert found[0] == 1.0
    assert found[5] == pytest.approx(0.5)
    assert found[10] == pytest.approx(0.0, abs=1e-12)
    assert found == sorted(found, reverse=True)


def test_rate_cosine_begins_behind_the_warm_up():
    rate = Rate(1.0, "cosine", warmup_steps=4, num_steps=14)
    assert rate.at(3) == rate.at(4) == 1.0
    assert rate.at(9) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2000", 2000), ("0", 0), ("0.5epochs", 4), ("1epoch", 7), (".1 epochs", 1), ("2 epochs", 14)],
)
def test_to_steps_counts_steps_or_parts_of_an_epoch(text, expected):
    assert to_steps(text, 7) == expected


def test_to_steps_takes_parts_of_an_epoch_as_they_are_written():
    assert [to_steps(text, 100) for text in ("0.07epochs", "1.1epochs", "0.29 epochs")] == [
        7,
        110,
        29,
    ]
