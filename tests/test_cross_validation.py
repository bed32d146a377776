"""Judging in folds: trained and judged on every part of all images, resumable fold by fold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caches import lite0, make_cache
from commands import invoke, the_error
from conftest import Notes

from pipelines import evaluate, train_tail
from pipelines.config import EvalConfig, TrainTailConfig
from pipelines.errors import ConfigError, ManifestError, SavedInterrupt
from pipelines.evaluation import folds
from pipelines.images import index
from pipelines.progress import Silent
from pipelines.storage import parquet
from pipelines.storage.cache import FeatureCache

pytestmark = pytest.mark.usefixtures("networks_once")
BRANCHES = ("original", "q010", "q050")
CONTROLS = ("original", "control_01", "control_02")
ROWS = {"train": 40, "val": 20, "test": 40}
MADE = {"classes": ("no", "yes"), "rows": ROWS, "noise": 4.0, "labels_seed": 3}
TRAIN = {"batch_size": 10, "epochs": 2, "learning_rate": 0.001}
FEW = {"seeds": 1, "compare": ("mean",)}
ASKED = {"run": "main", "folds": 2, "seeds": 2, "compare": ("all",)}


def train(workspace, **settings):
    config = TrainTailConfig(**{**TRAIN, **settings})
    train_tail.run(workspace, workspace / "features", config, 0, Silent())


def judge(workspace, watch=None, progress=None, **settings):
    config = EvalConfig(**{**ASKED, **settings})
    more = {} if watch is None else {"watch": watch}
    return evaluate.run(workspace, config, 0, progress or Silent(), **more)


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


@pytest.fixture(scope="module")
def few_once(trained, tmp_path_factory):
    """The same with little compared, once; what was returned and said; not to be changed."""
    workspace = shutil.copytree(trained, tmp_path_factory.mktemp("few") / "copy")
    notes = Notes()
    return workspace, judge(workspace, progress=notes, **FEW), notes.said


@pytest.fixture
def few(few_once, tmp_path):
    return shutil.copytree(few_once[0], tmp_path / "few")


@pytest.fixture
def workspace(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def tables(workspace):
    folder = workspace / "runs" / "main" / "folds"
    return {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}


def test_folds_judge_every_image_once_a_seed(judged):
    workspace, results = judged
    found = tables(workspace)
    assert list(found) == [
        f"seed-{seed}-fold-{number}-of-2" for seed in (0, 1) for number in (1, 2)
    ]
    for seed in (0, 1):
        ids = [
            name
            for key, t in found.items()
            if f"seed-{seed}" in key
            for name in t["id"].to_pylist()
        ]
        assert len(ids) == len(set(ids)) == results["num_images"] == 100
    first, second = (set(found[f"seed-{seed}-fold-1-of-2"]["id"].to_pylist()) for seed in (0, 1))
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


def checkpoints_of(workspace):
    """When each checkpoint in the folds was written, by its path in them."""
    folder = workspace / "runs" / "main" / "folds"
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*.npz"))
    }


def test_folds_keep_the_best_checkpoints_alone_and_make_no_runs_of_the_users(judged):
    workspace, _ = judged
    kept = [path.split("/") for path in checkpoints_of(workspace)]
    models = [(fold, run, model) for fold, _, run, _, model, _ in kept]
    trained = [("main", "default"), ("main", "topology")]
    trained += [("main-control", "topology"), ("main-copies", "topology")]
    assert models == [(fold, *one) for fold in tables(workspace) for one in trained]
    assert [path.name for path in (workspace / "runs").glob("*/")] == ["main"]


def test_folds_again_train_nothing(judged):
    workspace, results = judged
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("fold*/*.parquet")}
    assert judge(workspace) == results
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("fold*/*.parquet")} == before


def test_folds_with_a_further_comparator_train_it_alone(few_once, few, notes):
    workspace, before = few, few_once[1]
    there = checkpoints_of(workspace)
    train(workspace, run="averaged", fusion="mean")
    results = judge(workspace, progress=notes, seeds=1, compare=("averaged",))
    assert "folds: 2 are judged again: what is compared has changed" in " ".join(notes.said)
    assert results["topology"] == before["topology"]
    found = checkpoints_of(workspace)
    assert {path: time for path, time in found.items() if path in there} == there
    assert {path.split("/")[2] for path in found.keys() - there.keys()} == {"averaged"}
    train(workspace, run="averaged", fusion="mean", epochs=1, overwrite=True)
    judge(workspace, seeds=1, compare=("averaged",))  # which is another one now
    again = checkpoints_of(workspace)
    assert {path: time for path, time in again.items() if path in there} == there
    assert not {*found.values()} & {again[path] for path in again.keys() - there.keys()}


def test_folds_a_damaged_table_is_made_again(few_once, few, notes):
    workspace, before = few, few_once[1]
    there, (damaged, _) = checkpoints_of(workspace), tables(workspace)
    path = workspace / "runs" / "main" / "folds" / f"{damaged}.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    assert judge(workspace, progress=notes, **FEW) == before
    assert "folds: 1 are judged again" in " ".join(notes.said)
    assert checkpoints_of(workspace) == there


def write_hashes(workspace, hash_of):
    """Hash the images of the cache as an index does."""
    ids, _ = folds.read_labels(FeatureCache(workspace / "features" / "avg_pool"))
    folder = workspace / index.FOLDER / index.HASHES
    folder.mkdir(parents=True)
    hashes = [hashlib.sha256(hash_of(name)).hexdigest() for name in ids]
    parquet.write_table(folder / "00000.parquet", pa.table({"id": ids, "sha256": hashes}))


def test_folds_keep_images_of_the_same_bytes_together(workspace, notes):
    write_hashes(workspace, lambda name: name[:-1].encode())  # ten each, of all classes
    judge(workspace, progress=notes, folds=2, seeds=1, compare=("mean",))
    first, second = (
        {name[:-1] for name in t["id"].to_pylist()} for t in tables(workspace).values()
    )
    assert not first & second
    assert any("images have the bytes of another and stay with it" in one for one in notes.said)


def test_folds_say_when_nothing_tells_the_same_bytes_any_more(few_once):
    assert any("of 100 images nothing says any more what bytes" in one for one in few_once[2])


@pytest.mark.parametrize("num_questions", [3, 25])
def test_folds_asked_to_stop_go_on_and_end_with_the_same_results(
    workspace, few_once, num_questions
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
    assert judge(workspace, **FEW) == few_once[1]
    found = tables(few_once[0])
    assert len(found) == 2
    for name, table in tables(workspace).items():
        assert found[name].equals(table)


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
    train(tmp_path, node="avg_pool", run="first", epochs=2, batch_size=4, overwrite=True)
    with pytest.raises(ManifestError, match="run first: trained anew since run second started"):
        judge(tmp_path, run="second", seeds=1, compare=("copies",))


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
