"""Every figure of an evaluation against scikit-learn, statsmodels, SciPy or brute force."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import scipy.special
from scipy.stats import binomtest
from scored import BRANCHES, ask, make_scores, places, ranks_by_hand, tallied
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score, roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from pipelines.analysis import comparisons
from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.evaluation.figures import figures
from pipelines.evaluation.scoring import Scores

OTHERS = ("mean_logits", "run_b", "copies", "control", "control_mean_logits")
BOTH = (DEFAULT, TOPOLOGY)
NUM_IMAGES = 240
ORDER = [DEFAULT, TOPOLOGY, *OTHERS, "branch_q010", "branch_q050"]


def make(num_classes: int = 7, num_images: int = NUM_IMAGES, **changed) -> Scores:
    settings = {"others": OTHERS, "control_branches": 4, "has_swapped": True, "noise": 0.8}
    return make_scores(num_images, num_classes, seed=2, **{**settings, **changed})


@pytest.fixture(scope="module")
def case():
    """Scores of seven classes, the label's places in them, and the figures."""
    scores = make()
    ranks = ranks_by_hand(scores)
    by_branch = places(scores.default, scores.labels)
    ranks |= {f"branch_{name}": by_branch[:, i] for i, name in enumerate(BRANCHES) if i}
    return scores, ranks, by_branch, figures(tallied(scores), ask(7))


@pytest.fixture
def found(case):
    return case[3]


def test_figures_are_json_and_say_what_they_are_of(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["num_images"], found["num_classes"]) == (NUM_IMAGES, 7)
    assert found["classes"] == [f"class {i}" for i in range(7)]
    assert found["num_resamples"] == 10_000


def test_comparators_stand_in_their_order_with_texts_and_runs(found):
    compared = found["comparators"]
    assert list(compared) == ORDER
    assert {name: of["run"] for name, of in compared.items() if of["run"]} == {
        TOPOLOGY: "a",
        "run_b": "b",
    }
    assert compared["branch_q010"]["text"] == "the default model on q010 alone"
    assert compared["run_b"]["text"] == "run b"
    assert list(found["branches"]) == list(BRANCHES)


