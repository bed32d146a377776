from __future__ import annotations

import numpy as np
import pytest
from keras_models import listed, model_of, small_model

from pipelines.errors import NodeError
from pipelines.networks import nodes

INCEPTION_SHAPES = {
    "mixed_0": (35, 35, 256),
    "mixed_1": (35, 35, 288),
    "mixed_2": (35, 35, 288),
    **{f"mixed_{number}": (17, 17, 768) for number in range(3, 8)},
    "mixed_8": (8, 8, 1280),
    "mixed_9": (8, 8, 2048),
    "mixed_10": (8, 8, 2048),
    "avg_pool": (2048,),
}
# Per family: builder and side of the input.
FAMILIES = {
    "densenet121": ("DenseNet121", 32),
    "vgg16": ("VGG16", 32),
    "xception": ("Xception", 71),
    "nasnet_mobile": ("NASNetMobile", 32),
    "convnext_tiny": ("ConvNeXtTiny", 32),
    "inception_resnet_v2": ("InceptionResNetV2", 75),
    "efficientnet_v2_b0": ("EfficientNetV2B0", 32),
    "resnet50": ("ResNet50", 32),
    "inception_v3": ("InceptionV3", 75),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """Name and network; all tests of one come together, so that it is built once."""
    return request.param, small_model(*FAMILIES[request.param])


def assert_cut_changes_nothing(name, model, num_cuts):
    """Hold tail(front(x)) against the network's own penultimate tensor and prediction."""
    import keras

    every = nodes.list_nodes(name, model)
    picked = [every[i] for i in np.linspace(0, len(every) - 1, num_cuts).astype(int)]
    side = model.input_shape[1]
    images = np.random.default_rng(3).uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    predicted = np.asarray(model(images))
    maps = nodes.front(model, picked)(images)
    kernel, bias = nodes.classifier(model)
    # The last node feeds the classifier; the check of the prediction below ties it to the network.
    wanted = np.asarray(maps[every[-1].name]).reshape(2, -1)
    for node in picked:
        tail = nodes.tail(model, node)
        assert tuple(maps[node.name].shape) == (2, *node.shape)
        assert tail.count_params() == node.tail_params, node.name
        features = np.asarray(tail(maps[node.name]))
        assert features.shape == (2, kernel.shape[0])
        assert np.abs(features - wanted).max() <= 1e-5 * np.abs(wanted).max(), node.name
    logits = keras.ops.softmax(wanted @ kernel + bias)
    np.testing.assert_allclose(logits, predicted, rtol=1e-3, atol=1e-5)


def test_list_nodes_of_inception_v3_gives_its_blocks_and_the_pool():
    found = listed("inception_v3")
    behind_stem = list(found)[list(found).index("mixed_0") :]
    assert {name: found[name].shape for name in behind_stem} == INCEPTION_SHAPES
    assert behind_stem == list(INCEPTION_SHAPES)


def test_list_nodes_of_resnet50_v2_cuts_at_block_outputs_and_first_preactivations():
    num_blocks = {2: 3, 3: 4, 4: 6, 5: 3}
    expected = []
    for stage, count in num_blocks.items():
        expected += [f"conv{stage}_block1_preact_bn", f"conv{stage}_block1_preact_relu"]
        expected += [f"conv{stage}_block{block}_out" for block in range(1, count + 1)]
    expected += ["post_bn", "post_relu", "avg_pool"]
    found = list(listed("resnet50_v2"))
    assert found[found.index("conv2_block1_preact_bn") :] == expected


def test_list_nodes_of_efficientnet_cuts_at_expand_activation_of_first_blocks_only():
    found = listed("efficientnet_b0")
    activations = [name for name in found if name.endswith("expand_activation")]
    assert activations == [f"block{stage}a_expand_activation" for stage in range(2, 8)]
    assert found["block7a_expand_activation"].shape == (7, 7, 1152)
    assert found["block6a_expand_activation"].shape == (14, 14, 672)


def test_list_nodes_leaves_out_input_and_classifier():
    names = set(listed("inception_v3"))
    assert not names & {"input_layer", "predictions"}


def test_node_of_mixed_9_has_its_sizes():
    node = listed("inception_v3")["mixed_9"]
    assert node.layer_name == "mixed9"
    assert node.num_values == 131_072
    assert node.size_bytes == 524_288
    assert node.block == "mixed_10"
    # Inception V3's last block, counted by hand from its convolutions (kernel values, and 3 batch
    # norm values a channel, as Keras leaves out the scale).
    kernels = [(1, 1, 2048, 320), (1, 1, 2048, 384), (1, 3, 384, 384), (3, 1, 384, 384)]
    kernels += [(1, 1, 2048, 448), (3, 3, 448, 384), (1, 3, 384, 384), (3, 1, 384, 384)]
    kernels += [(1, 1, 2048, 192)]
    params = [int(np.prod(kernel)) for kernel in kernels]
    assert node.tail_params == sum(params) + 3 * sum(kernel[-1] for kernel in kernels)
    # The whole network takes 5.71 G multiply-adds at 299 x 299.
    assert node.tail_macs_share == pytest.approx(64 * sum(params) / 5.713e9, rel=1e-3)


def test_node_of_pool_has_no_tail():
    node = listed("inception_v3")["avg_pool"]
    assert (node.tail_params, node.tail_macs_share, node.block) == (0, 0.0, "FC")


def test_node_names_are_the_same_for_a_second_network_in_the_process():
    import keras

    first = keras.applications.ConvNeXtTiny(weights=None)
    second = keras.applications.ConvNeXtTiny(weights=None)
    names = [node.name for node in nodes.list_nodes("convnext_tiny", second)]
    assert names == [node.name for node in nodes.list_nodes("convnext_tiny", first)]
    assert [n for n in names if n.startswith("add")][:3] == ["add", "add_1", "add_2"]
    assert second.operations[-1].name == "convnext_tiny_head_dense"
    assert any(node.name != node.layer_name for node in nodes.list_nodes("convnext_tiny", second))


@pytest.mark.parametrize("asked", ["mixed_9", "mixed9", "Mixed_9", "MIXED9", "mixed__9"])
def test_find_node_by_any_spelling_finds_the_one(asked):
    assert nodes.find_node("inception_v3", model_of("inception_v3"), asked).name == "mixed_9"


@pytest.mark.parametrize("asked", ["mixed9_0", "mixed_9_0", "mixed90", "Mixed9_0"])
def test_find_node_of_inner_concatenation_raises(asked):
    with pytest.raises(NodeError, match=rf"'{asked}' is a layer but no valid cut: an edge from"):
        nodes.find_node("inception_v3", model_of("inception_v3"), asked)


def test_find_node_of_unknown_name_lists_the_nearest():
    with pytest.raises(
        NodeError, match=r"'mixed_11' is no layer of the network; nearest.*mixed_1\b"
    ):
        nodes.find_node("inception_v3", model_of("inception_v3"), "mixed_11")


def test_find_node_inside_a_residual_block_names_the_edge():
    message = "'conv5_block2_1_relu' is a layer but no valid cut: an edge from 'conv5_block1_out'"
    with pytest.raises(NodeError, match=message):
        nodes.find_node("resnet50_v2", model_of("resnet50_v2"), "conv5_block2_1_relu")


@pytest.mark.parametrize(
    ("asked", "reason"), [("predictions", "decision layer"), ("input_layer", "image input")]
)
def test_find_node_of_either_end_raises(asked, reason):
    with pytest.raises(NodeError, match=reason):
        nodes.find_node("inception_v3", model_of("inception_v3"), asked)


def test_find_node_with_two_names_that_differ_by_underscores_asks_for_the_full_one():
    import keras

    inputs = keras.Input((4, 4, 3))
    first = keras.layers.ReLU(name="block1_1")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU(name="block_11")(first))
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    assert nodes.find_node("made_up", model, "block_11").name == "block_11"
    with pytest.raises(NodeError, match="'Block11' may mean block1_1, block_11; spell out"):
        nodes.find_node("made_up", model, "Block11")


