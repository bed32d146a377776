"""The figures of a judging in folds, against SciPy, statsmodels and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from scored import ask
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from pipelines.analysis import intervals
from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.evaluation.fold_figures import Judged, figures

NUM_CLASSES = 7
BRANCHES = ("branch_q010", "branch_q050")
OTHERS = ("mean_logits", "run_b")
# How much more often than the default model each one has the label first.
LEADS = {DEFAULT: 0.0, TOPOLOGY: 0.08, "mean_logits": 0.02, "run_b": 0.05}
LEADS |= dict.fromkeys(BRANCHES, -0.1)


def make_folds(
    num_seeds: int = 3, num_folds: int = 4, num_images: int = 202, *, seed: int = 0, **changed
) -> list[Judged]:
    """Draw the label's places in folds of as many images, some of one more."""
    rng = np.random.default_rng(seed)
    leads = {**LEADS, **changed}
    found = []
    for division in range(num_seeds):
        for number in range(num_folds):
            size = num_images // num_folds + (number < num_images % num_folds)
            hard = rng.random(size)
            ranks = {}
            for name, lead in leads.items():
                is_right = 0.7 * hard + 0.3 * rng.random(size) < 0.55 + lead
                wrong = rng.integers(1, NUM_CLASSES, size)
                ranks[name] = np.where(is_right, 0, wrong).astype(np.int64)
            oracle = np.min([ranks[name] for name in (DEFAULT, *BRANCHES)], axis=0)
            control = np.minimum(ranks[DEFAULT], rng.integers(0, NUM_CLASSES, size))
            summary = {
                "num_train": (num_images - size) * 4 // 5,  # the rest selects the checkpoint
                "averages": {
                    name: {
                        "balanced_accuracy": float(rng.random()),
                        "macro_f1": float(rng.random()),
                        "roc_auc": None,
                    }
                    for name in (DEFAULT, TOPOLOGY)
                },
                "leans_on": {"q010": float(rng.random()), "q050": -float(rng.random())},
            }
            found.append(Judged(division + 8, number + 1, ranks, oracle, control, summary))
    return found


def corrected(
    differences: np.ndarray, folds: list[Judged]
) -> tuple[float, tuple[float, float], float]:
    """Test by hand: mean, 95% interval, p (Nadeau and Bengio 2003)."""
    num = differences.size
    mean, deviation = np.mean(differences), np.std(differences, ddof=1)
    error = deviation * math.sqrt(1 / num + ratio(folds))
    t = stats.t(num - 1)
    half_width = t.ppf(0.975) * error
    return mean, (mean - half_width, mean + half_width), 2 * t.sf(abs(mean) / error)


def ratio(folds: list[Judged]) -> float:
    return sum(len(one.oracle) for one in folds) / sum(one.summary["num_train"] for one in folds)


def accuracies(folds: list[Judged], name: str) -> np.ndarray:
    return np.array([np.mean(fold.ranks[name] == 0) for fold in folds])


def pooled(folds: list[Judged], name: str) -> np.ndarray:
    return np.concatenate([fold.ranks[name] for fold in folds])


@pytest.fixture(scope="module")
def folds():
    return make_folds()


@pytest.fixture(scope="module")
def found(folds):
    return figures(folds, ask(NUM_CLASSES))


def test_figures_are_json_and_say_what_they_are_of(folds, found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["num_images"], found["num_classes"]) == (202, NUM_CLASSES)
    assert (found["folds"]["num_folds"], found["folds"]["seeds"]) == (4, [8, 9, 10])
    assert list(found["folds"]["accuracies"]) == [DEFAULT, TOPOLOGY, *OTHERS]
    for name, rows in found["folds"]["accuracies"].items():
        assert rows == accuracies(folds, name).reshape(3, 4).tolist()


def test_comparators_stand_in_their_order_with_texts_and_runs(found):
    compared = found["comparators"]
    assert list(compared) == [DEFAULT, TOPOLOGY, *OTHERS, *BRANCHES]
    assert compared["run_b"]["run"] == "b"
    assert compared["mean_logits"]["run"] is None
    assert compared["branch_q050"]["text"] == "the default model on q050 alone"


def test_accuracies_are_the_shares_of_all_images_of_all_seeds(folds, found):
    for name, of_name in found["comparators"].items():
        places = pooled(folds, name)
        assert of_name["top1"] == pytest.approx(np.mean(places == 0))
        assert of_name["top5"] == pytest.approx(np.mean(places < 5))
    for name in (DEFAULT, TOPOLOGY):
        of_name = found["comparators"][name]
        assert found[name] == {key: of_name[key] for key in ("top1", "top5")}
        expected = {str(k): np.mean(pooled(folds, name) < k) for k in (1, 3)}
        assert found["top_k"][name] == pytest.approx(expected)
    assert list(found["branches"]) == ["original", "q010", "q050"]
    assert found["branches"]["original"] == found["default"]
    assert found["branches"]["q050"]["top1"] == found["comparators"]["branch_q050"]["top1"]