def test_accuracies_are_the_shares_of_places(case):
    _, ranks, by_branch, found = case
    for name in ORDER:
        expected = {"top1": np.mean(ranks[name] == 0), "top5": np.mean(ranks[name] < 5)}
        of_name = found["comparators"][name]
        assert {key: of_name[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    for i, name in enumerate(BRANCHES):
        expected = {"top1": np.mean(by_branch[:, i] == 0), "top5": np.mean(by_branch[:, i] < 5)}
        assert found["branches"][name] == pytest.approx(expected, abs=1e-12)
    assert found["default"] == found["branches"]["original"]
    assert found["topology"]["top1"] == found["comparators"][TOPOLOGY]["top1"]


def test_accuracy_interval_agrees_with_statsmodels(case):
    _, ranks, _, found = case
    for name in ORDER:
        num_right = int(np.sum(ranks[name] == 0))
        expected = proportion_confint(num_right, NUM_IMAGES, method="wilson")
        assert found["comparators"][name]["ci95"] == pytest.approx(expected, rel=1e-9)


def compared_by_hand(first: np.ndarray, second: np.ndarray) -> dict[str, object]:
    """Compare image by image; the interval from images drawn again."""
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    drawn = np.random.default_rng(11).integers(0, len(first), (4000, len(first)))
    differences = (second.astype(float) - first)[drawn].mean(axis=1)
    return {
        "difference": np.mean(second) - np.mean(first),
        "interval": np.quantile(differences, [0.025, 0.975]),
        "gained": gained,
        "lost": lost,
        "p": binomtest(gained, gained + lost).pvalue if gained + lost else 1.0,
    }


def test_differences_to_the_default_model_are_those_image_by_image(case):
    _, ranks, _, found = case
    for name in ORDER[1:]:
        expected = compared_by_hand(ranks[DEFAULT] == 0, ranks[name] == 0)
        of_name = found["comparators"][name]
        assert of_name["difference"] == pytest.approx(expected["difference"])
        assert of_name["difference_ci95"] == pytest.approx(expected["interval"], abs=0.012)
        assert (of_name["gained"], of_name["lost"]) == (expected["gained"], expected["lost"])
        assert of_name["mcnemar_p"] == pytest.approx(expected["p"])
    assert found["comparators"][TOPOLOGY]["gained"] > 0 < found["comparators"][TOPOLOGY]["lost"]


def test_default_model_is_not_compared_with_itself(found):
    own = found["comparators"][DEFAULT]
    keys = ("difference", "difference_ci95", "gained", "lost", "mcnemar_p", "holm_p")
    assert {own[key] for key in (*keys, "headroom_share")} == {None}


def test_holm_corrects_for_every_row_but_the_default_model(found):
    rows = [found["comparators"][name] for name in ORDER[1:]]
    expected = multipletests([row["mcnemar_p"] for row in rows], method="holm")[1]
    assert [row["holm_p"] for row in rows] == pytest.approx(expected.tolist())
    assert any(row["holm_p"] > row["mcnemar_p"] for row in rows)


def test_against_is_the_topology_less_each_model_of_its_own(case):
    _, ranks, _, found = case
    assert list(found["against"]) == list(OTHERS)
    for name, of_name in found["against"].items():
        expected = compared_by_hand(ranks[name] == 0, ranks[TOPOLOGY] == 0)
        assert of_name["difference"] == pytest.approx(expected["difference"])
        assert of_name["ci95"] == pytest.approx(expected["interval"], abs=0.012)
        assert of_name["mcnemar_p"] == pytest.approx(expected["p"])
    p_values = [of_name["mcnemar_p"] for of_name in found["against"].values()]
    expected = multipletests(p_values, method="holm")[1].tolist()
    assert [of_name["holm_p"] for of_name in found["against"].values()] == pytest.approx(expected)


def test_types_gain_and_p_are_those_of_the_topology(case):
    _, ranks, _, found = case
    default, topology = ranks[DEFAULT] == 0, ranks[TOPOLOGY] == 0
    types = Counter(
        "A" if b and not a else "B" if a and not b else "C"
        for a, b in zip(default, topology, strict=True)
    )
    assert {kind: found[f"type_{kind.lower()}"] for kind in "ABC"} == types
    own = found["comparators"][TOPOLOGY]
    assert found["mcnemar_p"] == own["mcnemar_p"]
    assert found["gain"] == {"top1": own["difference"], "ci95": own["difference_ci95"]}
    changed = (types["A"] + types["B"]) / NUM_IMAGES
    least = found["min_detectable_gain"]
    assert comparisons.power(NUM_IMAGES, changed, least) == pytest.approx(0.8, abs=0.01)


def test_oracles_choose_the_best_branch_of_each_image(case):
    scores, _, by_branch, found = case
    best = [min(row) for row in by_branch.tolist()]
    control = [min(row) for row in places(scores.control, scores.labels).tolist()]
    assert found["oracle"] == pytest.approx(
        {
            "top1": np.mean(np.array(best) == 0),
            "top5": np.mean(np.array(best) < 5),
            "control_top1": np.mean(np.array(control) == 0),
            "control_top5": np.mean(np.array(control) < 5),
        }
    )
    assert found["oracle_top1"] == pytest.approx(found["oracle"]["top1"])
    assert found["oracle_top1"] > max(of["top1"] for of in found["branches"].values())


def test_headroom_share_is_the_way_gone_to_the_oracle(case):
    _, ranks, by_branch, found = case
    default, oracle = np.mean(ranks[DEFAULT] == 0), np.mean((by_branch == 0).any(axis=1))
    for name in ORDER[1:]:
        expected = (np.mean(ranks[name] == 0) - default) / (oracle - default)
        assert found["comparators"][name]["headroom_share"] == pytest.approx(expected)


def test_top_k_is_given_for_what_was_asked(case):
    _, ranks, _, found = case
    assert list(found["top_k"]) == list(BOTH)
    for name in BOTH:
        expected = {"1": np.mean(ranks[name] < 1), "3": np.mean(ranks[name] < 3)}
        assert found["top_k"][name] == pytest.approx(expected)


def scores_of(scores: Scores, name: str) -> np.ndarray:
    return scores.by_name[TOPOLOGY] if name == TOPOLOGY else scores.default[:, 0]


def test_averages_agree_with_scikit_learn(case):
    scores, _, _, found = case
    labels = scores.labels
    for name in BOTH:
        predicted = scores_of(scores, name).argmax(axis=1)
        one_against_all = [np.mean((predicted == i) == (labels == i)) for i in range(7)]
        assert found["averages"][name] == pytest.approx(
            {
                "balanced_accuracy": balanced_accuracy_score(labels, predicted),
                "macro_accuracy": np.mean(one_against_all),
                "macro_f1": f1_score(labels, predicted, average="macro"),
                "roc_auc": None,
            }
        )


def test_averages_of_two_classes_have_the_area_under_the_curve():
    scores = make(2)
    found = figures(tallied(scores, 50), ask(2, top_k=(1,)))
    for name in BOTH:
        logits = scores_of(scores, name)
        expected = roc_auc_score(scores.labels, logits[:, 1] - logits[:, 0])
        assert found["averages"][name]["roc_auc"] == pytest.approx(expected)


def test_calibration_is_the_mean_gap_of_fifteen_bins(case):
    scores, _, _, found = case
    for name in BOTH:
        logits = scores_of(scores, name)
        sure = scipy.special.softmax(logits.astype(np.float32), axis=1).max(axis=1)
        right = logits.argmax(axis=1) == scores.labels
        bins = found["calibration"][name]["bins"]
        assert [one["low"] for one in bins] == pytest.approx(np.arange(15) / 15)
        assert [one["high"] for one in bins] == pytest.approx(np.arange(1, 16) / 15)
        ece = 0.0
        for one in bins:
            inside = (sure > one["low"]) & (sure <= one["high"])
            assert one["num_images"] == inside.sum()
            if not inside.any():
                assert (one["confidence"], one["accuracy"]) == (None, None)
                continue
            assert one["confidence"] == pytest.approx(sure[inside].mean(), rel=1e-5)
            assert one["accuracy"] == pytest.approx(right[inside].mean())
            ece += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
        assert found["calibration"][name]["ece"] == pytest.approx(ece, rel=1e-4)


def test_per_class_agrees_with_scikit_learns_recall(case):
    scores, _, _, found = case
    shares = {
        name: recall_score(scores.labels, scores_of(scores, name).argmax(axis=1), average=None)
        for name in BOTH
    }
    for i, row in enumerate(found["per_class"]):
        assert (row["class"], row["num_images"]) == (f"class {i}", np.sum(scores.labels == i))
        assert {name: row[name] for name in BOTH} == pytest.approx(
            {name: shares[name][i] for name in BOTH}
        )
        assert row["change"] == pytest.approx(shares[TOPOLOGY][i] - shares[DEFAULT][i])
    assert len(found["per_class"]) == 7


def test_per_class_without_images_has_no_shares():
    labels = np.array([0, 0, 2, 2, 2, 3] * 5)
    scores = make(4, 30, labels=labels)
    rows = figures(tallied(scores), ask(4))["per_class"]
    assert [row["num_images"] for row in rows] == [10, 0, 15, 5]
    nothing = dict.fromkeys((*BOTH, "change"))
    assert rows[1] == {"class": "class 1", "num_images": 0, **nothing}
    assert None not in rows[0].values()


def test_confusions_are_those_that_changed_by_the_most_images(case):
    scores, _, _, found = case
    counts = {
        name: Counter(
            zip(scores.labels.tolist(), scores_of(scores, name).argmax(1).tolist(), strict=True)
        )
        for name in BOTH
    }
    every = [
        (counts[TOPOLOGY][pair] - counts[DEFAULT][pair], *pair)
        for pair in {*counts[DEFAULT], *counts[TOPOLOGY]}
        if pair[0] != pair[1]
    ]
    for kind, sign in (("gained", -1), ("lost", 1)):
        some = [one for one in every if one[0] * sign > 0]
        some.sort(key=lambda one: (-abs(one[0]), one[1], one[2]))
        assert some
        assert found["confusions"][kind] == [
            {
                "true": f"class {true}",
                "predicted": f"class {predicted}",
                "default": counts[DEFAULT][true, predicted],
                "topology": counts[TOPOLOGY][true, predicted],
                "change": change,
            }
            for change, true, predicted in some[:20]
        ]


def test_leans_on_is_what_the_original_in_a_branchs_place_costs(case):
    scores, ranks, _, found = case
    swapped = places(scores.swapped, scores.labels) == 0
    right = np.mean(ranks[TOPOLOGY] == 0)
    expected = {"q010": right - swapped[:, 0].mean(), "q050": right - swapped[:, 1].mean()}
    assert found["leans_on"] == pytest.approx(expected)


def test_one_branch_without_control_has_what_it_has_and_nothing_else():
    scores = make_scores(60, 7, seed=3, num_branches=1)
    found = figures(tallied(scores), ask(7, branches=("original",)))
    assert list(found["comparators"]) == [DEFAULT, TOPOLOGY]
    assert (found["against"], found["leans_on"]) == ({}, {})
    assert (found["oracle"]["control_top1"], found["oracle"]["control_top5"]) == (None, None)
    assert found["oracle_top1"] == found["default"]["top1"]
    own = found["comparators"][TOPOLOGY]
    assert own["headroom_share"] is None
    assert own["holm_p"] == own["mcnemar_p"]


@pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_top5_is_given_from_six_classes_on(num_classes, has_top5):
    found = figures(tallied(make(num_classes, 40)), ask(num_classes, top_k=(1,)))
    places_of = [found["default"], found["topology"], *found["branches"].values()]
    values = [of["top5"] for of in (*places_of, *found["comparators"].values())]
    values += [found["oracle"]["top5"], found["oracle"]["control_top5"]]
    assert {value is not None for value in values} == {has_top5}


@pytest.mark.parametrize(("num_classes", "is_named"), [(1000, True), (1001, False)])
def test_names_of_classes_are_repeated_up_to_a_thousand(num_classes, is_named):
    scores = make_scores(4, num_classes, num_branches=3)
    found = figures(tallied(scores), ask(num_classes))
    assert (found["classes"] is not None) == is_named
    assert len(found["per_class"]) == found["num_classes"] == num_classes


def test_resampling_follows_from_the_seed_alone():
    tally = tallied(make(7, 200))
    first, again, other = (figures(tally, ask(7, seed=seed)) for seed in (5, 5, 6))
    assert first == again
    for key, is_drawn in (("difference_ci95", True), ("ci95", False)):
        here, there = ([one[key] for one in of["comparators"].values()] for of in (first, other))
        assert (here != there) == is_drawn
