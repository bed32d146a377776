"""The topology behind a cut: one tail for all branches, joined in front of one decision layer.

    (batch, branch, *shape) -fold-> (batch * branch, *shape) -tail-> (batch * branch, D)
    -unfold-> (batch, branch, D) -fusion-> (batch, width) -head-> (batch, classes)

Source: thesis, figure 3.5 and section 3.4.2. The tail is shared; with `gradients="original"` only
the original branch is walked backward, the others go forward with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.errors import TrainingError
from pipelines.networks import nodes
from pipelines.networks.backbones import Backbone
from pipelines.networks.head import CONCAT, Head, Joined, needs_original
from pipelines.storage.variants import ORIGINAL


@dataclass(frozen=True)
class Design:
    """What a topology is, beside its network, node and classes.

    Attributes:
        branches: names, in the order of the branch axis.
        fusion: how they are joined, one of `head.FUSIONS`.
        gradients: "original" or "all": which branches the tail learns from.
        head_init: "random" or "pretrained": how the head starts.
        batch_norm: "stored" or "batch": the statistics of BatchNorm while it is trained.
        copies: of the original, joined as if each were a branch: a head as wide as that of so many
            branches, which sees nothing but the original; 0 for none.
    """

    branches: tuple[str, ...]
    fusion: str = CONCAT
    gradients: str = "original"
    head_init: str = "random"
    batch_norm: str = "stored"
    copies: int = 0

    @property
    def joined(self) -> tuple[str, ...]:
        """Names of what the head joins."""
        rest = (f"copy_{number:02d}" for number in range(2, self.copies + 1))
        return (ORIGINAL, *rest) if self.copies else self.branches

    def with_pretrained_head(self) -> Design:
        """Return the same with the backbone's own classifier as its start."""
        return replace(self, head_init="pretrained")

    def check(self) -> None:
        """Check that settings that speak of the original find it among the branches.

        Raises:
            TrainingError: they do not.
        """
        if self.copies and self.branches != (ORIGINAL,):
            raise TrainingError(
                f"copies {self.copies}: of the original, and the branches are "
                f"{','.join(self.branches)}; give --branches original"
            )
        if ORIGINAL in self.branches:
            return
        lacking = "but the branches lack original; add it or use"
        if self.gradients == "original":
            raise TrainingError(f"gradients original, {lacking} --gradients all")
        if self.head_init == "pretrained":
            raise TrainingError(f"head-init pretrained, {lacking} --head-init random")
        if needs_original(self.fusion, self.branches):
            raise TrainingError(f"fusion {self.fusion}, {lacking} --fusion mean")