def test_accuracy_interval_is_the_corrected_one_over_the_folds(folds, found):
    for name, of_name in found["comparators"].items():
        _, bounds, _ = corrected(accuracies(folds, name), folds)
        assert of_name["ci95"] == pytest.approx(bounds)


def test_differences_have_the_corrected_t_test(folds, found):
    for name, of_name in found["comparators"].items():
        if name == DEFAULT:
            continue
        differences = accuracies(folds, name) - accuracies(folds, DEFAULT)
        mean, bounds, p = corrected(differences, folds)
        assert of_name["difference"] == pytest.approx(mean)
        assert of_name["difference_ci95"] == pytest.approx(bounds)
        assert of_name["p"] == pytest.approx(p)
    own = found["comparators"][TOPOLOGY]
    assert found["gain"] == {"top1": own["difference"], "ci95": own["difference_ci95"]}
    assert own["difference"] > 0 > found["comparators"]["branch_q010"]["difference"]


def test_default_model_is_not_compared_with_itself(found):
    own = found["comparators"][DEFAULT]
    keys = ("difference", "difference_ci95", "p", "mcnemar_p", "holm_p", "headroom_share")
    assert {own[key] for key in keys} == {None}


def mcnemar_by_seed(folds: list[Judged], first: str, second: str) -> list[float]:
    """Test the images of each division with statsmodels."""
    found = []
    for division in sorted({fold.seed for fold in folds}):
        some = [fold for fold in folds if fold.seed == division]
        a, b = pooled(some, first) == 0, pooled(some, second) == 0
        table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
        found.append(float(mcnemar(table, exact=True).pvalue))
    return found


def test_mcnemar_p_is_the_median_over_the_seeds(folds, found):
    for name, of_name in found["comparators"].items():
        if name != DEFAULT:
            every = mcnemar_by_seed(folds, DEFAULT, name)
            assert len(set(every)) == 3
            assert of_name["mcnemar_p"] == pytest.approx(sorted(every)[1])
    assert found["mcnemar_p"] == found["comparators"][TOPOLOGY]["mcnemar_p"]


def test_against_is_the_topology_less_each_model_of_its_own(folds, found):
    assert list(found["against"]) == list(OTHERS)
    for name, of_name in found["against"].items():
        mean, bounds, p = corrected(accuracies(folds, TOPOLOGY) - accuracies(folds, name), folds)
        assert (of_name["difference"], of_name["p"]) == pytest.approx((mean, p))
        assert of_name["ci95"] == pytest.approx(bounds)
        every = mcnemar_by_seed(folds, name, TOPOLOGY)
        assert of_name["mcnemar_p"] == pytest.approx(sorted(every)[1])


@pytest.mark.parametrize("table", ["comparators", "against"])
def test_holm_corrects_the_t_tests_of_all_rows(found, table):
    rows = [row for name, row in found[table].items() if name != DEFAULT]
    expected = multipletests([row["p"] for row in rows], method="holm")[1]
    assert [row["holm_p"] for row in rows] == pytest.approx(expected.tolist())
    assert any(row["holm_p"] > row["p"] for row in rows)


def test_oracles_and_headroom_are_those_of_all_images(folds, found):
    oracle = np.concatenate([fold.oracle for fold in folds])
    control = np.concatenate([fold.control for fold in folds])
    assert found["oracle"] == pytest.approx(
        {
            "top1": np.mean(oracle == 0),
            "top5": np.mean(oracle < 5),
            "control_top1": np.mean(control == 0),
            "control_top5": np.mean(control < 5),
        }
    )
    assert found["oracle_top1"] == found["oracle"]["top1"]
    default = np.mean(pooled(folds, DEFAULT) == 0)
    for name, of_name in found["comparators"].items():
        if name != DEFAULT:
            gone = np.mean(pooled(folds, name) == 0) - default
            expected = gone / (np.mean(oracle == 0) - default)
            assert of_name["headroom_share"] == pytest.approx(expected)


def test_averages_and_leans_are_means_over_the_folds(folds, found):
    for name in (DEFAULT, TOPOLOGY):
        every = [fold.summary["averages"][name] for fold in folds]
        expected = {
            "balanced_accuracy": np.mean([one["balanced_accuracy"] for one in every]),
            "macro_f1": np.mean([one["macro_f1"] for one in every]),
            "roc_auc": None,
        }
        assert found["averages"][name] == pytest.approx(expected)
    leans = [fold.summary["leans_on"] for fold in folds]
    expected = {name: np.mean([one[name] for one in leans]) for name in ("q010", "q050")}
    assert found["leans_on"] == pytest.approx(expected)


