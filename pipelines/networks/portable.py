"""A trained network as one Keras model of standard layers, which loads without this package.

    (batch, branch, side, side, 3) -fold-> backbone -> tail -unfold-> (batch, branch, D)
    -fusion-> (batch, width) -head-> softmax (batch, classes)

The same numbers as `topology.Topology` behind `nodes.front`, expressed in Keras's own layers.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.networks import nodes
from pipelines.networks.head import CONCAT, GATED, MEAN, ORIGINAL_MEAN, WEIGHTED
from pipelines.networks.nodes import Node
from pipelines.networks.topology import Topology
from pipelines.storage.variants import ORIGINAL

INPUT, OUTPUT = "variants", "probabilities"


def build(model: Any, node: Node, topology: Topology) -> Any:
    """Join the frozen part and what was trained behind it.

    Args:
        model: the whole pretrained network; its layers and weights are shared, not copied.
        node: where the topology begins.
        topology: tail and head with their weights.

    Returns:
        A keras Functional model: float32 (batch, branches, side, side, 3) as the protocol leaves
        them, scaled, to float32 (batch, classes), each image's adding up to 1.
    """
    import keras

    shape = tuple(model.input_shape[1:])
    num_branches = len(topology.design.branches)
    cut = nodes.front(model, [node])
    front = keras.Model(cut.inputs[0], cut.output[node.name], name="backbone")
    inputs = keras.Input((num_branches, *shape), dtype="float32", name=INPUT)
    folded = keras.ops.reshape(inputs, (-1, *shape))
    features = topology.tail(front(folded))
    features = keras.ops.reshape(features, (-1, num_branches, topology.num_features))
    if topology.design.copies:
        features = keras.layers.UpSampling1D(topology.design.copies, name="copies")(features)
    joined = _joined(topology, features)
    kernel, bias = (topology.head.variables[name].numpy() for name in ("kernel", "bias"))
    head = keras.layers.Dense(topology.head.num_classes, name="head")
    scores = _with_weights(head, joined, kernel, bias)
    return keras.Model(inputs, keras.layers.Softmax(name=OUTPUT)(scores), name="topology")


def save(model: Any, path: Path) -> None:
    """Write a model as one Keras file.

    Args:
        model: as `build` makes it.
        path: ends in .keras.
    """
    with warnings.catch_warnings():
        # Keras copies its variables in a way that NumPy 2 is going to leave.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        model.save(path)


def _joined(topology: Topology, features: Any) -> Any:
    """Join the branches, (batch, branches, D) to (batch, width), as `head.Head.fused` does."""
    import keras

    layers, fusion = keras.layers, topology.design.fusion
    values = {name: variable.numpy() for name, variable in topology.head.variables.items()}
    if fusion == CONCAT:
        return layers.Flatten(name=CONCAT)(features)
    mean = layers.GlobalAveragePooling1D(name="mean")
    if fusion == MEAN:
        return mean(features)
    if fusion == ORIGINAL_MEAN:
        at = topology.design.joined.index(ORIGINAL)
        behind = len(topology.design.joined) - 1 - at
        original = layers.Cropping1D((at, behind), name="original")(features)
        alone = layers.Flatten(name="original_alone")(original)
        return layers.Concatenate(name=ORIGINAL_MEAN)([alone, mean(features)])
    if fusion == WEIGHTED:
        weights = _softmax(values["branch_scores"])
        layer = layers.EinsumDense("abd,b->ad", topology.num_features, name=WEIGHTED)
        return _with_weights(layer, features, weights)
    if fusion == GATED:
        gate = values["gate"] / math.sqrt(topology.num_features)
        num_branches = len(topology.design.joined)
        layer = layers.EinsumDense("abd,d->ab", num_branches, bias_axes="b", name="gate")
        scores = _with_weights(layer, features, gate, values["branch_scores"])
        weights = layers.Softmax(name="branch_weights")(scores)
        return layers.Dot(axes=(1, 1), name=GATED)([weights, features])
    raise ValueError(f"fusion {fusion} has no layers here")


def _with_weights(layer: Any, inputs: Any, *weights: np.ndarray) -> Any:
    """Apply a layer, and give it the weights that were learned."""
    outputs = layer(inputs)
    layer.set_weights(list(weights))
    return outputs


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return (powers / powers.sum()).astype(np.float32)
