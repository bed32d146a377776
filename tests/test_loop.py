"""The trainer on a tiny network and a made-up cache; whole runs are in test_train_tail.

How it is ended and goes on is in test_loop_ended.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from caches import BRANCHES, make_cache, tiny
from fits import NUM_STEPS, NUM_TRAIN, SHAPE, Fit, train, trainer
from processes import tree

from pipelines.errors import TrainingError
from pipelines.execution.replicas import Replicas
from pipelines.networks import models
from pipelines.networks.topology import Design
from pipelines.progress import Silent
from pipelines.training import checkpoints, judging
from pipelines.training.checkpoints import Store
from pipelines.training.feeds import Feed
from pipelines.training.schedule import Rate
from pipelines.training.step import Descent


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("features") / "first", tiny(), SHAPE, noise=3.0)


def lines(run_dir):
    text = (run_dir / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def files(run_dir):
    """Everything that a training leaves, but what a clock wrote."""
    found = tree(run_dir, ("timings.jsonl",))
    return {name: data for name, data in found.items() if not name.startswith("tensorboard")}


def numbers(outcome):
    return outcome.num_steps, outcome.best_val_top1


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished")
    outcome = train(run_dir, cache)
    return run_dir, outcome


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


def test_run_outcome_tells_rate_and_wait_of_the_steps(finished):
    assert finished[1].images_per_s > 0
    assert 0 <= finished[1].data_wait <= 1


def test_run_of_a_single_step_has_no_rate(cache, tmp_path):
    outcome = train(tmp_path, cache, epochs=1, batch_size=44)
    assert (outcome.num_steps, outcome.images_per_s, outcome.data_wait) == (1, None, None)


def test_run_notes_the_time_of_each_evaluation_beside_the_history(finished):
    text = (finished[0] / "timings.jsonl").read_text(encoding="utf-8")
    noted = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in noted] == [line["step"] for line in lines(finished[0])]
    for line in noted:
        assert line["judge_s"] > 0
        assert line["save_s"] > 0
        assert line["num_devices"] == 1


def test_run_keeps_the_best_and_the_last_two_checkpoints(finished, cache):
    run_dir, outcome = finished
    store, found = Store.of(run_dir, "topology"), lines(run_dir)
    tops = [line["val_top1"] for line in found]
    best = found[int(np.argmax(tops))]
    kept = store.kept()
    assert (kept.latest, kept.previous, kept.best_top1) == (NUM_STEPS, 8, best["step"])
    assert kept.best_top5 is None  # of four classes
    weights, state = checkpoints.load(store.best)
    assert state["step"] == best["step"]
    assert state["plateau"]["best"] == outcome.best_val_top1
    model = models.build(tiny(), cache, Design(BRANCHES), 9)
    model.assign(weights)
    (val,) = cache.split("val", BRANCHES, 0).in_order(20)
    hits = model.logits(val.features, False).numpy().argmax(axis=1) == val.labels
    assert hits.mean() == pytest.approx(best["val_top1"])


def test_run_keeps_the_best_by_top5_of_more_classes(tmp_path):
    classes = tuple("abcdefgh")
    made = make_cache(tmp_path / "first", tiny(), SHAPE, classes=classes, noise=3.0)
    train(tmp_path / "run", made, rate=Rate(0.02))
    found = lines(tmp_path / "run")
    steps = {
        key: found[int(np.argmax([line[key] for line in found]))]["step"]
        for key in ("val_top1", "val_top5")
    }
    kept = Store.of(tmp_path / "run", "topology").kept()
    assert (kept.best_top1, kept.best_top5) == (steps["val_top1"], steps["val_top5"])
    assert 0 < found[0]["val_top5"] <= 1


def gradients(cache, fit):
    """Give weights and gradients of the first batch, by name, and its loss, by hand."""
    import tensorflow as tf

    model = models.build(tiny(), cache, fit.design, fit.seed)
    (batch,) = cache.split("train", BRANCHES, 0).epoch(NUM_TRAIN, fit.seed, 0)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        logits = model.logits(batch.features, True)
        target = tf.one_hot(batch.labels, logits.shape[1])
        smoothed = target * (1 - fit.descent.label_smoothing)
        smoothed += fit.descent.label_smoothing / logits.shape[1]
        loss = tf.reduce_mean(-tf.reduce_sum(smoothed * tf.nn.log_softmax(logits), axis=1))
    found = tape.gradient(loss, [variable.value for variable in variables])
    return model, variables, [np.array(gradient) for gradient in found], float(loss)


@pytest.mark.parametrize(
    "descent",
    [Descent(), Descent(label_smoothing=0.2), Descent(weight_decay=0.3)],
    ids=["plain", "smoothed", "decayed"],
)
def test_first_step_is_gradient_descent(cache, tmp_path, descent):
    fit = Fit(descent=descent, epochs=1, batch_size=NUM_TRAIN)
    train(tmp_path, cache, fit)
    model, variables, found, loss = gradients(cache, fit)
    for variable, gradient in zip(variables, found, strict=True):
        decay = descent.weight_decay if len(variable.shape) > 1 else 0.0
        variable.assign(variable.numpy() * (1 - 0.05 * decay) - 0.05 * gradient)
    arrays, _ = checkpoints.load(Store.of(tmp_path, "topology").path(1))
    for name, expected in model.weights().items():
        np.testing.assert_allclose(arrays[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    assert lines(tmp_path)[1]["train_loss"] == pytest.approx(loss, rel=1e-5)


def test_momentum_carries_the_first_step_into_the_second(cache, tmp_path):
    weights = []
    for momentum in (0.0, 0.9):
        fit = Fit(descent=Descent(momentum), epochs=2, batch_size=NUM_TRAIN, eval_every=1)
        train(tmp_path / str(momentum), cache, fit)
        store = Store.of(tmp_path / str(momentum), "topology")
        weights.append([checkpoints.load(store.path(step))[0]["head/kernel"] for step in (1, 2)])
    start = models.build(tiny(), cache, Design(BRANCHES), 1).weights()["head/kernel"]
    (plain_1, plain_2), (first, second) = weights
    np.testing.assert_array_equal(first, plain_1)
    expected = plain_2 + 0.9 * (plain_1 - start)
    np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-6)


def test_rate_is_that_of_each_step(cache, tmp_path):
    rate = Rate(0.04, "cosine", warmup_steps=2, num_steps=NUM_STEPS)
    train(tmp_path, cache, rate=rate, eval_every=1)
    expected = [0.02, *(rate.at(step) for step in range(NUM_STEPS))]
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx(expected)


def test_plateau_cuts_the_rate_of_the_steps_behind_it(cache, tmp_path):
    fit = Fit(rate=Rate(1e-30), epochs=20, patience_steps=3, cuts=1, eval_every=3)
    outcome = train(tmp_path, cache, fit)
    found = [(line["step"], line["learning_rate"]) for line in lines(tmp_path)]
    assert found == [(0, 1e-30), (3, 1e-30), (6, pytest.approx(1e-31))]
    assert outcome.num_steps == 6


def test_run_without_progress_ends_after_the_patience(cache, tmp_path):
    fit = Fit(rate=Rate(1e-30), epochs=20, patience_steps=6, eval_every=3)
    assert train(tmp_path, cache, fit).num_steps == 6
    assert [line["step"] for line in lines(tmp_path)] == [0, 3, 6]


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
    for name, is_sparse in (("host", False), ("device", True)):
        train(tmp_path / name, made, is_sparse=is_sparse, epochs=1)
    assert files(tmp_path / "host") == files(tmp_path / "device")


def test_run_other_seed_ends_with_other_weights(finished, cache, tmp_path):
    train(tmp_path, cache, seed=2)
    assert files(tmp_path) != files(finished[0])


def test_run_batch_statistics_move_those_that_are_stored(finished, cache, tmp_path):
    statistics = {}
    for name in ("stored", "batch"):
        train(tmp_path / name, cache, design=Design(BRANCHES, batch_norm=name), epochs=1)
        weights, _ = checkpoints.load(Store.of(tmp_path / name, "topology").path(3))
        statistics[name] = [weights[f"tail/second_bn/{i}"] for i in (2, 3)]
    layer = tiny().model.get_layer("second_bn")
    for stored, moved, start in zip(
        statistics["stored"], statistics["batch"], layer.get_weights()[2:], strict=True
    ):
        np.testing.assert_array_equal(stored, start)
        assert (moved != start).all()


def test_models_side_by_side_end_with_the_bytes_of_each_alone(cache, tmp_path):
    fits = [
        Fit(),
        Fit(rate=Rate(0.02), design=Design(BRANCHES, "mean")),
        Fit(rate=Rate(1e-30), patience_steps=2),  # ends long before the others
    ]
    alone = [tmp_path / f"alone{i}" for i in range(len(fits))]
    together = [tmp_path / f"together{i}" for i in range(len(fits))]
    expected = [numbers(train(*pair)) for pair in zip(alone, [cache] * 3, fits, strict=True)]
    made, trainees = trainer(together, cache, fits)
    found = [numbers(outcome) for outcome in made.run("train", Silent())]
    for one in trainees:
        one.records.history.close()
    assert found == expected
    assert len({steps for steps, _ in found}) == 2
    assert [files(path) for path in together] == [files(path) for path in alone]


def test_models_side_by_side_go_on_where_each_was(cache, tmp_path):
    fits = [Fit(), Fit(rate=Rate(0.02))]
    alone, together = ([tmp_path / f"{kind}{i}" for i in range(2)] for kind in ("a", "t"))
    for path, fit in zip(alone, fits, strict=True):
        train(path, cache, fit)
    train(together[0], cache, fits[0], kill_after=3)  # has saved step 2
    train(together[1], cache, fits[1], kill_after=7)  # has saved step 6
    made, trainees = trainer(together, cache, fits)
    made.run("train", Silent())
    for one in trainees:
        one.records.history.close()
    assert [files(path) for path in together] == [files(path) for path in alone]


def test_run_with_a_huge_learning_rate_ends_and_names_step_and_images(cache, tmp_path):
    diverged = train(tmp_path, cache, rate=Rate(1e30)).diverged
    said = r"topology: the loss is nan at step (\d), on images train/0\d\d\d, .* and 1\d more"
    assert int(re.fullmatch(said, str(diverged))[1]) == diverged.step
    weights, state = checkpoints.load(Store.of(tmp_path, "topology").path(0))
    assert all(np.isfinite(value).all() for value in weights.values())
    assert state["step"] == lines(tmp_path)[-1]["step"] == 0


def test_run_whose_scores_are_not_finite_at_an_evaluation_ends(cache, tmp_path):
    # The loss in front of the step is good, the weights behind it are not.
    diverged = train(tmp_path, cache, rate=Rate(1e38), eval_every=1).diverged
    assert str(diverged) == "topology: a score is not a finite number at step 1"
    assert [line["step"] for line in lines(tmp_path)] == [0]
    assert Store.of(tmp_path, "topology").kept().latest == 0


@pytest.mark.parametrize("eval_every", [1, 2])
def test_run_goes_on_without_a_model_that_diverges(cache, tmp_path, eval_every):
    good, bad = Fit(eval_every=eval_every), Fit(rate=Rate(1e38), eval_every=eval_every)
    train(tmp_path / "alone", cache, good)
    folders = [tmp_path / name for name in ("bad", "good", "worse")]
    made, trainees = trainer(folders, cache, [bad, good, bad])
    outcomes = made.run("train", Silent())
    for one in trainees:
        one.records.history.close()
    assert [outcome.diverged is None for outcome in outcomes] == [False, True, False]
    assert files(tmp_path / "good") == files(tmp_path / "alone")
    for name in ("bad", "worse"):
        weights, _ = checkpoints.load(Store.of(tmp_path / name, "topology").best)
        assert all(np.isfinite(value).all() for value in weights.values())


def test_run_label_outside_the_classes_raises_naming_its_image(tmp_path):
    made = make_cache(tmp_path / "first", tiny(), SHAPE, labels_of={"train/0003": 4})
    with pytest.raises(TrainingError, match=r"image train/0003 has label 4, of 4 classes; run"):
        train(tmp_path / "run", made)
    assert not Store.of(tmp_path / "run", "topology").path(2).exists()


def test_evaluate_gives_loss_and_accuracies_of_the_scores(tmp_path):
    classes = tuple("abcdefg")
    made = make_cache(tmp_path / "first", tiny(), (3,), classes=classes, rows={"val": 33})
    kernel = np.random.default_rng(4).normal(0, 1, (3, 7)).astype(np.float32)

    def scores_of(fed):
        return fed.parts[0][0].mean(axis=1) @ kernel

    reader = made.split("val", made.layout.branches, 0)
    (found,) = judging.evaluate([scores_of], Feed(reader, 7), 8, Replicas())
    batches = list(reader.in_order(8))
    logits = np.concatenate([batch.features.mean(axis=1) @ kernel for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1)
    assert found.loss == pytest.approx(-np.log(shares[np.arange(33), labels]).mean(), rel=1e-5)
    assert found.top1 == pytest.approx(np.mean(order[:, 0] == labels))
    assert found.top5 == pytest.approx(np.mean((order[:, :5] == labels[:, np.newaxis]).any(axis=1)))
