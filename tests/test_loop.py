"""The trainer on a tiny network and a made-up cache; whole runs are in test_train_tail."""

from __future__ import annotations

import json

import numpy as np
import pytest
from caches import BRANCHES, make_cache, tiny

from pipelines.errors import TrainingError
from pipelines.networks import models
from pipelines.storage.cache import FeatureCache
from pipelines.training import checkpoints, feeds, loop
from pipelines.training.history import History

SHAPE = (8, 8, 6)
NUM_TRAIN = 44  # in batches of 15: three steps an epoch, the last of 14 images
NUM_STEPS = 9
SETTINGS = loop.Settings(
    epochs=3, batch_size=15, learning_rate=0.05, eval_every=2, patience=3, seed=1
)
MANY_STEPS = 1_000_000_000


class Stopped(BaseException):
    """Ends a training between two steps, as a signal would."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("features") / "first", tiny(), SHAPE, noise=3.0)


def train(
    run_dir,
    cache,
    stop_after=MANY_STEPS,
    budget_bytes=0,
    branches=BRANCHES,
    feed_of=feeds.dense,
    **changed,
):
    """Train or go on for so many steps; returns the outcome, None where it was stopped."""
    settings = loop.Settings(**{**vars(SETTINGS), **changed})
    model = models.build(tiny(), cache, branches, "original", "random", settings.seed)
    history = History(run_dir / "history.jsonl", run_dir / "tensorboard")
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    reader = cache.split("train", branches, budget_bytes)
    trainer = loop.Trainer(
        "topology",
        model,
        reader,
        cache.split("val", branches, budget_bytes),
        settings,
        loop.Paths.of(run_dir, "topology"),
        history,
        feed_of(reader),
    )
    left = iter(range(stop_after - 1, -1, -1))

    def on_step():
        if next(left) == 0:
            raise Stopped

    try:
        return trainer.run(lambda step: None, on_step)
    except Stopped:
        return None
    finally:
        history.close()


def lines(run_dir):
    text = (run_dir / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def files(run_dir):
    names = ["history.jsonl", "checkpoints/topology-last.npz", "checkpoints/topology-best.npz"]
    return {name: (run_dir / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished")
    outcome = train(run_dir, cache)
    return run_dir, outcome


def test_paths_name_the_checkpoints_of_a_model(tmp_path):
    paths = loop.Paths.of(tmp_path, "default")
    assert paths.last == tmp_path / "checkpoints" / "default-last.npz"
    assert paths.best == tmp_path / "checkpoints" / "default-best.npz"


def test_run_evaluates_at_the_start_every_so_many_steps_and_at_the_end(finished):
    run_dir, outcome = finished
    found = lines(run_dir)
    assert [line["step"] for line in found] == [0, 2, 4, 6, 8, 9]
    assert [line["epoch"] for line in found][:3] == [0.0, 0.666667, 1.333333]
    assert {line["learning_rate"] for line in found} == {0.05}
    assert found[0]["train_loss"] is None
    assert found[1]["train_loss"] > 0
    assert 0 <= found[1]["train_top1"] <= 1
    assert {line["val_top5"] for line in found} == {None}  # of four classes
    assert outcome.num_steps == NUM_STEPS
    assert outcome.best_val_top1 == max(line["val_top1"] for line in found)


def test_run_learns(finished):
    found = lines(finished[0])
    assert found[-1]["val_loss"] < 0.7 * found[0]["val_loss"]


def test_run_keeps_the_best_and_the_last_checkpoint(finished, cache):
    run_dir, outcome = finished
    paths = loop.Paths.of(run_dir, "topology")
    tops = [line["val_top1"] for line in lines(run_dir)]
    for path, step in (
        (paths.best, lines(run_dir)[int(np.argmax(tops))]["step"]),
        (paths.last, NUM_STEPS),
    ):
        weights, state = checkpoints.load(path)
        assert state["step"] == step
        model = models.build(tiny(), cache, BRANCHES, "original", "random", 9)
        model.assign(weights)
        val = cache.split("val", BRANCHES, 0)
        judged = loop.evaluate(loop.compile_logits(model), val, 10)
        line = next(line for line in lines(run_dir) if line["step"] == step)
        assert judged.top1 == line["val_top1"]
        assert judged.loss == pytest.approx(line["val_loss"], rel=1e-6)
    assert checkpoints.load(paths.best)[1]["best_val_top1"] == outcome.best_val_top1


def test_first_step_is_plain_gradient_descent(cache, tmp_path):
    import tensorflow as tf

    train(tmp_path, cache, epochs=1, batch_size=NUM_TRAIN)
    model = models.build(tiny(), cache, BRANCHES, "original", "random", SETTINGS.seed)
    reader = cache.split("train", BRANCHES, 0)
    (batch,) = reader.epoch(NUM_TRAIN, SETTINGS.seed, 0)
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        logits = model.logits(batch.features, True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, logits)
        loss = tf.reduce_mean(losses)
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        variable.assign_sub(0.05 * gradient)
    found, _ = checkpoints.load(loop.Paths.of(tmp_path, "topology").last)
    for name, expected in model.weights().items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    assert lines(tmp_path)[1]["train_loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("stop_after", range(1, NUM_STEPS + 1))
def test_run_stopped_after_any_step_ends_with_the_same_bytes(finished, cache, tmp_path, stop_after):
    assert train(tmp_path, cache, stop_after) is None
    assert train(tmp_path, cache) == finished[1]
    assert files(tmp_path) == files(finished[0])


def test_run_stopped_again_and_again_ends_with_the_same_bytes(finished, cache, tmp_path):
    # Each start is stopped behind its third step and has saved the second.
    outcome = None
    for _ in range(20):
        outcome = outcome or train(tmp_path, cache, 3)
    assert outcome == finished[1]
    assert files(tmp_path) == files(finished[0])


def test_run_killed_between_history_and_checkpoint_drops_the_line(finished, cache, tmp_path):
    train(tmp_path, cache, 5)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write(json.dumps({"model": "topology", "step": 6}) + "\n" + '{"model": "topo')
    train(tmp_path, cache)
    assert files(tmp_path) == files(finished[0])


def test_run_finished_takes_no_step_and_keeps_the_history_of_the_next_model(
    finished, cache, tmp_path
):
    train(tmp_path, cache)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write(json.dumps({"model": "default", "step": 0}) + "\n")
    before = (tmp_path / "history.jsonl").read_bytes()
    assert train(tmp_path, cache, stop_after=1) == finished[1]
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_run_streamed_and_resident_end_with_the_same_bytes(finished, cache, tmp_path):
    assert cache.split("train", BRANCHES, 1 << 30).is_loaded
    train(tmp_path, cache, budget_bytes=1 << 30)
    assert files(tmp_path) == files(finished[0])


@pytest.mark.parametrize(
    ("dtype", "encoding", "format"),
    [("float16", "dense", "parquet"), ("uint8", "sparse", "tfrecord")],
)
def test_run_smaller_dtypes_streamed_and_resident_end_with_the_same_bytes(
    tmp_path, dtype, encoding, format
):
    kind = {"dtype": dtype, "encoding": encoding, "format": format}
    made = make_cache(tmp_path / "features" / "first", tiny(), SHAPE, **kind)
    for name, budget_bytes in (("streamed", 0), ("resident", 1 << 30)):
        train(tmp_path / name, made, budget_bytes=budget_bytes, epochs=1)
    assert files(tmp_path / "streamed") == files(tmp_path / "resident")


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_run_expanded_on_the_host_and_on_the_device_ends_with_the_same_bytes(tmp_path, dtype):
    made = make_cache(
        tmp_path / "features" / "first", tiny(), SHAPE, dtype=dtype, encoding="sparse"
    )
    for name, feed in (("host", feeds.dense), ("device", feeds.sparse)):
        train(tmp_path / name, made, feed_of=feed, epochs=1)
    assert files(tmp_path / "host") == files(tmp_path / "device")


def test_run_other_seed_ends_with_other_weights(finished, cache, tmp_path):
    train(tmp_path, cache, seed=2)
    assert files(tmp_path) != files(finished[0])


def test_run_without_progress_ends_after_the_patience(cache, tmp_path):
    outcome = train(tmp_path, cache, learning_rate=1e-30, epochs=20, patience=2, eval_every=0)
    assert outcome.num_steps == 6  # two epochs of three steps
    assert [line["step"] for line in lines(tmp_path)] == [0, 3, 6]


def test_run_huge_learning_rate_raises_and_keeps_the_last_good_checkpoint(cache, tmp_path):
    with pytest.raises(
        TrainingError, match=r"topology.*lower --learning-rate .*checkpoint is kept"
    ):
        train(tmp_path, cache, learning_rate=1e30)
    weights, state = checkpoints.load(loop.Paths.of(tmp_path, "topology").last)
    assert all(np.isfinite(value).all() for value in weights.values())
    assert state["step"] == lines(tmp_path)[-1]["step"]


def test_run_scores_not_finite_right_before_an_evaluation_raise(cache, tmp_path):
    # The loss in front of the step is good, the weights behind it are not.
    with pytest.raises(TrainingError, match="topology at step 1: a score is not a finite number"):
        train(tmp_path, cache, learning_rate=1e38, eval_every=1)
    assert [line["step"] for line in lines(tmp_path)] == [0]
    assert checkpoints.load(loop.Paths.of(tmp_path, "topology").last)[1]["step"] == 0


def test_evaluate_gives_loss_and_accuracies_of_the_scores(tmp_path):
    import tensorflow as tf

    classes = tuple("abcdefg")
    made = make_cache(tmp_path / "first", tiny(), (3,), classes=classes, rows={"val": 33})
    kernel = np.random.default_rng(4).normal(0, 1, (3, 7)).astype(np.float32)

    def logits_of(features):
        return tf.constant(features.mean(axis=1) @ kernel)

    reader = FeatureCache(tmp_path / "first").split("val", made.layout.branches, 0)
    found = loop.evaluate(logits_of, reader, 8)
    batches = list(reader.in_order(8))
    logits = np.concatenate([batch.features.mean(axis=1) @ kernel for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1)
    assert found.loss == pytest.approx(-np.log(shares[np.arange(33), labels]).mean(), rel=1e-5)
    assert found.top1 == np.mean(order[:, 0] == labels)
    assert found.top5 == np.mean((order[:, :5] == labels[:, np.newaxis]).any(axis=1))
