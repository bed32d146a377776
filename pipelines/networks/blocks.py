"""Blocks: the units in which a tail is trained, from the end of the network towards the front.

A block lies between two boundaries that follow each other, is named by its output and reads the
cache of the node in front: for Inception V3 `FC` reads avg_pool, `mixed_10` reads mixed_9 (thesis,
section 4.3.1). The last block, the decision layer, is always `FC`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import NodeError
from pipelines.networks import graph as graphs

if TYPE_CHECKING:
    from pipelines.networks.graph import Graph
    from pipelines.networks.nodes import Node

LAST_BLOCK = "FC"

# The two networks of the thesis: block name to the node that is its output. Inception V3's blocks
# bear their output's name (figure A.2); ResNet-50 V2's are numbered (figure A.3), and each starts
# where its stage's shortcut starts, behind the first pre-activation.
_NAMED_BLOCKS: dict[str, dict[str, str]] = {
    "inception_v3": {f"mixed_{number}": f"mixed_{number}" for number in range(11)},
    "resnet50_v2": {
        "stem": "conv2_block1_preact_relu",
        "block_1": "conv3_block1_preact_relu",
        "block_2": "conv4_block1_preact_relu",
        "block_3": "conv5_block1_preact_relu",
        "block_4": "avg_pool",
    },
}
_ACTIVATIONS = frozenset({"ReLU", "LeakyReLU", "PReLU", "ELU"})


@dataclass(frozen=True)
class Block:
    """One trainable stretch of a network.

    Attributes:
        name: how commands and runs call it.
        input_node: canonical name of the node whose cache it reads, None for the image itself.
        output_node: canonical name of the node it ends at, None for `FC`.
    """

    name: str
    input_node: str | None
    output_node: str | None


def list_blocks(backbone_name: str, model: Any) -> tuple[Block, ...]:
    """Divide a network into blocks, front to back; the last is `FC`.

    Args:
        backbone_name: snake_case name of the network.
        model: the keras Functional model.

    Returns:
        At least one block.

    Raises:
        NodeError: the network has no classifier or no cut point.
    """
    graph = graphs.analyse(backbone_name, model)
    return tuple(
        Block(
            name,
            None if start == 0 else graph.names[start],
            None if end == graph.classifier else graph.names[end],
        )
        for name, start, end in _spans(backbone_name, graph)
    )


def block_of(backbone_name: str, model: Any, node_name: str) -> str:
    """Name the block that holds the first trainable layers behind a node.

    Args:
        backbone_name: snake_case name of the network.
        model: the keras Functional model.
        node_name: canonical name of a cut point.

    Returns:
        The block's name; `FC` when only the decision layer is left.

    Raises:
        NodeError: the network has no cut point of that name.
    """
    return _behind(backbone_name, model, node_name)[0]


def blocks_behind(backbone_name: str, model: Any, node: Node) -> tuple[str, ...]:
    """Name all blocks of a tail from the front to `FC`, the first perhaps only in part.

    Args:
        backbone_name: snake_case name of the network.
        model: the keras Functional model.
        node: where the network is cut.

    Returns:
        For mixed_9: ("mixed_10", "FC").

    Raises:
        NodeError: the network has no such cut point.
    """
    return _behind(backbone_name, model, node.name)


def blocks_by_cut(backbone_name: str, graph: Graph) -> dict[int, tuple[str, ...]]:
    """Give for each cut position the names of the blocks behind it, front to back."""
    spans = _spans(backbone_name, graph)
    trained = [at for at, operation in enumerate(graph.operations) if _is_trained(operation)]
    behind = {}
    for cut in graph.cuts:
        first = min(at for at in trained if at > cut)  # the classifier at the latest
        behind[cut] = tuple(name for name, _, end in spans if end >= first)
    return behind


def _behind(backbone_name: str, model: Any, node_name: str) -> tuple[str, ...]:
    graph = graphs.analyse(backbone_name, model)
    for cut, names in blocks_by_cut(backbone_name, graph).items():
        if graph.names[cut] == node_name:
            return names
    raise NodeError(
        f"{backbone_name}: found no pivotal node {node_name!r}; "
        "ask for one that the network's list of nodes names"
    )


def _spans(backbone_name: str, graph: Graph) -> list[tuple[str, int, int]]:
    """Give (name, position in front, last position) of each block with something to train."""
    ends = sorted(_boundaries(backbone_name, graph).items())
    ends.append((graph.classifier, LAST_BLOCK))
    spans = []
    start = 0
    for end, name in ends:
        if any(_is_trained(operation) for operation in graph.operations[start + 1 : end + 1]):
            spans.append((name, start, end))
        start = end
    return spans


def _boundaries(backbone_name: str, graph: Graph) -> dict[int, str]:
    """Give position and block name of every boundary; the features' node is always one."""
    boundaries = {graph.features: graph.names[graph.features]}
    named = _NAMED_BLOCKS.get(backbone_name)
    if named is not None:
        return boundaries | {graph.names.index(node): name for name, node in named.items()}
    body = [cut for cut in graph.cuts if len(_shape(graph, cut)) == 3 and cut < graph.features]
    merges = [cut for cut in body if _merges(graph.operations[cut])]
    activations = [cut for cut in body if _activates(graph.operations[cut])]
    ends = set(merges) | set(activations[-1:])
    merged_sides = {_shape(graph, cut)[:2] for cut in merges}
    # A stage is what works at one resolution; without a sum or a concatenation (VGG, MobileNet)
    # it ends at its last activation.
    last_of_stage = {_shape(graph, cut)[:2]: cut for cut in activations}
    ends |= {cut for sides, cut in last_of_stage.items() if sides not in merged_sides}
    return {cut: graph.names[cut] for cut in ends} | boundaries


def _shape(graph: Graph, position: int) -> tuple[int, ...]:
    return tuple(graph.operations[position].output.shape[1:])


def _merges(operation: Any) -> bool:
    """Tell a sum or concatenation of paths from the product of a squeeze-and-excite gate."""
    read = operation.input
    return isinstance(read, (list, tuple)) and type(operation).__name__ != "Multiply"


def _activates(operation: Any) -> bool:
    """Tell whether an operation ends in a non-linear activation, its own or fused into it."""
    if type(operation).__name__ in _ACTIVATIONS:
        return True
    function = getattr(operation, "activation", None)
    return getattr(function, "__name__", "linear") != "linear"


def _is_trained(operation: Any) -> bool:
    """Tell whether an operation is trained; the statistics of a Normalization layer are data.

    The layer's `trainable` flag is not asked: a frozen backbone has the same blocks.
    """
    return graphs.has_weights(operation) and type(operation).__name__ != "Normalization"