class Topology:
    """Tail and head with their weights.

    Attributes:
        design: what it is.
        input_shape: (branches, *shape), of one image's features.
        head: joins the branches and decides.
    """

    def __init__(
        self, backbone: Backbone, node: nodes.Node, design: Design, num_classes: int, seed: int
    ) -> None:
        """Build tail and head; the tail has the backbone's weights, the head is random.

        Args:
            backbone: the whole network.
            node: where the cache was cut.
            design: what it is.
            num_classes: classes of the labelled images.
            seed: fixes the head's start (Glorot uniform).

        Raises:
            TrainingError: the design asks for the original, which is no branch.
        """
        design.check()
        self.design = design
        self.input_shape = (len(design.branches), *node.shape)
        self._tail = nodes.tail(backbone.model, node)
        self._tail.trainable = True
        self._compute_dtype = backbone.model.compute_dtype
        self._uses_batch_statistics = design.batch_norm == "batch"
        # Where there is nothing to learn in the tail, all branches go the same way, in one piece.
        walks_one = design.gradients == "original" and bool(self._tail.weights)
        self._walked = design.branches.index(ORIGINAL) if walks_one else None
        self._num_features = int(self._tail.output.shape[-1])
        joined = Joined(design.joined, self._num_features, design.fusion)
        self.head = Head(joined, num_classes, seed)
        self._names = _tail_names(self._tail)

    @property
    def tail(self) -> Any:
        """The tail, a keras Functional model: (batch, *shape) to (batch, D)."""
        return self._tail

    @property
    def num_features(self) -> int:
        """D, what the tail gives for one branch."""
        return self._num_features

    def logits(self, features: Any, is_training: bool) -> Any:
        """Run tail and head.

        Args:
            features: (batch, branches, *shape) float16 or float32.
            is_training: leave out of the gradient what is not to be walked backward.

        Returns:
            float32 (batch, classes).
        """
        return self.decide(self.features(features, is_training))

    def decide(self, features: Any) -> Any:
        """Run the head: float32 (batch, joined, D), as `features` gives them, to the scores."""
        return self.head.logits(features, self._compute_dtype)

    def swapped(self, features: Any) -> Any:
        """Score the images once for each branch but the original, which then stands in for it.

        Args:
            features: float32 (batch, branches, D), as `features` gives them.

        Returns:
            float32 (batch, branches - 1, classes), in the order of the branches.
        """
        import tensorflow as tf

        branches = self.design.branches
        original = branches.index(ORIGINAL)
        alone = features[:, original : original + 1]
        scores = [
            self.decide(tf.concat([features[:, :i], alone, features[:, i + 1 :]], axis=1))
            for i in range(len(branches))
            if i != original
        ]
        return tf.stack(scores, axis=1)

    def features(self, features: Any, is_training: bool) -> Any:
        """Run the tail.

        Args:
            features: (batch, branches, *shape) float16 or float32.
            is_training: leave out of the gradient what is not to be walked backward.

        Returns:
            float32 (batch, joined, D): a row a branch, or a copy.
        """
        import tensorflow as tf

        features = tf.cast(features, tf.float32)
        num_branches = len(self.design.branches)
        is_learning = is_training and self._uses_batch_statistics
        if self.design.copies:
            return self._copied(features, is_training, is_learning)
        if self._walked is None or not is_training or num_branches == 1:
            return self._folded(features, num_branches, is_learning)
        i = self._walked
        walked = self._folded(features[:, i : i + 1], 1, is_learning)
        rest = tf.concat([features[:, :i], features[:, i + 1 :]], axis=1)
        rest = tf.stop_gradient(self._folded(rest, num_branches - 1, False))
        return tf.concat([rest[:, :i], walked, rest[:, i:]], axis=1)

    def _copied(self, features: Any, is_training: bool, is_learning: bool) -> Any:
        """Do to one original what is done to so many branches, each of which is the original."""
        import tensorflow as tf

        walked = copied = self._folded(features, 1, is_learning)
        if self._walked is not None and is_training:
            if is_learning:
                copied = self._folded(features, 1, False)
            copied = tf.stop_gradient(copied)
        return tf.concat([walked, tf.repeat(copied, self.design.copies - 1, axis=1)], axis=1)

    def _folded(self, features: Any, num_branches: int, is_learning: bool) -> Any:
        import tensorflow as tf

        shape = tf.shape(features)
        folded = tf.reshape(features, (-1, *features.shape[2:]))
        # Else BatchNorm runs on its stored statistics, as in the backbone that made the cache.
        outputs = tf.cast(self._tail(folded, training=is_learning), tf.float32)
        return tf.reshape(outputs, (shape[0], num_branches, self._num_features))

    @property
    def trainable_variables(self) -> list[Any]:
        """The head's and the tail's trainable Keras variables."""
        return [*self.head.variables.values(), *self._tail.trainable_variables]

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Give all weights one by one, by a name that is the same in every process and node."""
        for name, variable in self._variables().items():
            yield name, np.array(variable.numpy())

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies of all weights by name (see `arrays`)."""
        return dict(self.arrays())

    def assign(self, weights: Mapping[str, np.ndarray]) -> list[str]:
        """Take over the weights that have a known name.

        Args:
            weights: arrays by name, as from `weights`; may lack some.

        Returns:
            The names that were taken over.

        Raises:
            TrainingError: an array has another shape than this topology's.
        """
        variables = self._variables()
        taken = [name for name in variables if name in weights]
        for name in taken:
            expected, found = tuple(variables[name].shape), weights[name].shape
            if expected != found:
                raise TrainingError(
                    f"weights {name} have shape {found}, this topology needs {expected}; start "
                    "from a run with the same branches, fusion, classes and backbone"
                )
        for name in taken:
            variables[name].assign(weights[name])
        return taken

    def _variables(self) -> dict[str, Any]:
        head = {f"head/{name}": variable for name, variable in self.head.variables.items()}
        return {**head, **dict(zip(self._names, self._tail.weights, strict=True))}


def _tail_names(tail: Any) -> list[str]:
    """Name the tail's weights by its layers' canonical names, in the order of `tail.weights`."""
    names = [
        f"tail/{layer.name}/{i}"  # by index: some of Keras's own variable names change
        for layer in tail.layers
        for i in range(len(layer.weights))
    ]
    if len(set(names)) != len(names) or len(names) != len(tail.weights):
        raise TrainingError(f"{tail.name}: two weights of the tail have the same name")
    return names