def test_control_that_a_fold_lacks_has_no_oracle(folds):
    first = Judged(8, 1, folds[0].ranks, folds[0].oracle, None, folds[0].summary)
    oracle = figures([first, *folds[1:]], ask(NUM_CLASSES))["oracle"]
    assert (oracle["control_top1"], oracle["control_top5"]) == (None, None)
    assert oracle["top1"] is not None


def test_five_classes_have_no_top5(folds):
    found = figures(folds, ask(5))
    values = [found["default"], found["topology"], found["oracle"], *found["branches"].values()]
    assert {of["top5"] for of in (*values, *found["comparators"].values())} == {None}
    assert found["oracle"]["control_top5"] is None


def test_one_seed_of_two_folds_has_one_degree_of_freedom():
    folds = make_folds(1, 2, 61, seed=4)
    found = figures(folds, ask(NUM_CLASSES))
    assert (found["num_images"], found["folds"]["seeds"]) == (61, [8])
    first, second = accuracies(folds, TOPOLOGY) - accuracies(folds, DEFAULT)
    own = found["comparators"][TOPOLOGY]
    assert own["difference"] == pytest.approx((first + second) / 2)
    # Student's t with one degree of freedom is Cauchy's distribution; the variance of the mean is
    # (1/2 + 61/48) s^2, and s is the distance of the two values over the root of 2: 61 images are
    # judged in both folds together, and 24 are learnt from in each.
    error = abs(first - second) / math.sqrt(2) * math.sqrt(1 / 2 + 61 / 48)
    t = abs(first + second) / 2 / error
    assert own["p"] == pytest.approx(1 - 2 * math.atan(t) / math.pi)
    assert own["mcnemar_p"] == pytest.approx(mcnemar_by_seed(folds, DEFAULT, TOPOLOGY)[0])


def test_models_that_are_equal_in_all_folds_differ_by_nothing():
    folds = make_folds(2, 3)
    for fold in folds:
        fold.ranks[TOPOLOGY][:] = fold.ranks[DEFAULT]
    own = figures(folds, ask(NUM_CLASSES))["comparators"][TOPOLOGY]
    assert (own["difference"], own["difference_ci95"]) == (0.0, None)
    assert (own["p"], own["mcnemar_p"], own["headroom_share"]) == (None, 1.0, 0.0)


@pytest.mark.parametrize(("num_seeds", "num_folds"), [(1, 2), (1, 5), (3, 4), (5, 10)])
def test_smallest_gain_is_found_with_the_power_of_the_noncentral_t(num_seeds, num_folds):
    folds = make_folds(num_seeds, num_folds, 20_000, seed=1, topology=0.01)
    least = figures(folds, ask(NUM_CLASSES))["min_detectable_gain"]
    differences = accuracies(folds, TOPOLOGY) - accuracies(folds, DEFAULT)
    num = num_seeds * num_folds
    error = np.std(differences, ddof=1) * math.sqrt(1 / num + ratio(folds))
    power = stats.nct(num - 1, least / error).sf(stats.t(num - 1).ppf(0.975))
    assert power == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("power", [0.8, 0.5])
def test_smallest_gain_is_found_that_often_in_a_simulation(power):
    # Values as alike as the correction assumes, of a deviation of 0.02.
    rng = np.random.default_rng(3)
    test_share, num_folds, num_trials = 0.2, 5, 3000
    factor = 1 / num_folds + test_share / (1 - test_share)
    error = 0.02 * math.sqrt(factor * (1 - test_share))
    half_width = float(stats.t(num_folds - 1).ppf(0.975)) * error
    known = intervals.FoldDifference(0.0, -half_width, half_width, 1.0)
    least = intervals.min_detectable_over_folds(known, num_folds, power=power)
    common = rng.normal(0, math.sqrt(test_share), (num_trials, 1, 1))
    spread = rng.normal(0, math.sqrt(1 - test_share), (num_trials, 1, num_folds))
    found = [intervals.over_folds(least + 0.02 * one, test_share) for one in common + spread]
    share = np.mean([one.low > 0 for one in found])
    assert share == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / num_trials))


def test_smallest_gain_without_interval_or_above_one_is_none():
    alone = intervals.FoldDifference(0.1, None, None, None)
    assert intervals.min_detectable_over_folds(alone, 1) is None
    wide = intervals.FoldDifference(0.0, -0.8, 0.8, 1.0)
    assert intervals.min_detectable_over_folds(wide, 12) is None
    narrow = intervals.FoldDifference(0.0, -0.4, 0.4, 1.0)
    assert 0.4 < intervals.min_detectable_over_folds(narrow, 12) < 0.8
