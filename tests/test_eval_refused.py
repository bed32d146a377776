"""What eval refuses: the message says where and what."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import invoke, the_error
from evaluated import judge, make_workspace, train

from pipelines.errors import ConfigError, ManifestError, TrainingError
from pipelines.evaluation import image_lists
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

pytestmark = pytest.mark.usefixtures("networks_once")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A workspace with a trained and judged run; not to be changed."""
    workspace = make_workspace(tmp_path_factory.mktemp("judged"))
    train(workspace)
    return workspace, judge(workspace)


@pytest.fixture
def workspace(judged, tmp_path):
    return shutil.copytree(judged[0], tmp_path / "copy")


def test_eval_unknown_run_raises_listing_the_others(workspace):
    with pytest.raises(TrainingError, match="no such run; there are avg_pool"):
        judge(workspace, run="avg_pol")


def test_eval_without_any_run_raises(tmp_path):
    with pytest.raises(TrainingError, match="no run yet; run `bottleneck train-tail` first"):
        judge(tmp_path)


def test_eval_unfinished_run_raises(workspace):
    (workspace / "runs" / "avg_pool" / "summary.json").unlink()
    with pytest.raises(TrainingError, match=r"avg_pool: not finished; train it to its end first"):
        judge(workspace)


def test_eval_missing_checkpoint_raises_naming_it(workspace):
    Store.of(workspace / "runs" / "avg_pool", "default").best.unlink()
    with pytest.raises(TrainingError, match=r"default/step-\d+\.npz: no such checkpoint"):
        judge(workspace)


def test_eval_cache_made_anew_with_other_settings_raises(workspace):
    shutil.rmtree(workspace / "features")
    make_workspace(workspace, seed=1)
    (workspace / "runs" / "avg_pool" / "results.json").unlink()
    with pytest.raises(ManifestError, match="made anew with other settings since this run"):
        judge(workspace)


def test_eval_split_without_images_raises(tmp_path):
    workspace = make_workspace(tmp_path, rows={"train": 20, "val": 8})
    train(workspace, epochs=1)
    with pytest.raises(ConfigError, match="no images in split test; choose another with --split"):
        judge(workspace)


def test_eval_without_its_cache_raises_naming_the_command(workspace):
    shutil.rmtree(workspace / "features")
    error = the_error(invoke("eval", "--run", "avg_pool", "-C", workspace))
    assert error.endswith("features: no cache here; run `bottleneck extract` first")


@pytest.mark.parametrize(("protocol", "split"), [("honest", "val"), ("thesis", "test")])
def test_eval_protocol_and_split_of_different_images_are_refused(workspace, protocol, split):
    both = invoke("eval", "--protocol", protocol, "--split", split, "-C", workspace)
    assert the_error(both, 2) == (
        f"--protocol {protocol} --split {split}: honest reports on test, thesis on val; leave out "
        "one of them"
    )
    (workspace / "bottleneck.toml").write_text(f"[eval]\nsplit = '{split}'\n")
    result = invoke("eval", "--protocol", protocol, "--json", "-C", workspace)  # the flag wins
    assert json.loads(result.stdout)["protocol"] == protocol


def test_eval_of_a_checkpoint_that_is_replaced_meanwhile_raises(workspace, monkeypatch):
    best = Store.of(workspace / "runs" / "avg_pool", "topology").best
    write = image_lists.write

    def replace_and_write(*arguments):
        weights, state = checkpoints.load(best)
        checkpoints.save(best, [(name, array + 1) for name, array in weights.items()], state)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.evaluation.image_lists.write", replace_and_write)
        with pytest.raises(ManifestError, match="a checkpoint was replaced while it was judged"):
            judge(workspace, seed=1)
    assert not (workspace / "runs" / "avg_pool" / "results.json").exists()
