from __future__ import annotations

import numpy as np
import pytest
from caches import lite0, read_split, tiny

from pipelines.errors import TrainingError
from pipelines.networks import nodes
from pipelines.networks.topology import Design, Topology
from pipelines.storage.cache import FeatureCache

ELEVEN = ("original", *(f"q{quality:03d}" for quality in range(10, 101, 10)))
NUM_CLASSES = 4


def node_of():
    return nodes.find_node("tiny", tiny().model, "first")


def build(branches=ELEVEN, gradients="original", seed=1, **design):
    chosen = Design(tuple(branches), gradients=gradients, **design)
    return Topology(tiny(), node_of(), chosen, NUM_CLASSES, seed)


def features_of(branches=ELEVEN, num_images=5):
    shape = (num_images, len(branches), *node_of().shape)
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def tail_outputs(model, features):
    """Run each branch through the tail by a call of its own: a list of (images, D)."""
    return [model(features[:, i], training=False) for i in range(features.shape[1])]


def gradients_of(topology, features, labels):
    """Give the gradient of the loss by the names of the trainable weights."""
    import tensorflow as tf

    variables = topology.trainable_variables
    with tf.GradientTape() as tape:
        logits = topology.logits(features, True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    found = tape.gradient(loss, [variable.value for variable in variables])
    return [np.array(gradient) for gradient in found]


def gradients_by_hand(topology, features, labels, walked):
    """Compute head and tail gradients with every branch but `walked` taken as a constant."""
    import tensorflow as tf

    tail = nodes.tail(tiny().model, node_of())
    weights = topology.weights()
    kernel, bias = (tf.Variable(weights[f"head/{name}"]) for name in ("kernel", "bias"))
    constants = [output.numpy() for output in tail_outputs(tail, features)]
    with tf.GradientTape() as tape:
        parts = [tf.constant(constant) for constant in constants]
        for i in walked:
            parts[i] = tail(features[:, i], training=False)
        logits = tf.matmul(tf.concat(parts, axis=1), kernel) + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    sources = [kernel, bias, *(v.value for v in tail.trainable_variables)]
    return [np.array(gradient) for gradient in tape.gradient(loss, sources)]


def assert_all_close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("is_training", [False, True])
def test_logits_folded_equal_eleven_separate_calls(is_training):
    topology, features = build(), features_of()
    tail = nodes.tail(tiny().model, node_of())
    joined = np.concatenate(tail_outputs(tail, features), axis=1)
    weights = topology.weights()
    expected = joined @ weights["head/kernel"] + weights["head/bias"]
    found = topology.logits(features, is_training).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_logits_take_float16_features_as_their_values():
    topology, features = build(), features_of().astype(np.float16)
    expected = topology.logits(features.astype(np.float32), False).numpy()
    np.testing.assert_array_equal(topology.logits(features, False).numpy(), expected)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_gradients_original_walk_backward_through_that_branch_alone(position):
    branches = ["q010", "q020"]
    branches.insert(position, "original")
    topology, features = build(branches), features_of(branches)
    labels = np.array([0, 1, 2, 3, 0], np.int32)
    found = gradients_of(topology, features, labels)
    assert_all_close(found, gradients_by_hand(topology, features, labels, [position]))
    others = gradients_by_hand(topology, features, labels, [(position + 1) % 3])
    assert np.abs(found[2] - others[2]).max() > 0.01 * np.abs(found[2]).max()


def test_gradients_all_walk_backward_through_every_branch():
    branches = ("original", "q010", "q020")
    features, labels = features_of(branches), np.array([0, 1, 2, 3, 0], np.int32)
    every = build(branches, "all")
    found = gradients_of(every, features, labels)
    assert_all_close(found, gradients_by_hand(every, features, labels, [0, 1, 2]))
    original = gradients_of(build(branches, "original"), features, labels)
    assert np.abs(found[2] - original[2]).max() > 0.01 * np.abs(original[2]).max()


def test_gradients_original_of_the_head_cover_all_branches():
    features, labels = features_of(), np.array([0, 1, 2, 3, 0], np.int32)
    topology = build()
    kernel = gradients_of(topology, features, labels)[0]
    per_branch = np.abs(kernel).reshape(len(ELEVEN), topology.num_features, -1).max(axis=(1, 2))
    assert (per_branch > 0).all()


def test_topology_gradients_original_without_original_raises():
    with pytest.raises(TrainingError, match="lack original; add it or use --gradients all"):
        build(("q010", "q020"), "original")


def test_topology_gradients_all_needs_no_original():
    branches = ("q010", "q020")
    logits = build(branches, "all").logits(features_of(branches), True)
    assert logits.shape == (5, NUM_CLASSES)


def test_topology_statistics_of_batch_norm_are_not_trained():
    names = [name for name in build().weights() if name.startswith("tail/second_bn")]
    assert len(names) == 4
    assert len(build().trainable_variables) == len(build().weights()) - 2


def test_weights_are_those_of_the_backbone_under_their_layers_names():
    weights = build().weights()
    model = tiny().model
    expected = {
        f"tail/{name}/{i}": value
        for name in ("second", "second_bn")
        for i, value in enumerate(model.get_layer(name).get_weights())
    }
    assert set(weights) == {"head/kernel", "head/bias", *expected}
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)


