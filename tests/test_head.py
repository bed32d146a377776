"""The ways to join branches in front of the decision layer, each against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.networks.head import FUSIONS, Head, Joined, needs_original

BRANCHES = ("q010", "original", "q020", "q030")
NUM_FEATURES, NUM_CLASSES = 6, 3


def head_of(fusion, branches=BRANCHES, seed=1):
    return Head(Joined(branches, NUM_FEATURES, fusion), NUM_CLASSES, seed)


def features_of(num_branches=4):
    shape = (5, num_branches, NUM_FEATURES)
    return np.random.default_rng(3).normal(0, 2, shape).astype(np.float32)


def softmax(scores):
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def give_weights(head):
    """Set every weight to something that is not its start; returns them."""
    rng = np.random.default_rng(4)
    values = {name: rng.normal(0, 1, tuple(v.shape)) for name, v in head.variables.items()}
    for name, value in values.items():
        head.variables[name].assign(value)
    return values


def joined_by_hand(fusion, features, weights):
    if fusion == "concat":
        return np.concatenate(list(features.transpose(1, 0, 2)), axis=1)
    if fusion == "mean":
        return features.mean(axis=1)
    if fusion == "original_mean":
        return np.concatenate([features[:, 1], features.mean(axis=1)], axis=1)
    scores = np.tile(weights["branch_scores"], (len(features), 1))
    if fusion == "gated":
        scores = scores + features @ weights["gate"] / np.sqrt(NUM_FEATURES)
    return (features * softmax(scores)[:, :, np.newaxis]).sum(axis=1)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_logits_are_those_of_the_formula(fusion):
    head, features = head_of(fusion), features_of()
    weights = give_weights(head)
    joined = joined_by_hand(fusion, features, weights)
    assert joined.shape[1] == head.joined.width == weights["kernel"].shape[0]
    expected = joined @ weights["kernel"] + weights["bias"]
    found = head.logits(features).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", ["weighted", "gated"])
def test_weights_of_branches_start_uniform(fusion):
    features = features_of()
    found = head_of(fusion).fused(features).numpy()
    np.testing.assert_allclose(found, features.mean(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_weight_is_learnt_from_the_first_step(fusion):
    import tensorflow as tf

    head, labels = head_of(fusion), np.array([0, 1, 2, 0, 1])
    sources = [variable.value for variable in head.variables.values()]
    with tf.GradientTape() as tape:
        logits = head.logits(features_of())
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    for name, gradient in zip(head.variables, tape.gradient(loss, sources), strict=True):
        assert np.abs(np.array(gradient)).max() > 1e-4, name


def pretrained(fusion, branches=BRANCHES):
    rng = np.random.default_rng(5)
    kernel = rng.normal(0, 1, (NUM_FEATURES, NUM_CLASSES)).astype(np.float32)
    bias = rng.normal(0, 1, NUM_CLASSES).astype(np.float32)
    head = head_of(fusion, branches)
    head.start_pretrained(kernel, bias)
    return head, lambda features: features @ kernel + bias


@pytest.mark.parametrize("fusion", ["concat", "original_mean"])
def test_start_pretrained_gives_the_default_networks_scores(fusion):
    head, default = pretrained(fusion)
    features = features_of()
    expected = default(features[:, 1])
    np.testing.assert_allclose(head.logits(features), expected, rtol=1e-5, atol=1e-5)
    assert not head.variables["kernel"].numpy().all()  # zeros elsewhere


@pytest.mark.parametrize("fusion", ["mean", "weighted", "gated"])
def test_start_pretrained_of_one_kernel_gives_the_average_of_the_default_networks_scores(fusion):
    head, default = pretrained(fusion)
    features = features_of()
    expected = default(features).mean(axis=1)
    np.testing.assert_allclose(head.logits(features), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_start_pretrained_on_the_original_alone_gives_the_default_networks_scores(fusion):
    head, default = pretrained(fusion, ("original",))
    features = features_of(num_branches=1)
    expected = default(features[:, 0])
    np.testing.assert_allclose(head.logits(features), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_kernel_starts_at_random_within_glorots_limit_of_its_own_width(fusion):
    kernels = [head_of(fusion, seed=seed).variables["kernel"].numpy() for seed in (3, 3, 4)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).all()
    limit = np.sqrt(6 / (kernels[0].shape[0] + NUM_CLASSES))
    assert 0.7 * limit < np.abs(kernels[0]).max() <= limit


def test_head_of_averages_is_eleven_times_smaller():
    eleven = ("original", *(f"q{quality:03d}" for quality in range(10, 101, 10)))
    sizes = {
        fusion: head_of(fusion, eleven).variables["kernel"].shape[0] / NUM_FEATURES
        for fusion in FUSIONS
    }
    assert sizes == {"concat": 11, "mean": 1, "original_mean": 2, "weighted": 1, "gated": 1}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_needs_original_only_where_it_stands_beside_the_average(fusion):
    assert needs_original(fusion, ("q010",)) == (fusion == "original_mean")
    assert not needs_original(fusion, BRANCHES)


def test_logits_in_a_smaller_dtype_are_close_and_float32():
    head, features = head_of("concat"), features_of()
    exact = head.logits(features).numpy()
    found = head.logits(features, "bfloat16").numpy()
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
