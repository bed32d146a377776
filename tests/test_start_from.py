"""Chains of runs: --start-from takes over what the next tail shares, at a tenth of the rate."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from caches import lite0, make_cache

from pipelines import runs, train_tail
from pipelines.config import TrainTailConfig
from pipelines.errors import ManifestError, TrainingError
from pipelines.progress import Silent
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

SHAPES = {
    "avg_pool": (1280,),
    "block7a_project_bn": (7, 7, 320),
    "block7a_expand_activation": (7, 7, 1152),
}
ROWS = {"train": 10, "val": 6, "test": 4}
pytestmark = pytest.mark.usefixtures("networks_once")


def train(workspace, node, progress=None, **settings):
    config = TrainTailConfig(node=node, batch_size=5, epochs=1, **settings)
    return train_tail.run(workspace, workspace / "features", config, 0, progress or Silent())


def first_line(workspace, name, model):
    text = (workspace / "runs" / name / "history.jsonl").read_text(encoding="utf-8")
    return next(line for line in map(json.loads, text.splitlines()) if line["model"] == model)


def best(workspace, name, model="topology"):
    return checkpoints.load(Store.of(workspace / "runs" / name, model).best)[0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Three runs, each from the one before; not to be changed."""
    workspace = tmp_path_factory.mktemp("chain")
    for node, shape in SHAPES.items():
        make_cache(workspace / "features" / node, lite0(), shape, rows=ROWS)
    train(workspace, "avg_pool")
    train(workspace, "block7a_project_bn", start_from="avg_pool")
    train(workspace, "block7a_expand_activation", start_from="block7a_project_bn")
    return workspace


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run to start from; not to be changed."""
    workspace = tmp_path_factory.mktemp("first")
    make_cache(workspace / "features" / "avg_pool", lite0(), (1280,), rows=ROWS)
    train(workspace, "avg_pool", run="first")
    return workspace


@pytest.fixture
def workspace(first, tmp_path):
    return shutil.copytree(first, tmp_path / "workspace")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "node"), list(enumerate(SHAPES)))
def test_start_from_learns_at_a_tenth_of_the_rate_before(chain, number, node):
    for model in ("topology", "default"):
        rate = first_line(chain, node, model)["learning_rate"]
        assert rate == pytest.approx(0.01 * 10**-number, rel=1e-9)
    assert runs.read(chain, node).block_number == number + 1


def test_start_from_without_it_learns_at_the_full_rate(workspace):
    train(workspace, "avg_pool", run="second")
    assert first_line(workspace, "second", "topology")["learning_rate"] == 0.01


@pytest.mark.slow
@pytest.mark.parametrize("model", ["topology", "default"])
def test_start_from_takes_the_best_weights_of_shared_layers(chain, tmp_path, model):
    workspace = shutil.copytree(chain, tmp_path / "copy")
    node, parent = "block7a_expand_activation", "block7a_project_bn"
    taken = {name: value * 1.25 for name, value in best(workspace, parent, model).items()}
    assert {"head/kernel", "head/bias", "tail/top_conv/0", "tail/top_bn/1"} <= set(taken)
    checkpoints.save(Store.of(workspace / "runs" / parent, model).best, taken.items(), {})
    # With a rate of nearly nothing, a run stays where it starts.
    train(workspace, node, run="still", start_from=parent, learning_rate=1e-30)
    found = best(workspace, "still", model)
    assert set(taken) < set(found)
    for name, value in found.items():
        _, layer, *index = name.split("/")
        if name not in taken:
            expected = lite0().model.get_layer(layer).get_weights()[int(index[0])]
        else:
            expected = taken[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_start_from_tells_how_many_arrays_it_took(workspace, notes):
    train(workspace, "avg_pool", notes, run="second", start_from="first")
    assert "topology: 2 of 2 weight arrays from run first" in notes.said


def test_start_from_unknown_run_raises_listing_the_others(workspace):
    with pytest.raises(TrainingError, match="runs/frist: no such run; there are first"):
        train(workspace, "avg_pool", run="second", start_from="frist")


def test_start_from_itself_raises_and_keeps_the_run(workspace):
    with pytest.raises(TrainingError, match="run first: cannot start from itself"):
        train(workspace, "avg_pool", run="first", start_from="first", overwrite=True)
    assert best(workspace, "first")


def test_start_from_unfinished_run_raises(workspace):
    (workspace / "runs" / "first" / "summary.json").unlink()
    with pytest.raises(TrainingError, match="runs/first: not finished; train it to its end first"):
        train(workspace, "avg_pool", run="second", start_from="first")


def test_start_from_run_without_its_checkpoint_raises(workspace):
    Store.of(workspace / "runs" / "first", "default").best.unlink()
    with pytest.raises(TrainingError, match=r"default/step-\d+\.npz: no such checkpoint"):
        train(workspace, "avg_pool", run="second", start_from="first")


def test_start_from_run_with_a_damaged_checkpoint_raises_before_anything_is_written(workspace):
    path = Store.of(workspace / "runs" / "first", "default").best
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TrainingError, match=r"first/checkpoints/default/step-\d+\.npz: damaged"):
        train(workspace, "avg_pool", run="second", start_from="first")
    assert not (workspace / "runs" / "second" / "run.json").exists()


def test_start_from_run_of_other_classes_raises(workspace):
    make_cache(
        workspace / "features" / "top_activation",
        lite0(),
        (7, 7, 1280),
        classes=("ant", "bee"),
        rows=ROWS,
    )
    with pytest.raises(TrainingError, match="run first: trained on other classes than"):
        train(workspace, "top_activation", start_from="first")


def test_start_from_run_of_another_network_raises(workspace):
    other = dataclasses.replace(lite0(), weights_sha256="0" * 64)
    make_cache(workspace / "features" / "top_activation", other, (7, 7, 1280), rows=ROWS)
    with pytest.raises(TrainingError, match="start from a run of the same network"):
        train(workspace, "top_activation", start_from="first")


def test_start_from_run_of_other_images_raises(workspace):
    folder = workspace / "features" / "top_activation"
    make_cache(folder, lite0(), (7, 7, 1280), rows=ROWS, images="others")
    with pytest.raises(TrainingError, match=r"run first: trained on other images than .*top_activ"):
        train(workspace, "top_activation", start_from="first")
    assert not (workspace / "runs" / "top_activation").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"branches": ("original", "q010")}, "its head is of branches original,q010,q050, this"),
        (
            {"fusion": "mean"},
            "its head is of fusion concat, this one of mean; give --fu",
        ),
    ],
)
def test_start_from_run_with_another_head_raises(workspace, changed, words):
    with pytest.raises(TrainingError, match=f"run first: {words}"):
        train(workspace, "avg_pool", run="second", start_from="first", **changed)
    assert not (workspace / "runs" / "second" / "run.json").exists()


def test_start_from_run_trained_anew_raises_naming_it(workspace):
    train(workspace, "avg_pool", run="second", start_from="first")
    train(workspace, "avg_pool", run="first", gradients="all", overwrite=True, learning_rate=0.1)
    with pytest.raises(ManifestError, match=r"runs/second: made with .*start_from\.topology"):
        train(workspace, "avg_pool", run="second", start_from="first")
