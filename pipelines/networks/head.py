"""The decision layer, and how the branches' features are joined in front of it.

A fusion turns float32 (batch, branches, D) into (batch, width):

    concat         all branches side by side, branches * D (thesis, section 3.4.2)
    mean           their average, D
    original_mean  the original beside the average of all, 2 * D
    weighted       an average with a learned weight a branch, D
    gated          the same with weights from the image's own features, D

The weights of `weighted` and `gated` are a softmax over the branches that starts uniform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.storage.variants import ORIGINAL

CONCAT, MEAN, ORIGINAL_MEAN, WEIGHTED, GATED = (
    *("concat", "mean", "original_mean"),
    *("weighted", "gated"),
)
FUSIONS = (CONCAT, MEAN, ORIGINAL_MEAN, WEIGHTED, GATED)


@dataclass(frozen=True)
class Joined:
    """What a head joins.

    Attributes:
        branches: names, in the order of the branch axis.
        num_features: D, the tail's output for one branch.
        fusion: one of `FUSIONS`.
    """

    branches: tuple[str, ...]
    num_features: int
    fusion: str

    @property
    def width(self) -> int:
        """Numbers an image that the decision layer reads."""
        times = {CONCAT: len(self.branches), ORIGINAL_MEAN: 2}.get(self.fusion, 1)
        return times * self.num_features


class Head:
    """One dense layer over the joined branches, with its weights.

    Attributes:
        joined: what it joins, and how.
        num_classes: scores it gives.
    """

    def __init__(self, joined: Joined, num_classes: int, seed: int) -> None:
        """Start at random: Glorot uniform, bias 0, every branch with the same weight.

        Args:
            joined: what it joins, and how.
            num_classes: scores it gives.
            seed: of the kernel.
        """
        import keras

        self.joined, self.num_classes = joined, num_classes
        limit = np.sqrt(6.0 / (joined.width + num_classes))
        kernel = _random_uniform(seed, (joined.width, num_classes)) * limit
        starts = {"kernel": kernel, "bias": np.zeros(num_classes)}
        if joined.fusion in (WEIGHTED, GATED):
            starts["branch_scores"] = np.zeros(len(joined.branches))
        if joined.fusion == GATED:
            starts["gate"] = np.zeros(joined.num_features)
        self.variables = {
            name: keras.Variable(start.astype(np.float32), name=name)
            for name, start in starts.items()
        }

    def logits(self, features: Any, compute_dtype: str = "float32") -> Any:
        """Join the branches and score the classes.

        Args:
            features: float32 (batch, branches, D).
            compute_dtype: of the product; a mixed policy's is a smaller one.

        Returns:
            float32 (batch, classes).
        """
        import tensorflow as tf

        joined = tf.cast(self.fused(features), compute_dtype)
        kernel = tf.cast(self.variables["kernel"].value, compute_dtype)
        return tf.cast(tf.matmul(joined, kernel), tf.float32) + self.variables["bias"].value

    def fused(self, features: Any) -> Any:
        """Join the branches: float32 (batch, branches, D) to (batch, width)."""
        import tensorflow as tf

        fusion = self.joined.fusion
        if fusion == CONCAT:
            return tf.reshape(features, (-1, self.joined.width))
        if fusion in (MEAN, ORIGINAL_MEAN):
            mean = tf.reduce_mean(features, axis=1)
            original = self.joined.branches.index(ORIGINAL) if fusion == ORIGINAL_MEAN else 0
            alone = [features[:, original]] if fusion == ORIGINAL_MEAN else []
            return tf.concat([*alone, mean], axis=1)
        scores = self.variables["branch_scores"].value
        if fusion == GATED:
            # Divided as in attention, so that the weights of wide features do not jump at once.
            gate = self.variables["gate"].value / math.sqrt(self.joined.num_features)
            scores = scores + tf.linalg.matvec(features, gate)
        weights = tf.nn.softmax(scores, axis=-1)
        return tf.reduce_sum(features * weights[..., tf.newaxis], axis=1)

    def start_pretrained(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Start at the network's own classifier.

        With `concat` and `original_mean` it stands on the original, zeros elsewhere: the scores are
        those of the default network. The others have one kernel for all branches: their scores are
        the average of the default network's over the branches.

        Args:
            kernel: float32 (D, classes).
            bias: float32 (classes,).
        """
        joined, values = self.joined, np.zeros(self.variables["kernel"].shape, np.float32)
        start = 0
        if joined.fusion == CONCAT:
            start = joined.branches.index(ORIGINAL) * joined.num_features
        values[start : start + joined.num_features] = kernel
        self.variables["kernel"].assign(values)
        self.variables["bias"].assign(bias)


def needs_original(fusion: str, branches: Sequence[str]) -> bool:
    """Tell whether a fusion asks for the original, and the branches lack it."""
    return fusion == ORIGINAL_MEAN and ORIGINAL not in branches


def _random_uniform(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Return numbers in [-1, 1) from PCG64's raw stream, which NumPy keeps the same for ever."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, 0x4EAD])).random_raw(shape[0] * shape[1])
    return ((bits >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)