def test_weights_changed_leave_the_backbone_as_it_was():
    topology = build()
    before = [value.copy() for value in tiny().model.get_weights()]
    topology.assign({name: value + 1 for name, value in topology.weights().items()})
    for value, expected in zip(tiny().model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_weight_names_of_two_builds_in_one_process_are_the_same():
    backbone = lite0()
    node = nodes.find_node(backbone.name, backbone.model, "block7a_expand_activation")
    first, second = (
        Topology(backbone, node, Design(("original",)), 3, 0).weights() for _ in range(2)
    )
    assert list(first) == list(second)
    np.testing.assert_array_equal(
        first["tail/top_conv/0"], backbone.model.get_layer("top_conv").get_weights()[0]
    )
    assert "tail/block7a_dwconv/0" in first


def test_head_random_follows_the_seed_within_glorots_limit():
    kernels = [build(seed=seed).weights()["head/kernel"] for seed in (3, 3, 4)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).mean() > 0.99
    limit = np.sqrt(6 / (7 * len(ELEVEN) + NUM_CLASSES))
    assert kernels[0].shape == (7 * len(ELEVEN), NUM_CLASSES)
    assert 0.9 * limit < np.abs(kernels[0]).max() <= limit
    assert abs(kernels[0].mean()) < 0.1 * limit
    assert not build().weights()["head/bias"].any()


def test_assign_takes_what_is_known_and_tells_its_names():
    topology = build(("original",))
    kernel = np.full((7, NUM_CLASSES), 2, np.float32)
    taken = topology.assign({"head/kernel": kernel, "tail/unknown/0": np.zeros(3)})
    assert taken == ["head/kernel"]
    np.testing.assert_array_equal(topology.weights()["head/kernel"], kernel)


def test_assign_other_shape_raises_naming_both_and_takes_nothing():
    topology = build(("original", "q010"))
    before = topology.weights()
    weights = {name: value + 1 for name, value in before.items()}
    weights["head/kernel"] = np.zeros((21, NUM_CLASSES), np.float32)
    with pytest.raises(TrainingError, match=r"head/kernel have shape \(21, 4\), .*needs \(14, 4\)"):
        topology.assign(weights)
    for name, value in topology.weights().items():
        np.testing.assert_array_equal(value, before[name])


def test_pretrained_head_gives_the_default_models_logits():
    branches = ("q010", "original", "q020")
    kernel, bias = nodes.classifier(tiny().model)
    topology = Topology(tiny(), node_of(), Design(branches), 5, 1)
    topology.head.start_pretrained(kernel, bias)
    features = features_of(branches)
    tail = nodes.tail(tiny().model, node_of())
    expected = tail(features[:, 1], training=False).numpy() @ kernel + bias
    found = topology.logits(features, False).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("node_name", ["avg_pool", "block7a_expand_activation"])
def test_cut_of_a_real_network_changes_nothing(extracted, node_name):
    import keras
    from test_extract import inputs_of  # the images as the network gets them

    backbone = lite0()
    cache = FeatureCache(extracted.path / "features" / node_name)
    features, _, ids = read_split(cache, "train")
    node = nodes.find_node(backbone.name, backbone.model, node_name)
    kernel, bias = nodes.classifier(backbone.model)
    joined = Topology(backbone, node, Design(cache.layout.branches), 1000, 0)
    joined.head.start_pretrained(kernel, bias)
    alone = Topology(backbone, node, Design(("original",)), 1000, 0)
    alone.head.start_pretrained(kernel, bias)
    pooled = keras.Model(backbone.model.inputs[0], backbone.model.get_layer("avg_pool").output)
    images = inputs_of(extracted.path, "train", "original", ids)
    whole = np.concatenate(
        [pooled.predict_on_batch(images[i : i + 9]) @ kernel + bias for i in range(0, len(ids), 9)]
    )
    for found in (
        alone.logits(features[:, :1], False).numpy(),
        joined.logits(features, False).numpy(),
    ):
        assert np.abs(found - whole).max() <= 1e-5 * np.abs(whole).max()
        np.testing.assert_array_equal(found.argmax(axis=1), whole.argmax(axis=1))
    probabilities = backbone.model.predict_on_batch(images[:9])
    np.testing.assert_allclose(keras.ops.softmax(whole[:9]), probabilities, atol=1e-5)
