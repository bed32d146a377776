"""Copies of the original in place of other versions: the control of a wider head."""

from __future__ import annotations

import numpy as np
import pytest
from caches import lite0, make_cache, tiny

from pipelines import run_folder, runs, train_tail
from pipelines.config import TrainTailConfig
from pipelines.errors import TrainingError
from pipelines.networks import nodes, portable
from pipelines.networks.head import FUSIONS
from pipelines.networks.topology import Design, Topology
from pipelines.progress import Silent

NAMES = ("original", "q010", "q020", "q030")
LABELS = np.array([0, 1, 2, 3, 0], np.int32)


def build(design, node="first"):
    return Topology(tiny(), nodes.find_node("tiny", tiny().model, node), design, 4, seed=1)


def both(**settings):
    """Give a topology of four copies, and one of four branches with the same weights."""
    copies = build(Design(("original",), copies=4, **settings))
    branches = build(Design(NAMES, **settings))
    rng = np.random.default_rng(2)
    values = {name: rng.uniform(0.1, 0.9, v.shape) for name, v in copies.weights().items()}
    for topology in (copies, branches):
        assert topology.assign(values) == list(values)
    return copies, branches


def one_original():
    shape = nodes.find_node("tiny", tiny().model, "first").shape
    return np.random.default_rng(7).uniform(-1, 1, (5, 1, *shape)).astype(np.float32)


def gradients_of(topology, features):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            LABELS, topology.logits(features, True)
        )
    sources = [variable.value for variable in topology.trainable_variables]
    return [np.array(gradient) for gradient in tape.gradient(losses, sources)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_copies_score_like_branches_that_all_see_the_original(fusion):
    copies, branches = both(fusion=fusion)
    found = copies.logits(one_original(), False).numpy()
    expected = branches.logits(np.repeat(one_original(), 4, axis=1), False).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert copies.input_shape[0] == 1  # the tail runs once


@pytest.mark.parametrize("batch_norm", ["stored", "batch"])
@pytest.mark.parametrize("gradients", ["original", "all"])
def test_copies_learn_like_branches_that_all_see_the_original(gradients, batch_norm):
    copies, branches = both(gradients=gradients, batch_norm=batch_norm)
    found = gradients_of(copies, one_original())
    expected = gradients_of(branches, np.repeat(one_original(), 4, axis=1))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_copies_as_a_keras_model_give_the_topologys_numbers(fusion):
    topology = build(Design(("original",), fusion, "all", copies=4))
    node = nodes.find_node("tiny", tiny().model, "first")
    images = np.random.default_rng(3).uniform(-1, 1, (5, 1, 8, 8, 3)).astype(np.float32)
    maps = nodes.front(tiny().model, [node])(images[:, 0], training=False)[node.name]
    scores = topology.logits(maps.numpy()[:, np.newaxis], False).numpy()
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    found = portable.build(tiny().model, node, topology)(images).numpy()
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


def test_copies_of_more_than_the_original_are_refused():
    with pytest.raises(TrainingError, match="branches are original,q010; give --branches original"):
        Design(("original", "q010"), copies=11).check()


def test_train_copies_makes_a_run_that_says_so(tmp_path):
    features_dir = tmp_path / "features"
    make_cache(features_dir / "avg_pool", lite0(), (1280,))
    settings = {"batch_size": 10, "epochs": 1, "branches": ("original",), "copies": 3}
    train_tail.run(tmp_path, features_dir, TrainTailConfig(**settings), 0, Silent())
    run = runs.read(tmp_path, "avg_pool")
    assert (run.branches, run.copies) == (("original",), 3)
    assert run.fingerprint["copies"] == 3


def test_fingerprint_of_a_run_without_copies_is_that_of_before_the_setting(tmp_path):
    cache = make_cache(tmp_path / "features" / "avg_pool", tiny(), (7,))
    config = TrainTailConfig()
    run = run_folder.describe(tmp_path, tmp_path / "features", cache, "avg_pool", config, 0)
    assert "copies" not in run.fingerprint
    assert run.copies == 0
