from __future__ import annotations

import numpy as np
import pytest
from caches import lite0, make_cache, read_split
from disks import mounted, remount
from lockers import ELSEWHERE, write_lock
from pooled_runs import POOLED, best, lines, make_pooled, train
from processes import modules_loaded_by, tree

from pipelines import evaluate, runs
from pipelines.config import EvalConfig, TrainTailConfig
from pipelines.errors import ManifestError, ShardError, TrainingError
from pipelines.networks import models
from pipelines.networks.topology import Design
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

pytestmark = pytest.mark.usefixtures("networks_once")


@pytest.fixture
def pooled(tmp_path):
    """A workspace with a cache and no run."""
    return make_pooled(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same with one finished run; not to be changed."""
    workspace = make_pooled(tmp_path_factory.mktemp("trained"))
    return workspace, train(workspace)


def test_train_tail_summary_has_the_contracts_keys(trained):
    workspace, summary = trained
    assert list(summary) == [
        *("stage", "run", "node", "num_steps", "best_val_top1", "default_best_val_top1"),
        *("images_per_s", "data_wait", "seconds"),
    ]
    assert (summary["stage"], summary["run"], summary["node"]) == (
        "train-tail",
        "avg_pool",
        "avg_pool",
    )
    for key, model in (("best_val_top1", "topology"), ("default_best_val_top1", "default")):
        tops = [line["val_top1"] for line in lines(workspace, "avg_pool", model)]
        assert summary[key] == max(tops)
    assert summary["num_steps"] == lines(workspace, "avg_pool", "topology")[-1]["step"]


def test_train_tail_trains_the_default_model_behind_the_topology(trained):
    found = [line["model"] for line in lines(trained[0], "avg_pool")]
    assert found == sorted(found, reverse=True)
    assert set(found) == {"topology", "default"}
    assert best(trained[0], "avg_pool", "topology")["head/kernel"].shape == (3 * 1280, 4)
    assert best(trained[0], "avg_pool", "default")["head/kernel"].shape == (1280, 4)


def test_train_tail_default_model_learns_from_the_original_alone(trained, tmp_path):
    cache = FeatureCache(trained[0] / "features" / "avg_pool")
    model = models.build(lite0(), cache, Design(("original",)), 0)
    start = model.weights()["head/kernel"]
    features, labels, _ = read_split(cache, "val", ["original"])
    logits = features[:, 0] @ start
    top1 = np.mean(logits.argmax(axis=1) == labels)
    assert lines(trained[0], "avg_pool", "default")[0]["val_top1"] == pytest.approx(top1)


def test_train_tail_takes_batches_of_100_when_nothing_is_said():
    config = TrainTailConfig()
    assert (config.batch_size, config.epochs, config.learning_rate) == (100, 20, 0.01)
    assert (config.gradients, config.head_init, config.patience) == ("original", "random", 1)


def test_train_tail_tensorboard_files_hold_the_historys_numbers(trained):
    import tensorflow as tf

    run_dir = trained[0] / "runs" / "avg_pool"
    for model in ("topology", "default"):
        found = {}
        for path in (run_dir / "tensorboard" / model).glob("events.out.tfevents.*"):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    found[event.step, value.tag] = tf.make_ndarray(value.tensor).item()
        expected = {
            (line["step"], name): np.float32(value)
            for line in lines(trained[0], "avg_pool", model)
            for name, value in line.items()
            if name not in ("model", "step") and value is not None
        }
        assert found == expected


def test_train_tail_twice_gives_the_same_bytes(trained, pooled):
    train(pooled)
    left_out = (".lock", "timings.jsonl", *(p.name for p in (pooled / "runs").rglob("events.*")))
    left_out += tuple(p.name for p in (trained[0] / "runs").rglob("events.*"))
    assert tree(pooled / "runs", left_out) == tree(trained[0] / "runs", left_out)


def test_train_tail_finished_says_nothing_to_do_and_loads_no_tensorflow(trained):
    before = tree(trained[0] / "runs")
    flags = ("--batch-size", "10", "--epochs", "2", "--learning-rate", "0.001")
    (trained[0] / "bottleneck.toml").write_text("")
    output, modules = modules_loaded_by(trained[0], "train-tail", *flags)
    assert "nothing to do: run avg_pool is trained" in output
    assert not {"tensorflow", "keras"} & modules
    assert tree(trained[0] / "runs") == before


def test_train_tail_other_memory_budget_is_no_other_setting(trained, notes):
    train(trained[0], notes, cache_memory=0)
    assert notes.said == ["nothing to do: run avg_pool is trained"]


def test_train_tail_overwrite_trains_anew(pooled):
    train(pooled, epochs=1)
    (pooled / "runs" / "avg_pool" / "results.json").write_text("{}")
    summary = train(pooled, epochs=2, overwrite=True)
    assert summary["num_steps"] == lines(pooled, "avg_pool", "topology")[-1]["step"] > 5
    assert not (pooled / "runs" / "avg_pool" / "results.json").exists()


def test_train_tail_after_a_kill_in_the_middle_of_overwrite_starts_anew(pooled):
    train(pooled, epochs=1)
    (pooled / "runs" / "avg_pool" / "run.json").unlink()  # the first thing that goes
    before = tree(pooled / "runs")
    with pytest.raises(ManifestError, match=r"run\.json: missing beside checkpoints; restore it"):
        train(pooled, seed=5)
    assert tree(pooled / "runs") == before
    train(pooled, seed=5, overwrite=True)
    train(pooled, seed=5, run="clean")
    for model in ("topology", "default"):
        for name, value in best(pooled, "clean", model).items():
            np.testing.assert_array_equal(best(pooled, "avg_pool", model)[name], value)


def test_train_tail_streamed_and_resident_give_the_same_weights(trained, pooled):
    train(pooled, cache_memory=0)
    folder = "runs/avg_pool/checkpoints"
    assert tree(pooled / folder) == tree(trained[0] / folder) != {}


def test_train_tail_of_both_formats_gives_the_same_weights(tmp_path):
    made = {"dtype": "float16", "encoding": "sparse", "rows": {"train": 20, "val": 8}}
    for format in ("parquet", "tfrecord"):
        folder = tmp_path / format / "features" / "avg_pool"
        make_cache(folder, lite0(), POOLED, format=format, **made)
        train(tmp_path / format)
    files = [tree(tmp_path / f / "runs/avg_pool/checkpoints") for f in ("parquet", "tfrecord")]
    assert files[0] == files[1]


def test_train_tail_where_sparse_maps_are_expanded_is_no_other_setting(trained, notes):
    train(trained[0], notes, expand="host")
    assert notes.said == ["nothing to do: run avg_pool is trained"]


def test_train_tail_on_a_full_disk_keeps_the_checkpoint_before_and_goes_on(pooled, trained):
    with mounted(pooled / "runs", "size=200k") as disk:  # room for two checkpoints, not for three
        with pytest.raises(ShardError, match=r"npz: cannot be written: No space left on device"):
            train(pooled)
        store = Store.of(disk / "avg_pool", "topology")
        assert checkpoints.load(store.path(store.kept().latest))
        assert not list(disk.rglob("*.tmp"))
        remount(disk, "size=64m")
        train(pooled)
        found = tree(disk / "avg_pool" / "checkpoints")
    assert found == tree(trained[0] / "runs" / "avg_pool" / "checkpoints")


def test_train_tail_finished_run_without_its_pointer_makes_it_anew(pooled):
    summary = train(pooled)
    before = tree(pooled / "runs" / "avg_pool" / "checkpoints")
    pointer = Store.of(pooled / "runs" / "avg_pool", "topology").folder / "latest.json"
    pointer.write_text("{")
    with pytest.raises(ManifestError, match=r"latest\.json: .*; begin the training again"):
        evaluate.run(pooled, EvalConfig(), 0, Silent())
    again = train(pooled)
    times = ("images_per_s", "data_wait", "seconds")
    assert {**again, **dict.fromkeys(times)} == {**summary, **dict.fromkeys(times)}
    assert Store.of(pooled / "runs" / "avg_pool", "topology").best.exists()
    assert tree(pooled / "runs" / "avg_pool" / "checkpoints").keys() <= before.keys()


def test_train_tail_huge_learning_rate_raises_and_keeps_a_good_checkpoint(pooled):
    with pytest.raises(
        TrainingError,
        match=r"at step \d.* last good checkpoint is kept; give a lower --learning-rate",
    ):
        train(pooled, learning_rate=1e38, eval_every=1)
    weights = best(pooled, "avg_pool")
    assert all(np.isfinite(value).all() for value in weights.values())
    assert not (pooled / "runs" / "avg_pool" / "summary.json").exists()
    assert "at step" in runs.diverged(pooled / "runs" / "avg_pool")
    train(pooled, overwrite=True)
    assert not runs.diverged(pooled / "runs" / "avg_pool")


class Thief(Silent):
    """Takes the run's lock away at some step, as who found its holder silent does.

    Attributes:
        found: the run's files at that moment.
    """

    def __init__(self, run_dir, at_step):
        self._run_dir, self._left, self.found = run_dir, at_step, {}

    def advance(self, number):
        self._left -= 1
        if not self._left:
            write_lock(self._run_dir / ".lock", pid=1, **ELSEWHERE)
            self.found = tree(self._run_dir, (".lock", "tensorboard"))


@pytest.mark.parametrize("at_step", [1, 9])
def test_train_tail_whose_lock_was_taken_over_writes_nothing_more(pooled, at_step):
    run_dir = pooled / "runs" / "avg_pool"
    thief = Thief(run_dir, at_step)
    with pytest.raises(ManifestError, match=r"\.lock: was taken over by pid 1 on node-7"):
        train(pooled, thief)
    assert tree(run_dir, (".lock", "tensorboard")) == thief.found != {}


def test_train_tail_makes_its_run_the_latest_even_with_nothing_to_do(pooled):
    train(pooled, epochs=1, run="first")
    train(pooled, epochs=1, run="second")
    assert runs.latest(pooled) == "second"
    train(pooled, epochs=1, run="first")
    assert runs.latest(pooled) == "first"
