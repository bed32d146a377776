"""Judging in folds: trained and judged on every part of all images, resumable fold by fold."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from caches import lite0, make_cache
from commands import invoke, the_error

from pipelines import evaluate, train_tail
from pipelines.config import EvalConfig, TrainTailConfig
from pipelines.errors import ConfigError, SavedInterrupt
from pipelines.progress import Silent

pytestmark = pytest.mark.usefixtures("networks_once")
BRANCHES = ("original", "q010", "q050")
CONTROLS = ("original", "control_01", "control_02")
ROWS = {"train": 40, "val": 20, "test": 40}
MADE = {"classes": ("no", "yes"), "rows": ROWS, "noise": 4.0, "labels_seed": 3}
TRAIN = {"batch_size": 10, "epochs": 2, "learning_rate": 0.001}
ASKED = {"run": "main", "folds": 2, "seeds": 2, "compare": ("all",)}


def train(workspace, **settings):
    config = TrainTailConfig(**{**TRAIN, **settings})
    train_tail.run(workspace, workspace / "features", config, 0, Silent())


def judge(workspace, watch=None, **settings):
    config = EvalConfig(**{**ASKED, **settings})
    more = {} if watch is None else {"watch": watch}
    return evaluate.run(workspace, config, 0, Silent(), **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, networks_once):
    """A workspace with a run, and a cache of the control set; not to be changed."""
    workspace = tmp_path_factory.mktemp("folds")
    (workspace / "bottleneck.toml").write_text("")
    make_cache(workspace / "features" / "avg_pool", lite0(), (1280,), **MADE)
    make_cache(
        workspace / "features-control" / "avg_pool", lite0(), (1280,), branches=CONTROLS, **MADE
    )
    train(workspace, run="main")
    return workspace


@pytest.fixture(scope="module")
def judged(trained, tmp_path_factory):
    """The same, with everything compared in two folds, twice; not to be changed."""
    workspace = shutil.copytree(trained, tmp_path_factory.mktemp("judged") / "copy")
    return workspace, judge(workspace)


@pytest.fixture
def workspace(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def tables(workspace):
    folder = workspace / "runs" / "main" / "folds"
    return {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}


def test_folds_judge_every_image_once_a_seed(judged):
    workspace, results = judged
    found = tables(workspace)
    assert list(found) == [f"seed-{seed}-fold-{number}" for seed in (0, 1) for number in (1, 2)]
    for seed in (0, 1):
        ids = [
            name
            for key, t in found.items()
            if f"seed-{seed}" in key
            for name in t["id"].to_pylist()
        ]
        assert len(ids) == len(set(ids)) == results["num_images"] == 100
    first, second = (set(found[f"seed-{seed}-fold-1"]["id"].to_pylist()) for seed in (0, 1))
    assert first != second


def test_folds_results_are_means_of_the_images(judged):
    workspace, results = judged
    found = tables(workspace)
    for name in ("topology", "copies", "control", "mean_logits", "control_mean_logits"):
        hits = [table[f"{name}_rank"].to_numpy() == 0 for table in found.values()]
        assert results["comparators"][name]["top1"] == pytest.approx(np.concatenate(hits).mean())
        of_folds = np.array([hit.mean() for hit in hits]).reshape(2, 2)
        assert results["folds"]["accuracies"][name] == pytest.approx(of_folds)
    assert results["folds"]["seeds"] == [0, 1]
    assert results["gain"]["top1"] == results["comparators"]["topology"]["difference"]
    saved = json.loads((workspace / "runs" / "main" / "results-folds.json").read_text())
    assert saved == results


def test_folds_leave_no_checkpoints_and_no_runs_of_the_users(judged):
    workspace, _ = judged
    folder = workspace / "runs" / "main" / "folds"
    assert {path.suffix for path in folder.iterdir() if path.is_file()} >= {".json", ".parquet"}
    assert not list(folder.rglob("*.npz"))
    assert [path.name for path in (workspace / "runs").glob("*/")] == ["main"]


def test_folds_again_train_nothing(judged):
    workspace, results = judged
    left = workspace / "runs" / "main" / "folds" / "seed-0-fold-1-at-work-0123abcd" / "runs"
    left.mkdir(parents=True)  # by a start that was killed at its very end
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("fold*/*.parquet")}
    assert judge(workspace) == results
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("fold*/*.parquet")} == before
    assert not left.parent.exists()


FEW = {"seeds": 1, "compare": ("mean",)}


@pytest.mark.parametrize("num_questions", [3, 25])
def test_folds_asked_to_stop_go_on_and_end_with_the_same_results(
    workspace, trained, tmp_path, num_questions
):
    asked = []

    @contextlib.contextmanager
    def watch():
        def is_asked():
            asked.append(1)
            return len(asked) == num_questions

        yield is_asked

    with pytest.raises(SavedInterrupt, match="the same command goes on from there"):
        judge(workspace, watch, **FEW)
    undisturbed = shutil.copytree(trained, tmp_path / "undisturbed")
    assert judge(workspace, **FEW) == judge(undisturbed, **FEW)
    found = tables(undisturbed)
    assert len(found) == 2
    for name, table in tables(workspace).items():
        assert found[name].equals(table)


def test_folds_with_another_number_are_made_anew(workspace):
    judge(workspace, **FEW)
    results = judge(workspace, folds=3, **FEW)
    assert results["folds"]["num_folds"] == 3
    assert results["num_images"] == 100


def test_folds_under_the_thesis_protocol_select_on_what_they_report(workspace):
    results = judge(workspace, protocol="thesis", **FEW)
    assert results["protocol"] == "thesis"
    assert "selected on these same images" in results["verdict"]
    assert (workspace / "runs" / "main" / "results-val-folds.json").exists()
    assert not (workspace / "runs" / "main" / "results-folds.json").exists()


def test_folds_of_a_chain_train_the_chain_in_every_fold(tmp_path):
    (tmp_path / "bottleneck.toml").write_text("")
    shapes = {"avg_pool": (1280,), "block7a_project_bn": (7, 7, 320)}
    rows = {"train": 12, "val": 6, "test": 6}
    made = {**MADE, "rows": rows, "blocks": ("FC",)}
    for node, shape in shapes.items():
        make_cache(tmp_path / "features" / node, lite0(), shape, **made)
    train(tmp_path, node="avg_pool", run="first", epochs=1, batch_size=4)
    settings = {"node": "block7a_project_bn", "start_from": "first"}
    train(tmp_path, run="second", epochs=1, batch_size=4, **settings)
    results = judge(tmp_path, run="second", seeds=1, compare=("copies",))
    assert {"topology", "copies"} <= set(results["comparators"])
    assert results["num_images"] == 24


def test_more_folds_than_images_of_a_class_raise(workspace):
    with pytest.raises(ConfigError, match=r"--folds 70: class \w+ has \d+ images; give 2 to \d+"):
        judge(workspace, folds=70)


def test_folds_that_leave_less_than_a_batch_raise(workspace):
    train(workspace, run="large", batch_size=40)
    with pytest.raises(ConfigError, match="leaves 34 images to learn from, and run large takes"):
        judge(workspace, run="large", compare=("mean",))


def test_folds_on_the_command_line_say_how_often(judged):
    result = invoke(
        "eval", "-C", judged[0], "--run", "main", "--folds", "2", "--seeds", "2", "--compare", "all"
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "100 images in 2 folds, 2 times (honest protocol)" in lines[0]
    assert any(line.startswith("control_mean_logits") for line in lines)
    assert lines[-2] == judged[1]["verdict"]


def test_one_fold_is_refused_in_words(judged):
    error = the_error(invoke("eval", "-C", judged[0], "--run", "main", "--folds", "1"), 2)
    assert error.startswith("--folds 1: class ")
