"""The layers of a Functional network in topological order, and where one tensor holds all of it.

Only public Keras attributes are read: `model.operations`, `operation.input`, `operation.output`.
`operation.input` and `.output` speak of the first call of a layer, so building further models from
the same layers does not disturb the analysis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipelines.errors import NodeError

# Layers that change no value at inference; they may stand between the features and the classifier.
_VALUE_KEEPING = frozenset({"Dropout", "SpatialDropout2D", "Flatten", "Reshape", "Identity"})


@dataclass(frozen=True)
class Graph:
    """One network's operations and cut points; positions index `operations`.

    Attributes:
        operations: every layer and raw operation, producers before consumers, the input first.
        names: canonical name of each operation, the same in every process.
        cuts: positions whose output alone feeds everything behind, input to classifier, both
            excluded.
        passing: for each position that is no cut because an edge passes over it, the position
            where one such edge starts.
        classifier: position of the decision layer, the last one that has weights.
    """

    operations: tuple[Any, ...]
    names: tuple[str, ...]
    cuts: tuple[int, ...]
    passing: dict[int, int]
    classifier: int

    @property
    def penultimate(self) -> int:
        """Position of the operation whose output the classifier reads."""
        return self.cuts[-1]

    @property
    def features(self) -> int:
        """Position of the first cut that holds the classifier's input, dropout and shape aside."""
        position = self.penultimate
        for earlier in reversed(self.cuts[:-1]):
            if type(self.operations[position]).__name__ not in _VALUE_KEEPING:
                break
            position = earlier
        return position


def analyse(backbone_name: str, model: Any) -> Graph:
    """Find the cut points of a network.

    In topological order an operation is a valid cut when no edge from an earlier one passes over
    it: then its output is the one tensor through which every path from the image leads.

    Args:
        backbone_name: snake_case name of the network; decides on canonical names.
        model: a built keras Functional model with one input.

    Returns:
        The analysed graph.

    Raises:
        NodeError: the network has no layer with weights, or no tensor to cut at.
    """
    operations = tuple(model.operations)
    producer = {id(operation.output): at for at, operation in enumerate(operations)}
    weighted = [at for at, operation in enumerate(operations) if has_weights(operation)]
    if not weighted:
        raise NodeError(f"{model.name}: found no layer with weights, expected a classifier")
    classifier = weighted[-1]
    passing: dict[int, int] = {}
    reach, reach_from = 0, 0  # the furthest consumer of any earlier operation, and its producer
    furthest = _furthest_consumers(operations, producer)
    cuts = []
    for at in range(classifier):
        if reach > at:
            passing[at] = reach_from
        elif at > 0:
            cuts.append(at)
        if furthest[at] > reach:
            reach, reach_from = furthest[at], at
    if not cuts or reach > classifier:
        raise NodeError(f"{model.name}: found no point where one tensor feeds the classifier")
    names = canonical_names(backbone_name, operations)
    return Graph(operations, names, tuple(cuts), passing, classifier)


def _furthest_consumers(operations: tuple[Any, ...], producer: dict[int, int]) -> list[int]:
    """Give for each operation the last position that reads its output, its own when none does."""
    furthest = list(range(len(operations)))
    for at, operation in enumerate(operations):
        read = operation.input
        for tensor in read if isinstance(read, (list, tuple)) else [read]:
            start = producer[id(tensor)]
            furthest[start] = max(furthest[start], at)
    return furthest


def has_weights(operation: Any) -> bool:
    """Tell whether an operation owns weights, frozen or not; a raw operation never does."""
    return bool(getattr(operation, "weights", ()))


def num_parameters(operation: Any) -> int:
    """Count the numbers that an operation's weights hold, statistics included."""
    return sum(size(weight.shape) for weight in getattr(operation, "weights", ()))


def num_macs(operation: Any) -> int:
    """Count the multiply-adds of convolutions and dense layers for one image.

    A kernel is used once at every output position, so its size times the positions is the count;
    this holds for Conv2D (grouped too), DepthwiseConv2D, SeparableConv2D and Dense.
    """
    inner = getattr(operation, "layers", None)
    if inner is not None:
        return sum(num_macs(layer) for layer in inner)
    kernels = [w for w in getattr(operation, "weights", ()) if len(w.shape) >= 2]
    if not kernels:
        return 0
    positions = size(operation.output.shape[1:-1])
    return positions * sum(size(kernel.shape) for kernel in kernels)


def size(shape: tuple[int, ...]) -> int:
    """Multiply the sides of a shape; 1 for a scalar."""
    total = 1
    for side in shape:
        total *= int(side)
    return total


def canonical_names(backbone_name: str, operations: tuple[Any, ...]) -> tuple[str, ...]:
    """Name operations the same way in every process.

    Keras numbers layers without a name of their own (`add`, `add_1`) with one counter for the
    whole process, so a second network starts where the first one ended. Here they count from zero
    within the network, in the order they were made: the names of a fresh process.
    Inception V3's blocks are spelt `mixed_9`, as in the thesis, table 4.1; Keras says `mixed9`.

    Args:
        backbone_name: snake_case name of the network.
        operations: the network's operations.

    Returns:
        A name for each, in the same order.
    """
    counters: dict[str, list[int]] = {}
    for operation in operations:
        numbered = automatic_number(operation)
        if numbered is not None:
            counters.setdefault(numbered[0], []).append(numbered[1])
    names = []
    for operation in operations:
        numbered = automatic_number(operation)
        if numbered is not None:
            prefix, number = numbered
            rank = sorted(counters[prefix]).index(number)
            names.append(prefix if rank == 0 else f"{prefix}_{rank}")
        elif backbone_name == "inception_v3":
            names.append(re.sub(r"^mixed(\d+)$", r"mixed_\1", operation.name))
        else:
            names.append(operation.name)
    return tuple(names)


def automatic_number(operation: Any) -> tuple[str, int] | None:
    """Split a name that Keras made up into class prefix and number; None for a given name."""
    prefix = class_key(operation)
    match = re.fullmatch(rf"{re.escape(prefix)}(?:_(\d+))?", operation.name)
    return None if match is None else (prefix, int(match.group(1) or 0))


def class_key(operation: Any) -> str:
    """Give the snake_case class name, from which Keras makes automatic names and file keys."""
    name = re.sub(r"\W+", "", type(operation).__name__)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