def test_list_nodes_of_open_input_shape_raises():
    import keras

    with pytest.raises(NodeError, match="expected a fixed height and width"):
        nodes.list_nodes("x", keras.applications.MobileNetV3Small(weights=None))


def test_front_of_no_node_raises():
    with pytest.raises(NodeError, match="give at least one"):
        nodes.front(model_of("inception_v3"), [])


def test_front_of_foreign_node_raises():
    node = listed("inception_v3")["mixed_9"]
    with pytest.raises(NodeError, match="found no layer 'mixed9'"):
        nodes.front(model_of("resnet50_v2"), [node])


@pytest.mark.parametrize("builder", ["MobileNet", "MobileNetV3Small", "MobileNetV2"])
def test_tail_behind_front_equals_whole_network(builder):
    assert_cut_changes_nothing(builder, small_model(builder, 32), num_cuts=4)


@pytest.mark.slow
def test_tail_behind_front_equals_whole_network_in_every_family(family):
    assert_cut_changes_nothing(*family, num_cuts=3)


def test_tail_behind_front_of_lite0_equals_whole_network():
    assert_cut_changes_nothing("efficientnet_lite0", model_of("efficientnet_lite0"), num_cuts=3)


def images_for(model):
    side = model.input_shape[1]
    return np.random.default_rng(3).uniform(-1, 1, (2, side, side, 3)).astype(np.float32)


def assert_same(found, expected):
    found, expected = (np.asarray(maps).reshape(2, -1) for maps in (found, expected))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("builder", ["MobileNet", "MobileNetV3Small", "MobileNetV2"])
def test_between_behind_front_equals_front(builder):
    model = small_model(builder, 32)
    every = nodes.list_nodes(builder, model)
    start, *others = [every[i] for i in np.linspace(1, len(every) - 1, 4).astype(int)]
    whole = nodes.front(model, [start, *others])(images_for(model))
    found = nodes.between(model, start, others)(whole[start.name])
    assert list(found) == [node.name for node in others]
    for node in others:
        assert found[node.name].shape == (2, *node.shape)
        assert_same(found[node.name], whole[node.name])


