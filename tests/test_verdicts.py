"""The sentences of a verdict, each kind word for word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.analysis.verdicts import BETTER, CHANCE, WORSE, Difference, Finding, sentence

COPIES = "the control of as many copies"
SHOWN = Finding(Difference(0.0213, 0.0021), (0.008, 0.0342), 0.019, corrected_p=0.006)
CHANCE_SENTENCE = (
    "The gain of 0.50 points could be chance: a set of this size shows gains from 1.9 points up."
)


def against(value: float, p: float | None) -> str:
    """Give the words on a control, behind those on the default model."""
    lead = Difference(value, p)
    told = sentence(replace(SHOWN, controls={COPIES: lead}))
    alone = sentence(SHOWN)
    assert told.startswith(f"{alone} ")
    return told.removeprefix(f"{alone} ")


def test_sentence_gain_shown_says_better_with_interval_and_p():
    assert SHOWN.kind == BETTER
    assert sentence(SHOWN) == (
        "The topology is better than the default model by 2.13 points (95% interval +0.80 to "
        "+3.42); chance alone would seldom do that (p = 0.0021)."
    )


def test_sentence_loss_shown_says_worse_and_by_how_much():
    found = Finding(Difference(-0.05, 0.00003), (-0.07, -0.03), 0.019)
    assert found.kind == WORSE
    assert sentence(found) == (
        "The topology is worse than the default model by 5.00 points (95% interval -7.00 to "
        "-3.00); chance alone would seldom do that (p = 3e-05)."
    )


def test_sentence_without_interval_leaves_it_out():
    assert sentence(replace(SHOWN, interval=None)) == (
        "The topology is better than the default model by 2.13 points; chance alone would seldom "
        "do that (p = 0.0021)."
    )


@pytest.mark.parametrize(("value", "word"), [(0.005, "gain"), (-0.005, "loss")])
def test_sentence_difference_not_shown_says_chance_and_what_would_be(value, word):
    found = Finding(Difference(value, 0.31), (-0.01, 0.02), 0.019)
    assert found.kind == CHANCE
    assert sentence(found) == CHANCE_SENTENCE.replace("gain of", f"{word} of")


def test_sentence_equal_models_says_so():
    found = Finding(Difference(0.0, 1.0), (-0.01, 0.01), 0.019)
    assert found.kind == CHANCE
    assert sentence(found) == (
        "The two models are right equally often; a set of this size shows gains from 1.9 points up."
    )


def test_sentence_equal_models_with_a_small_p_is_no_loss():
    found = Finding(Difference(0.0, 0.01), None, None)
    assert found.kind == CHANCE
    assert sentence(found).startswith("The two models are right equally often;")


def test_sentence_so_few_images_that_no_gain_could_show_says_that():
    found = Finding(Difference(0.1, 0.5), (-0.1, 0.3), None)
    assert sentence(found) == (
        "The gain of 10.00 points could be chance: a set of this size shows no gain at all."
    )


def test_sentence_unknown_p_is_chance():
    found = Finding(Difference(0.005, None), None, None)
    assert found.kind == CHANCE
    assert sentence(found) == (
        "The gain of 0.50 points could be chance: so few folds of so few images tell nothing of "
        "chance."
    )


@pytest.mark.parametrize(("p", "kind"), [(0.0499, BETTER), (0.05, CHANCE)])
def test_kind_turns_at_a_p_of_five_in_a_hundred(p, kind):
    assert Finding(Difference(0.02, p), None, 0.019).kind == kind


def test_sentence_gain_that_correction_undoes_tells_the_corrected_p():
    found = Finding(
        Difference(0.0213, 0.021), (0.008, 0.034), 0.019, corrected_p=0.147, num_comparisons=7
    )
    assert found.kind == BETTER
    assert sentence(found) == (
        "The topology is better than the default model by 2.13 points (95% interval +0.80 to "
        "+3.40); chance alone would seldom do that (p = 0.021). Among 7 comparisons one such by "
        "luck is not rare (p = 0.15 corrected for all of them)."
    )


def test_sentence_gain_that_is_chance_anyway_has_no_word_on_correction():
    found = Finding(Difference(0.005, 0.3), None, 0.019, corrected_p=0.9, num_comparisons=7)
    assert sentence(found) == CHANCE_SENTENCE


@pytest.mark.parametrize(
    ("value", "p", "words"),
    [
        (0.01, 0.004, f"It is better than {COPIES}, too, by 1.00 points (p = 0.004)."),
        (0.01, 0.4, f"Its lead of 1.00 points over {COPIES} could be chance."),
        (0.01, None, f"Its lead of 1.00 points over {COPIES} could be chance."),
        (0.0, 1.0, "The control of as many copies does as well."),
        (-0.01, 0.4, f"T{COPIES[1:]} does 1.00 points better, which could be chance."),
        (-0.01, 0.004, f"It is worse than {COPIES} by 1.00 points (p = 0.004)."),
    ],
    ids=["beaten", "lead", "lead of unknown p", "tie", "behind", "worse"],
)
def test_sentence_control_has_words_of_its_own(value, p, words):
    assert against(value, p) == words


def test_sentence_several_controls_follow_in_their_order():
    controls = {"the first": Difference(0.0, 1.0), "the second": Difference(-0.02, 0.01)}
    told = sentence(Finding(Difference(0.005, 0.3), None, 0.019, controls=controls))
    assert told == (
        f"{CHANCE_SENTENCE} The first does as well. It is worse than the second by 2.00 points "
        "(p = 0.01)."
    )


def test_sentence_images_that_were_selected_on_are_told_last():
    controls = {COPIES: Difference(0.0, 1.0)}
    told = sentence(replace(SHOWN, controls=controls, is_honest=False))
    assert told == (
        f"{sentence(SHOWN)} The control of as many copies does as well. The checkpoints were "
        "selected on these same images, which flatters both models."
    )


@pytest.mark.parametrize(
    ("least", "words"),
    [
        (0.0004, "0.1"),
        (0.001, "0.1"),
        (0.00101, "0.2"),
        (0.029, "2.9"),  # 100 * 0.029 is a little above 2.9
        (0.0123, "1.3"),
        (0.0999, "10.0"),
        (0.1, "10"),
        (0.28, "28"),  # 100 * 0.28 a little above 28
        (0.551, "56"),
        (1.0, "100"),
    ],
)
def test_sentence_smallest_gain_is_rounded_up(least, words):
    told = sentence(Finding(Difference(0.0, 1.0), None, least))
    assert told.endswith(f"shows gains from {words} points up.")


def test_sentence_smallest_gain_is_never_below_what_it_is():
    for least in np.random.default_rng(3).random(500) ** 2:
        told = sentence(Finding(Difference(0.0, 1.0), None, float(least)))
        points = float(told.split()[-3])
        step = 0.1 if 100 * least < 10 else 1.0
        assert 0 <= points - 100 * least < step + 1e-9


@pytest.mark.parametrize(
    ("value", "words"),
    [(1 / 50_000, "0.002 points"), (0.0001, "0.01 points"), (-0.12345, "12.35 points")],
)
def test_sentence_one_image_of_many_is_not_rounded_to_nothing(value, words):
    told = sentence(Finding(Difference(value, 1.0), None, 0.003))
    assert f" of {words} could be chance" in told


@pytest.mark.parametrize(("p", "words"), [(0.0000123, "1.2e-05"), (0.0449, "0.045")])
def test_sentence_small_p_has_two_digits_that_say_something(p, words):
    assert f"(p = {words})." in sentence(replace(SHOWN, gain=Difference(0.02, p)))


@pytest.mark.parametrize(("p", "words"), [(0.0944, "0.094"), (0.1, "0.10"), (0.9961, "1.00")])
def test_sentence_large_p_has_two_decimals(p, words):
    found = replace(SHOWN, corrected_p=p, num_comparisons=3)
    assert f"(p = {words} corrected for all of them)." in sentence(found)
