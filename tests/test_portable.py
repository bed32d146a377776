"""One Keras model of standard layers: the topology's numbers, in a process without this package."""

from __future__ import annotations

import numpy as np
import pytest
from caches import tiny
from isolated import Ask, run_models

from pipelines.networks import nodes, portable
from pipelines.networks.head import FUSIONS
from pipelines.networks.topology import Design, Topology

BRANCHES = ("q010", "original", "q020", "q030")
NUM_CLASSES = 3
NODES = ("first", "avg_pool")  # with layers behind it, and right in front of the decision


def trained(node_name: str, fusion: str) -> Topology:
    """Return a topology none of whose weights is what it was at its start."""
    node = nodes.find_node("tiny", tiny().model, node_name)
    topology = Topology(tiny(), node, Design(BRANCHES, fusion, "all"), NUM_CLASSES, seed=1)
    rng = np.random.default_rng(2)
    values = {name: rng.uniform(0.1, 0.9, v.shape) for name, v in topology.weights().items()}
    topology.assign({**values, "head/kernel": 0.05 * (values["head/kernel"] - 0.5)})
    return topology


def build(node_name: str, topology: Topology):
    node = nodes.find_node("tiny", tiny().model, node_name)
    return portable.build(tiny().model, node, topology)


def inputs_of(num_images: int = 5) -> np.ndarray:
    shape = (num_images, len(BRANCHES), 8, 8, 3)
    return np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)


def expected_of(node_name: str, topology: Topology, inputs: np.ndarray) -> np.ndarray:
    """Run front, tail and head one after the other, and divide the scores' powers."""
    node = nodes.find_node("tiny", tiny().model, node_name)
    front = nodes.front(tiny().model, [node])
    maps = [front(inputs[:, i], training=False)[node.name] for i in range(len(BRANCHES))]
    scores = topology.logits(np.stack(maps, axis=1), False).numpy()
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_build_in_a_process_without_this_package_gives_the_topologys_numbers(tmp_path):
    inputs, asks, expected = inputs_of(), [], []
    np.save(tmp_path / "inputs.npy", inputs)
    for node in NODES:
        for fusion in FUSIONS:
            topology = trained(node, fusion)
            path = tmp_path / f"{node}-{fusion}.keras"
            portable.save(build(node, topology), path)
            asks.append(Ask(str(path), "", [str(tmp_path / "inputs.npy")]))
            expected.append(expected_of(node, topology, inputs))
    found = run_models(tmp_path / "isolated", asks)
    for i, ask in enumerate(asks):
        assert found[i].dtype == np.float32
        assert found[i].std(axis=0).max() > 1e-3  # another image, another answer
        np.testing.assert_allclose(found[i], expected[i], rtol=1e-5, atol=1e-6, err_msg=ask.model)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_build_names_what_goes_in_and_what_comes_out(fusion):
    model = build("first", trained("first", fusion))
    assert model.input_shape == (None, len(BRANCHES), 8, 8, 3)
    assert model.output_shape == (None, NUM_CLASSES)
    assert [tensor.name for tensor in model.inputs] == [portable.INPUT]
    assert model.output_names == [portable.OUTPUT]


def test_build_takes_the_trained_tail_and_not_the_backbones():
    topology = trained("first", "mean")
    model = build("first", topology)
    kernel = model.get_layer(topology.tail.name).get_layer("second").get_weights()[0]
    np.testing.assert_array_equal(kernel, topology.weights()["tail/second/0"])
    assert np.any(kernel != tiny().model.get_layer("second").get_weights()[0])