@pytest.mark.parametrize("builder", ["MobileNet", "MobileNetV3Small", "MobileNetV2"])
def test_to_decision_from_anywhere_is_the_decision_layers_input(builder):
    model = small_model(builder, 32)
    every = nodes.list_nodes(builder, model)
    images, (kernel, bias) = images_for(model), nodes.classifier(model)
    whole = nodes.front(model, every)(images)
    for start in (None, every[1], every[len(every) // 2], every[-1]):
        inputs = images if start is None else whole[start.name]
        features = np.asarray(nodes.to_decision(model, start)(inputs)).reshape(2, -1)
        scores = features @ kernel + bias
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, model(images), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_between_and_to_decision_equal_whole_network_in_every_family(family):
    name, model = family
    every = nodes.list_nodes(name, model)
    start, behind = every[len(every) // 3], every[2 * len(every) // 3]
    whole = nodes.front(model, [start, behind])(images_for(model))
    found = nodes.between(model, start, [behind])(whole[start.name])[behind.name]
    assert_same(found, whole[behind.name])
    expected = nodes.to_decision(model)(images_for(model))
    for node in (start, behind):
        assert_same(nodes.to_decision(model, node)(whole[node.name]), expected)


def test_to_decision_of_the_last_node_gives_its_maps():
    model, node = model_of("inception_v3"), listed("inception_v3")["avg_pool"]
    features = np.random.default_rng(0).normal(size=(3, 2048)).astype(np.float32)
    np.testing.assert_array_equal(nodes.to_decision(model, node)(features), features)


@pytest.mark.parametrize("asked", ["mixed_8", "mixed_9"])
def test_between_node_that_lies_not_behind_raises_naming_both(asked):
    model, found = model_of("inception_v3"), listed("inception_v3")
    message = f"node {asked} does not lie behind mixed_9; extract it from the images, or from a"
    with pytest.raises(NodeError, match=message):
        nodes.between(model, found["mixed_9"], [found["mixed_10"], found[asked]])


def test_between_shares_the_networks_weights_and_takes_those_that_lie_between():
    model, found = model_of("inception_v3"), listed("inception_v3")
    part = nodes.between(model, found["mixed_8"], [found["mixed_10"]])
    inside = found["mixed_8"].tail_params - found["mixed_10"].tail_params
    assert part.count_params() == inside > 0
    assert {id(w) for w in part.weights} <= {id(w) for w in model.weights}


def test_tail_trained_leaves_the_network_alone():
    model = small_model("MobileNetV2", 32)
    before = [w.copy() for w in model.get_weights()]
    tail = nodes.tail(model, nodes.find_node("mobilenet_v2", model, "block_15_add"))
    tail.set_weights([w + 1 for w in tail.get_weights()])
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_tail_layers_bear_canonical_names():
    """What Keras counts through the process must not end up in a checkpoint."""
    import keras

    small_model("InceptionV3", 75)  # the next one's layers start where this one's end
    model = keras.applications.InceptionV3(weights=None, input_shape=(75, 75, 3))
    tail = nodes.tail(model, nodes.find_node("inception_v3", model, "mixed_9"))
    named = {layer.name for layer in tail.layers if layer.weights}
    # Keras gives the last of Inception V3's 94 convolutions the number 93 in a fresh process.
    assert named == {
        f"{kind}_{number}" for kind in ("conv2d", "batch_normalization") for number in range(85, 94)
    }


def test_tail_of_the_last_node_has_no_weights():
    model = model_of("resnet50_v2")
    tail = nodes.tail(model, listed("resnet50_v2")["avg_pool"])
    features = np.random.default_rng(0).normal(size=(3, 2048)).astype(np.float32)
    assert tail.weights == []
    np.testing.assert_array_equal(tail(features), features)


def test_classifier_of_dense_layer_is_its_kernel():
    model = model_of("inception_v3")
    kernel, bias = nodes.classifier(model)
    expected = model.get_layer("predictions").get_weights()
    np.testing.assert_array_equal(kernel, expected[0])
    np.testing.assert_array_equal(bias, expected[1])
    assert kernel.dtype == bias.dtype == np.float32


def test_classifier_of_wider_convolution_raises():
    import keras

    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3, name="last")(keras.layers.ReLU()(inputs)))
    with pytest.raises(
        NodeError, match=r"'last' is a Conv2D with a kernel of shape \(3, 3, 3, 2\)"
    ):
        nodes.classifier(model)


def test_tail_of_convolution_over_a_map_raises():
    import keras

    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="last")(keras.layers.ReLU()(inputs)))
    with pytest.raises(NodeError, match=r"'last': found an input of shape \(4, 4, 3\)"):
        nodes.tail(model, nodes.list_nodes("made_up", model)[0])


def test_list_nodes_of_network_without_weights_raises():
    import keras

    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.ReLU()(inputs))
    with pytest.raises(NodeError, match="no layer with weights"):
        nodes.list_nodes("made_up", model)
