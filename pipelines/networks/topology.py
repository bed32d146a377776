"""The topology behind a cut: one tail for all branches, joined in front of one decision layer.

    (batch, branch, *shape) -fold-> (batch * branch, *shape) -tail-> (batch * branch, D)
    -unfold-> (batch, branch * D) -head-> (batch, classes)

Source: thesis, figure 3.5 and section 3.4.2. The tail is shared; with `gradients="original"` only
the original branch is walked backward, the others go forward with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.errors import TrainingError
from pipelines.networks import nodes
from pipelines.networks.backbones import Backbone
from pipelines.storage.variants import ORIGINAL


class Topology:
    """Tail and head with their weights.

    Attributes:
        branches: names, in the order of the branch axis.
        num_features: D, what the tail gives for one branch.
        input_shape: (branches, *shape), of one image's features.
    """

    def __init__(
        self,
        backbone: Backbone,
        node: nodes.Node,
        branches: Sequence[str],
        num_classes: int,
        gradients: str,
        seed: int,
    ) -> None:
        """Build tail and head; the tail has the backbone's weights, the head is random.

        Args:
            backbone: the whole network.
            node: where the cache was cut.
            branches: names, in the order of the branch axis.
            num_classes: classes of the labelled images.
            gradients: "original" or "all".
            seed: fixes the head's start (Glorot uniform).

        Raises:
            TrainingError: gradients come from the original, which is no branch.
        """
        import keras

        if gradients == "original" and ORIGINAL not in branches:
            raise TrainingError(
                "gradients original, but the branches lack original; add it or use --gradients all"
            )
        self.branches = tuple(branches)
        self.input_shape = (len(branches), *node.shape)
        self._tail = nodes.tail(backbone.model, node)
        self._tail.trainable = True
        self._walked = branches.index(ORIGINAL) if gradients == "original" else None
        self.num_features = int(self._tail.output.shape[-1])
        width = self.num_features * len(branches)
        limit = np.sqrt(6.0 / (width + num_classes))
        values = _random_uniform(seed, (width, num_classes)) * limit
        self._kernel = keras.Variable(values.astype(np.float32), name="kernel")
        self._bias = keras.Variable(np.zeros(num_classes, np.float32), name="bias")
        self._names = _tail_names(self._tail)

    def logits(self, features: Any, is_training: bool) -> Any:
        """Run tail and head.

        Args:
            features: (batch, branches, *shape) float16 or float32.
            is_training: leave out of the gradient what is not to be walked backward.

        Returns:
            float32 (batch, classes).
        """
        import tensorflow as tf

        features = tf.cast(features, tf.float32)
        num_branches = len(self.branches)
        if self._walked is None or not is_training or num_branches == 1:
            joined = self._folded(features, num_branches)
        else:
            i = self._walked
            walked = self._folded(features[:, i : i + 1], 1)
            rest = tf.concat([features[:, :i], features[:, i + 1 :]], axis=1)
            rest = tf.stop_gradient(self._folded(rest, num_branches - 1))
            cut = i * self.num_features
            joined = tf.concat([rest[:, :cut], walked, rest[:, cut:]], axis=1)
        return tf.matmul(joined, self._kernel.value) + self._bias.value

    def _folded(self, features: Any, num_branches: int) -> Any:
        import tensorflow as tf

        shape = tf.shape(features)
        folded = tf.reshape(features, (-1, *features.shape[2:]))
        # BatchNorm runs on its stored statistics, as in the backbone that made the cache.
        outputs = self._tail(folded, training=False)
        return tf.reshape(outputs, (shape[0], num_branches * self.num_features))

    @property
    def trainable_variables(self) -> list[Any]:
        """The head's and the tail's trainable Keras variables."""
        return [self._kernel, self._bias, *self._tail.trainable_variables]

    def weights(self) -> dict[str, np.ndarray]:
        """Return all weights by a name that is the same in every process and for every node."""
        return {name: variable.numpy().copy() for name, variable in self._variables().items()}

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
                    f"weights {name} have shape {found}, this topology needs {expected}; "
                    "start from a run with the same branches, classes and backbone"
                )
        for name in taken:
            variables[name].assign(weights[name])
        return taken

    def _variables(self) -> dict[str, Any]:
        tail = dict(zip(self._names, self._tail.weights, strict=True))
        return {"head/kernel": self._kernel, "head/bias": self._bias, **tail}

    def set_pretrained_head(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Start at the default network: its classifier on the original branch, zeros elsewhere.

        Args:
            kernel: float32 (D, classes).
            bias: float32 (classes,).
        """
        values = np.zeros(self._kernel.shape, np.float32)
        start = self.branches.index(ORIGINAL) * self.num_features
        values[start : start + self.num_features] = kernel
        self._kernel.assign(values)
        self._bias.assign(bias)


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


def _random_uniform(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Return numbers in [-1, 1) from PCG64's raw stream, which NumPy keeps the same for ever."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, 0x4EAD])).random_raw(shape[0] * shape[1])
    return ((bits >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)
