from __future__ import annotations

import pytest
from keras_models import listed, model_of, small_model

from pipelines.errors import NodeError
from pipelines.networks import blocks


def test_blocks_of_inception_v3_are_those_of_the_thesis():
    found = blocks.list_blocks("inception_v3", model_of("inception_v3"))
    mixed = [f"mixed_{number}" for number in range(11)]
    assert [block.name for block in found] == [*mixed, "FC"]
    assert [block.input_node for block in found] == [None, *mixed[:-1], "avg_pool"]
    assert [block.output_node for block in found] == [*mixed, None]


def test_blocks_of_resnet50_v2_start_at_preactivations():
    found = blocks.list_blocks("resnet50_v2", model_of("resnet50_v2"))
    assert [(block.name, block.input_node) for block in found] == [
        ("stem", None),
        *[(f"block_{n}", f"conv{n + 1}_block1_preact_relu") for n in (1, 2, 3, 4)],
        ("FC", "avg_pool"),
    ]


@pytest.mark.parametrize(
    ("name", "node", "expected"),
    [
        ("inception_v3", "mixed_8", ("mixed_9", "mixed_10", "FC")),
        ("inception_v3", "mixed_9", ("mixed_10", "FC")),
        ("inception_v3", "mixed_10", ("FC",)),
        ("inception_v3", "avg_pool", ("FC",)),
        ("resnet50_v2", "conv5_block1_preact_relu", ("block_4", "FC")),
        ("resnet50_v2", "conv5_block3_out", ("block_4", "FC")),
        ("resnet50_v2", "post_relu", ("FC",)),
        ("efficientnet_lite0", "block6d_add", ("top_activation", "FC")),
        ("efficientnet_lite0", "block7a_expand_activation", ("top_activation", "FC")),
        ("efficientnet_lite0", "block6c_add", ("block6d_add", "top_activation", "FC")),
        ("efficientnet_lite0", "top_activation", ("FC",)),
        ("efficientnet_b0", "avg_pool", ("FC",)),
    ],
)
def test_blocks_behind_node_run_from_the_front_to_the_classifier(name, node, expected):
    found = listed(name)[node]
    assert blocks.blocks_behind(name, model_of(name), found) == expected
    assert blocks.block_of(name, model_of(name), node) == found.block == expected[0]


def test_blocks_of_network_without_sums_end_at_last_activation_of_each_resolution():
    found = blocks.list_blocks("vgg16", small_model("VGG16", 32))
    assert [(block.name, block.input_node) for block in found] == [
        ("block1_conv2", None),
        ("block2_conv2", "block1_conv2"),
        ("block3_conv3", "block2_conv2"),
        ("block4_conv3", "block3_conv3"),
        ("block5_conv3", "block4_conv3"),
        ("fc2", "block5_conv3"),
        ("FC", "fc2"),
    ]


def test_blocks_of_frozen_network_stay_the_same():
    model = small_model("MobileNetV2", 32)
    before = blocks.list_blocks("mobilenet_v2", model)
    model.trainable = False
    try:
        assert blocks.list_blocks("mobilenet_v2", model) == before
    finally:
        model.trainable = True


def test_block_of_unknown_node_raises():
    with pytest.raises(NodeError, match="found no pivotal node 'mixed9_0'"):
        blocks.block_of("inception_v3", model_of("inception_v3"), "mixed9_0")
