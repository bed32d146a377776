"""Pivotal nodes: where a network can be cut, and the parts a cut leaves.

Shapes are (height, width, channels) or (channels,), without the batch; all tensors are float32.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import NodeError
from pipelines.networks import blocks
from pipelines.networks import graph as graphs
from pipelines.networks.graph import Graph

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Node:
    """One valid cut point.

    Attributes:
        name: canonical name (`mixed_9`), the same in every process.
        layer_name: what Keras calls the layer in this process (`mixed9`).
        shape: of one feature map, without the batch.
        num_values: numbers in one feature map.
        size_bytes: one feature map as dense float32.
        tail_params: parameters of the layers behind the node, decision layer not counted.
        tail_macs_share: multiply-adds of those layers over the whole network's, 0..1.
        block: the block that holds the first trainable layers behind the node.
    """

    name: str
    layer_name: str
    shape: tuple[int, ...]
    num_values: int
    size_bytes: int
    tail_params: int
    tail_macs_share: float
    block: str


def list_nodes(backbone_name: str, model: Any) -> tuple[Node, ...]:
    """List the valid cut points of a network in graph order.

    Args:
        backbone_name: snake_case name of the network.
        model: keras Functional model with a fixed input shape.

    Returns:
        One node for each valid cut, front to back; the last feeds the classifier.

    Raises:
        NodeError: the network has no cut point, or its feature maps have no fixed shape.
    """
    graph = graphs.analyse(backbone_name, model)
    _check_fixed_shape(model)
    behind = blocks.blocks_by_cut(backbone_name, graph)
    macs = [graphs.num_macs(operation) for operation in graph.operations]
    params = [graphs.num_parameters(operation) for operation in graph.operations]
    nodes = []
    for cut in graph.cuts:
        shape = tuple(int(side) for side in graph.operations[cut].output.shape[1:])
        num_values = graphs.size(shape)
        node = Node(
            name=graph.names[cut],
            layer_name=graph.operations[cut].name,
            shape=shape,
            num_values=num_values,
            size_bytes=num_values * _FLOAT32_BYTES,
            tail_params=sum(params[cut + 1 : graph.classifier]),
            tail_macs_share=sum(macs[cut + 1 : graph.classifier]) / max(1, sum(macs)),
            block=behind[cut][0],
        )
        nodes.append(node)
    return tuple(nodes)


def find_node(backbone_name: str, model: Any, asked: str) -> Node:
    """Find a node by its name; case and underscores do not matter where no two names differ by it.

    Args:
        backbone_name: snake_case name of the network.
        model: keras Functional model with a fixed input shape.
        asked: a name such as `mixed_9`, `mixed9` or `Mixed_9`.

    Returns:
        The one node of that name.

    Raises:
        NodeError: no layer has that name, several have, or the layer is no valid cut; the message
            gives the reason and the nearest valid names.
    """
    graph = graphs.analyse(backbone_name, model)
    nodes = {node.name: node for node in list_nodes(backbone_name, model)}
    if asked in graph.names:
        matches = [asked]
    else:
        wanted = _loosely(asked)
        matches = [name for name in graph.names if _loosely(name) == wanted]
    if len(matches) > 1:
        raise NodeError(
            f"{backbone_name}: node {asked!r} may mean {', '.join(sorted(matches))}; "
            "spell out the one meant"
        )
    if matches and matches[0] in nodes:
        return nodes[matches[0]]
    reason = _why_no_cut(graph, matches[0]) if matches else "is no layer of the network"
    raise NodeError(
        f"{backbone_name}: {asked!r} {reason}; nearest nodes: {', '.join(_nearest(asked, nodes))}"
    )


def front(model: Any, nodes: Sequence[Node]) -> Any:
    """Build the frozen part: from the image to all the nodes' outputs in one pass.

    Args:
        model: the whole network; its layers and weights are shared, not copied.
        nodes: where to cut, at least one.

    Returns:
        A keras Functional model whose output is a dict, canonical node name to a tensor
        (batch, *node.shape), also when there is one node only.

    Raises:
        NodeError: no node is given, or the network has no layer of that name.
    """
    import keras

    if not nodes:
        raise NodeError(f"{model.name}: asked for the front of no node; give at least one")
    outputs = {node.name: _operation(model, node).output for node in nodes}
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_front")


def between(model: Any, start: Node, nodes: Sequence[Node]) -> Any:
    """Build the part that leads from one node to nodes behind it.

    Args:
        model: the whole network; its layers and weights are shared, not copied.
        start: whose feature maps go in.
        nodes: where to cut, at least one, each behind `start`.

    Returns:
        A keras Functional model with a dict of outputs, as `front` gives it.

    Raises:
        NodeError: a node does not lie behind `start`.
    """
    import keras

    order = [operation.name for operation in model.operations]
    for node in nodes:
        if order.index(node.layer_name) <= order.index(start.layer_name):
            raise NodeError(
                f"{model.name}: node {node.name} does not lie behind {start.name}; extract it from "
                "the images, or from a node in front of it"
            )
    outputs = {node.name: _operation(model, node).output for node in nodes}
    name = f"{model.name}_between"
    return keras.Model(_operation(model, start).output, outputs, name=name)


def to_decision(model: Any, start: Node | None = None) -> Any:
    """Build the way to the decision layer's input, from the images or from a node.

    Args:
        model: the whole network; its layers and weights are shared, not copied.
        start: whose feature maps go in; None for images.

    Returns:
        A keras Functional model that gives (batch, D), or (batch, 1, 1, D) in front of a
        convolution.
    """
    import keras

    graph = graphs.analyse("", model)
    begin = model.inputs[0] if start is None else _operation(model, start).output
    end = graph.operations[graph.penultimate].output
    if begin is end:
        inputs = keras.Input(end.shape[1:], dtype="float32")
        return keras.Model(inputs, keras.layers.Identity()(inputs))
    return keras.Model(begin, end, name=f"{model.name}_to_decision")


def tail(model: Any, node: Node) -> Any:
    """Build the trainable part: from a node's tensor to the classifier's input, flattened.

    Args:
        model: the whole network; it keeps its weights, whatever happens to the tail.
        node: where to cut.

    Returns:
        A keras Functional model, (batch, *node.shape) to (batch, D), with a copy of the weights
        and layers under their canonical names; without any weights when the node itself feeds the
        classifier. The layers' `trainable` flags are those of the network.

    Raises:
        NodeError: the network has no such cut, or its classifier sees more than one position.
    """
    import keras

    graph = graphs.analyse("", model)
    start = _operation(model, node).output
    end = graph.operations[graph.penultimate].output
    name = f"{model.name}_tail"
    inputs = keras.Input(start.shape[1:], dtype="float32", name="feature_map")
    if start is end:
        features = keras.layers.Identity(name="features")(inputs)
    else:
        shared = keras.Model(start, end)
        copied = keras.models.clone_model(
            shared, input_tensors=_like(shared.input, inputs), clone_function=_renamed(graph)
        )
        copied.set_weights(shared.get_weights())
        features = copied.outputs[0]
    if len(features.shape) > 2:
        _check_one_position(graph, tuple(features.shape[1:]))
        features = keras.layers.Flatten(name="flat_features")(features)
    return keras.Model(inputs, features, name=name)


def classifier(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Copy the decision layer's weights, of a dense layer or a 1x1 convolution alike.

    Args:
        model: the whole network.

    Returns:
        Kernel, float32 (D, classes), and bias, float32 (classes,), zeros where it has none.

    Raises:
        NodeError: the last layer with weights is neither dense nor a 1x1 convolution.
    """
    graph = graphs.analyse("", model)
    layer = graph.operations[graph.classifier]
    weights = [np.array(weight, dtype=np.float32) for weight in layer.get_weights()]
    kernel: Any = weights[0]
    if type(layer).__name__ not in ("Dense", "Conv2D") or graphs.size(kernel.shape[:-2]) != 1:
        raise NodeError(
            f"{model.name}: layer {layer.name!r} is a {type(layer).__name__} with a kernel of "
            f"shape {kernel.shape}, expected a dense layer or a 1x1 convolution as classifier"
        )
    kernel = kernel.reshape(kernel.shape[-2:])
    bias = weights[1] if len(weights) > 1 else np.zeros(kernel.shape[-1], dtype=np.float32)
    return kernel, bias


