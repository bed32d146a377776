"""What a run is compared with: other runs, and controls that are trained with its settings."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from caches import lite0, make_cache, read_split
from commands import invoke, the_error
from processes import tree

from pipelines import control_caches, evaluate, runs, train_tail
from pipelines.config import EvalConfig, TrainTailConfig
from pipelines.errors import ConfigError, ManifestError, PipelineError, TrainingError
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

pytestmark = pytest.mark.usefixtures("networks_once")
BRANCHES = ("original", "q010", "q050")
CONTROLS = ("original", "control_01", "control_02", "control_03")
ROWS = {"train": 60, "val": 24, "test": 90}
TRAIN = {"batch_size": 10, "epochs": 2, "learning_rate": 0.001}
MADE = {"classes": tuple("abcdefg"), "rows": ROWS, "noise": 4.0, "labels_seed": 9}


def train(workspace, **settings):
    config = TrainTailConfig(**{"node": "avg_pool", **TRAIN, **settings})
    train_tail.run(workspace, workspace / "features", config, 0, Silent())


def judge(workspace, *compare, progress=None, **settings):
    config = EvalConfig(run="main", compare=compare or ("auto",), **settings)
    return evaluate.run(workspace, config, 0, progress or Silent())


def scores_by_hand(workspace, name, cache, branches, split="test"):
    features, labels, _ = read_split(cache, split, list(branches))
    weights, _ = checkpoints.load(Store.of(workspace / "runs" / name, "topology").best)
    joined = features.reshape(len(labels), -1) @ weights["head/kernel"] + weights["head/bias"]
    return joined, labels


@pytest.fixture(scope="module")
def whole(tmp_path_factory, networks_once):
    """A workspace with runs, and a cache of the control set; everything compared once."""
    workspace = tmp_path_factory.mktemp("compared")
    (workspace / "bottleneck.toml").write_text("")
    make_cache(workspace / "features" / "avg_pool", lite0(), (1280,), **MADE)
    make_cache(
        workspace / "features-control" / "avg_pool", lite0(), (1280,), branches=CONTROLS, **MADE
    )
    train(workspace, run="averaged", fusion="mean")
    train(workspace, run="main")
    return workspace, judge(workspace, "all")


@pytest.fixture
def workspace(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "copy")


def test_all_compares_everything_and_trains_the_controls(whole):
    workspace, results = whole
    assert list(results["comparators"]) == [
        *("default", "topology", "mean_logits", "run_averaged"),
        *("copies", "control", "control_mean_logits", "branch_q010", "branch_q050"),
    ]
    assert runs.latest(workspace) == "main"  # a control is no run of the user's
    copies, control = (runs.read(workspace, f"main-{word}") for word in ("copies", "control"))
    assert (copies.branches, copies.copies, copies.seed) == (("original",), 3, 0)
    assert control.branches == CONTROLS[:3]  # as many as the run has
    assert control.features_dir == "features-control"
    own = runs.read(workspace, "main").fingerprint
    for key in ("epochs", "batch_size", "learning_rate", "fusion", "gradients", "seed"):
        assert copies.fingerprint[key] == control.fingerprint[key] == own[key]


def test_accuracies_of_comparators_are_those_computed_by_hand(whole):
    workspace, results = whole
    cache = FeatureCache(workspace / "features" / "avg_pool")
    control = FeatureCache(workspace / "features-control" / "avg_pool")
    found = results["comparators"]
    scores, labels = scores_by_hand(workspace, "main-control", control, CONTROLS[:3])
    assert found["control"]["top1"] == np.mean(scores.argmax(axis=1) == labels)
    originals, labels, _ = read_split(cache, "test", ["original"])
    weights, _ = checkpoints.load(Store.of(workspace / "runs" / "main-copies", "topology").best)
    joined = np.tile(originals[:, 0], 3) @ weights["head/kernel"] + weights["head/bias"]
    assert found["copies"]["top1"] == np.mean(joined.argmax(axis=1) == labels)
    default, _ = checkpoints.load(Store.of(workspace / "runs" / "main", "default").best)
    of_branches, _, _ = read_split(cache, "test")
    mean = (of_branches @ default["head/kernel"] + default["head/bias"]).mean(axis=1)
    assert found["mean_logits"]["top1"] == np.mean(mean.argmax(axis=1) == labels)
    every, _, _ = read_split(control, "test", list(CONTROLS[:3]))  # as many as the run has
    of_controls = every @ default["head/kernel"] + default["head/bias"]
    is_right = of_controls.argmax(axis=2) == labels[:, np.newaxis]
    assert results["oracle"]["control_top1"] == is_right.any(axis=1).mean()


def test_leaning_is_what_the_topology_loses_with_the_original_in_a_branchs_place(whole):
    workspace, results = whole
    cache = FeatureCache(workspace / "features" / "avg_pool")
    features, labels, _ = read_split(cache, "test")
    weights, _ = checkpoints.load(Store.of(workspace / "runs" / "main", "topology").best)

    def accuracy(maps):
        scores = maps.reshape(len(maps), -1) @ weights["head/kernel"] + weights["head/bias"]
        return np.mean(scores.argmax(axis=1) == labels)

    expected = {}
    for i, name in enumerate(BRANCHES[1:], 1):
        swapped = features.copy()
        swapped[:, i] = features[:, 0]
        expected[name] = accuracy(features) - accuracy(swapped)
    assert results["leans_on"] == pytest.approx(expected, abs=1e-12)
    assert max(map(abs, expected.values())) > 0.02


def test_predictions_have_a_column_for_each_comparator(whole):
    workspace, results = whole
    table = pq.read_table(workspace / "runs" / "main" / "predictions.parquet")
    for name in ("mean_logits", "control_mean_logits", "run_averaged", "copies", "control"):
        top1 = np.mean(table[f"{name}_rank"].to_numpy() == 0)
        assert top1 == pytest.approx(results["comparators"][name]["top1"])
    best = table["control_oracle_rank"].to_numpy()
    assert np.mean(best == 0) == pytest.approx(results["oracle"]["control_top1"])


def test_verdict_speaks_of_both_controls(whole):
    _, results = whole
    assert "the control of as many copies of the original" in results["verdict"].lower()
    assert "the control of changes that are no compression" in results["verdict"].lower()


def test_auto_takes_the_controls_that_are_there_and_has_nothing_to_do(workspace, whole, notes):
    results = judge(workspace, progress=notes)
    assert results == whole[1]
    assert notes.said == ["nothing to do: run main is judged"]


def test_auto_trains_nothing(workspace):
    for word in ("copies", "control"):
        shutil.rmtree(workspace / "runs" / f"main-{word}")
    found = judge(workspace)["comparators"]
    assert not {"copies", "control"} & set(found)
    assert "control_mean_logits" in found  # its cache is there, and the default model needs no more
    assert not (workspace / "runs" / "main-copies").exists()


def test_compare_with_one_run_leaves_out_the_others(workspace):
    train(workspace, run="third", fusion="mean", epochs=1)
    found = judge(workspace, "third")["comparators"]
    assert list(found) == ["default", "topology", "run_third", "branch_q010", "branch_q050"]


def test_compare_control_without_its_cache_raises_naming_the_commands(workspace):
    shutil.rmtree(workspace / "features-control")
    shutil.rmtree(workspace / "runs" / "main-control")
    error = the_error(invoke("eval", "--run", "main", "--compare", "control", "-C", workspace))
    assert "run `bottleneck compress --set control`, then" in error
    words = "--node avg_pool --backbone efficientnet_lite0 --dtype float32"
    assert f"`bottleneck extract --set control {words}`" in error


def test_compare_control_without_its_cache_names_the_folder_it_has_to_go_to(workspace):
    cache = FeatureCache(workspace / "features" / "avg_pool")
    elsewhere = dataclasses.replace(runs.read(workspace, "main"), features_dir="other")
    with pytest.raises(ManifestError, match="--dtype float32 --features-dir other`"):
        control_caches.open_for(workspace, elsewhere, cache)


def remake_control(workspace, **changed):
    shutil.rmtree(workspace / "features-control")
    folder = workspace / "features-control" / "avg_pool"
    make_cache(folder, lite0(), (1280,), **{"branches": CONTROLS, **MADE, **changed})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dtype": "float16"}, "made with another dtype than"),
        ({"branches": CONTROLS[1:]}, "lacks the branch original; extract it again"),
        ({"branches": CONTROLS[:2]}, "has 2 branches, and the run 3; leave the control set out"),
    ],
)
def test_control_cache_that_differs_in_more_than_its_versions_is_refused(workspace, changed, words):
    remake_control(workspace, **changed)
    cache = FeatureCache(workspace / "features" / "avg_pool")
    with pytest.raises(PipelineError, match=f"features-control/avg_pool: {words}"):
        control_caches.open_for(workspace, runs.read(workspace, "main"), cache)


def test_auto_leaves_out_a_control_cache_that_does_not_go_with_the_runs(workspace, caplog):
    remake_control(workspace, dtype="float16")
    found = judge(workspace)["comparators"]
    assert not {"control", "control_mean_logits"} & set(found)
    where = workspace / "features-control" / "avg_pool"
    assert f"the control set is left out: {where}: made with another dtype" in caplog.text


def test_compare_control_of_other_images_raises(workspace):
    remake_control(workspace, images="others")
    with pytest.raises(ManifestError, match="made with another images_sha256 than"):
        judge(workspace, "control")


def test_compare_control_of_other_labels_raises(workspace):
    remake_control(workspace, labels_seed=10)
    with pytest.raises(ManifestError, match=r"of label \d where the other cache has test/\d+ of"):
        judge(workspace, "mean", "control")


def test_compare_with_a_word_that_is_nothing_raises_listing_what_there_is(workspace):
    with pytest.raises(ConfigError, match=r"--compare averagd: neither .*; there are .*averaged"):
        judge(workspace, "averagd")


def test_compare_with_a_run_of_another_cache_raises(workspace):
    make_cache(workspace / "others" / "avg_pool", lite0(), (1280,), seed=3, **MADE)
    config = TrainTailConfig(**{**TRAIN, "run": "elsewhere", "epochs": 1})
    train_tail.run(workspace, workspace / "others", config, 0, Silent())
    with pytest.raises(ConfigError, match=r"--compare elsewhere: reads another cache"):
        judge(workspace, "elsewhere")


def test_compare_with_a_run_that_is_not_finished_raises(workspace):
    (workspace / "runs" / "averaged" / "summary.json").unlink()
    with pytest.raises(TrainingError, match="averaged: not finished"):
        judge(workspace, "averaged")
    assert "run_averaged" not in judge(workspace)["comparators"]


@pytest.mark.parametrize("lost", ["averaged", "main-copies"])
def test_auto_leaves_out_a_run_whose_checkpoint_is_gone(workspace, caplog, lost):
    shutil.rmtree(workspace / "runs" / lost / "checkpoints")
    called = {"averaged": "run_averaged", "main-copies": "copies"}[lost]
    assert called not in judge(workspace)["comparators"]
    assert f"run {lost} is left out: its checkpoint is gone" in caplog.text


def test_compare_with_a_run_that_is_called_like_a_word(workspace):
    train(workspace, run="mean", fusion="mean", epochs=1)
    assert "run_mean" not in judge(workspace, "mean")["comparators"]
    found = judge(workspace, "run_mean")["comparators"]
    assert list(found) == ["default", "topology", "run_mean", "branch_q010", "branch_q050"]


def test_compare_a_control_with_controls_raises(workspace):
    config = EvalConfig(run="main-copies", compare=("copies",))
    with pytest.raises(ConfigError, match="run main-copies is a control itself"):
        evaluate.run(workspace, config, 0, Silent())
    results = evaluate.run(workspace, EvalConfig(run="main-control"), 0, Silent())
    assert list(results["branches"]) == list(CONTROLS[:3])


def test_control_branches_are_as_many_as_the_runs(whole):
    run = runs.read(whole[0], "main")
    assert control_caches.branches_for(run, CONTROLS) == CONTROLS[:3]
    alone = dataclasses.replace(run, branches=("q010", "q050"))
    assert control_caches.branches_for(alone, CONTROLS) == ("control_01", "control_02")


def test_controls_of_the_run_as_it_was_are_left_out_and_not_taken_for_its_own(
    workspace, notes, caplog
):
    train(workspace, run="main", overwrite=True, epochs=1)
    found = judge(workspace)["comparators"]
    assert not {"copies", "control"} & set(found)
    assert "run main-copies is left out" in caplog.text
    assert "made with epochs 2, now 1" in caplog.text
    message = r"made with epochs 2, now 1; no control of run main as that is now; delete .*-copies"
    with pytest.raises(ManifestError, match=message):
        judge(workspace, "copies")


def test_run_of_a_controls_name_is_no_control(workspace):
    shutil.rmtree(workspace / "runs" / "main-control")
    train(workspace, run="main-control", epochs=1)
    found = judge(workspace)["comparators"]
    assert "control" not in found
    with pytest.raises(ManifestError, match="no control of run main as that is now"):
        judge(workspace, "control")


def test_auto_without_the_control_sets_cache_goes_on_without_it(workspace):
    shutil.rmtree(workspace / "features-control")
    found = judge(workspace)["comparators"]
    assert "copies" in found
    assert not {"control", "control_mean_logits"} & set(found)


@pytest.mark.parametrize(
    ("name", "words"),
    [("main-copies", "is a control; give copies"), ("main", "is the run itself; leave it out")],
)
def test_compare_with_its_own_control_by_name_raises(workspace, name, words):
    with pytest.raises(ConfigError, match=f"--compare {name}: {words}"):
        judge(workspace, name)


def test_compare_with_the_control_of_another_run_by_name(workspace):
    settings = {"branches": ("original",), "copies": 3, "epochs": 1}
    train(workspace, run="other-copies", **settings)
    assert "run_other-copies" not in judge(workspace)["comparators"]
    assert "run_other-copies" in judge(workspace, "other-copies")["comparators"]


def test_scores_that_are_no_numbers_raise_naming_run_and_image(workspace):
    path = Store.of(workspace / "runs" / "averaged", "topology").best
    weights, state = checkpoints.load(path)
    weights["head/bias"][2] = np.nan
    checkpoints.save(path, weights.items(), state)
    message = r"run averaged: .*npz gives image test/\d+ scores that are not finite numbers"
    before = tree(workspace / "runs" / "main")
    with pytest.raises(TrainingError, match=message):
        judge(workspace)
    assert tree(workspace / "runs" / "main") == before  # the results of before are still true


def test_top_k_of_all_classes_raises(workspace):
    error = the_error(invoke("eval", "--run", "main", "--top-k", "3,7", "-C", workspace), 2)
    assert error == ("--top-k 7: of 7 classes, where that is always right; give numbers below 7")


def test_top_k_gives_those_places(workspace):
    results = judge(workspace, top_k=(2, 3))
    assert list(results["top_k"]["topology"]) == ["2", "3"]
    found = results["top_k"]["default"]
    assert results["default"]["top1"] < found["2"] < found["3"] < 1


def test_class_without_test_images_has_no_accuracy(tmp_path):
    (tmp_path / "bottleneck.toml").write_text("")
    labels = {f"test/{row:04d}": row % 6 for row in range(90)}
    make_cache(tmp_path / "features" / "avg_pool", lite0(), (1280,), labels_of=labels, **MADE)
    train(tmp_path, run="main", epochs=1)
    last = judge(tmp_path)["per_class"][-1]
    expected = {"default": None, "topology": None, "change": None}
    assert last == {"class": "g", "num_images": 0, **expected}