def _renamed(graph: Graph) -> Callable[[Any], Any]:
    """Make a function that copies a layer under its canonical name.

    Keras's own numbers depend on what else the process has built; a checkpoint of a tail must
    find the same names in the next process.
    """
    names = {
        operation.name: name for operation, name in zip(graph.operations, graph.names, strict=True)
    }

    def copy(operation: Any) -> Any:
        config = operation.get_config()
        if "name" in config:
            config["name"] = names.get(operation.name, operation.name)
        return type(operation).from_config({**config, **_for_training(operation, config)})

    return copy


def _for_training(operation: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave nothing to chance in a tail that runs as in training, on any number of devices."""
    kind = type(operation).__name__
    if kind == "BatchNormalization":
        return {"synchronized": True}  # statistics of the whole batch, not of a device's part
    rates = ("rate", "drop_path_rate") if "Dropout" in kind or kind == "StochasticDepth" else ()
    return {name: 0.0 for name in rates if name in config}


def _like(structure: Any, tensor: Any) -> Any:
    """Wrap a tensor as Keras gives a model's input: bare or in a list of one."""
    return [tensor] if isinstance(structure, (list, tuple)) else tensor


def _operation(model: Any, node: Node) -> Any:
    for operation in model.operations:
        if operation.name == node.layer_name:
            return operation
    raise NodeError(
        f"{model.name}: found no layer {node.layer_name!r} for node {node.name!r}; "
        "look the node up in the network it is cut from"
    )


def _check_fixed_shape(model: Any) -> None:
    if any(side is None for side in model.input_shape[1:]):
        raise NodeError(
            f"{model.name}: found input shape {model.input_shape[1:]}, "
            "expected a fixed height and width"
        )


def _check_one_position(graph: Graph, shape: tuple[int, ...]) -> None:
    """Refuse a convolutional classifier over a map: flattened, its kernel would no longer fit."""
    if graphs.size(shape[:-1]) != 1:
        name = graph.names[graph.classifier]
        raise NodeError(f"classifier {name!r}: found an input of shape {shape}, expected (1, 1, D)")


def _loosely(name: str) -> str:
    return name.replace("_", "").lower()


def _nearest(asked: str, nodes: dict[str, Node]) -> list[str]:
    """Give up to five names that look like the one asked for; else the last five, deepest last."""
    loose = {_loosely(name): name for name in nodes}
    found = difflib.get_close_matches(_loosely(asked), loose, n=5, cutoff=0.5)
    return [loose[name] for name in found] or list(nodes)[-5:]


def _why_no_cut(graph: Graph, name: str) -> str:
    at = graph.names.index(name)
    if at == 0:
        return "is the image input, no pivotal node"
    if at >= graph.classifier:
        return "is the decision layer or lies behind it, no pivotal node"
    over = graph.names[graph.passing[at]]
    return f"is a layer but no valid cut: an edge from {over!r} passes over it"
