"""What the devices do to a batch: a step of gradient descent, or scores to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.execution.replicas import Replicas
from pipelines.networks.topology import Topology
from pipelines.training.feeds import Fed, Feed


@dataclass(frozen=True)
class Descent:
    """How a model's weights follow the gradient; as the thesis has it where nothing else is said.

    Attributes:
        momentum: of the steps before, 0 for none.
        weight_decay: share of each weight that a step takes away, times the learning rate; biases
            and BatchNorm's scales and shifts keep theirs (Loshchilov and Hutter, Decoupled Weight
            Decay Regularization, 2019).
        label_smoothing: share of the target that is spread evenly over all classes.
        is_scaled: scale the loss up for float16's small gradients.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    is_scaled: bool = False


def build_optimizer(descent: Descent, topology: Topology) -> Any:
    """Make the Keras optimizer of a model, with its state."""
    import keras

    variables = topology.trainable_variables
    optimizer = keras.optimizers.SGD(
        0.0, momentum=descent.momentum, weight_decay=descent.weight_decay or None
    )
    if descent.weight_decay:
        kept = [variable for variable in variables if len(variable.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=kept)
    if descent.is_scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def compile_step(
    topology: Topology, optimizer: Any, feed: Feed, descent: Descent, replicas: Replicas
) -> Callable[[Fed], Any]:
    """Compile a training step.

    Returns:
        A function of a batch to float32 (2,): the mean loss in nats and the share of images whose
        label has the highest score, both from before the step.
    """
    import tensorflow as tf

    variables = topology.trainable_variables

    def step(*tensors: Any) -> Any:
        *maps, labels, weights, num_images = tensors
        with tf.GradientTape() as tape:
            logits = topology.logits(feed.unpack(*maps), True)
            losses = _losses(logits, labels, descent.label_smoothing)
            loss = tf.reduce_sum(losses * weights) / num_images
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        if descent.is_scaled:
            gradients = replicas.share_overflow(gradients)
        optimizer.apply(gradients, variables)
        hits = tf.cast(
            tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels), tf.float32
        )
        return tf.stack([loss, tf.reduce_sum(hits * weights) / num_images])

    run = replicas.compile_sum(step, feed.signature)
    return lambda fed: run(fed.parts, fed.num_images)


def compile_scores(
    topology: Topology, feed: Feed, replicas: Replicas
) -> Callable[[Fed], np.ndarray]:
    """Compile a forward pass.

    Returns:
        A function of a batch to float32 (images, classes) of the images that are here.
    """

    def scores(*tensors: Any) -> Any:
        *maps, _, _, _ = tensors
        return topology.logits(feed.unpack(*maps), False)

    run = replicas.compile_each(scores, feed.signature)

    def of(fed: Fed) -> np.ndarray:
        found = [part.numpy() for part in run(fed.parts, fed.num_images)]
        return np.concatenate(found)[: len(fed.labels)]  # what filled up a part comes last

    return of


def compile_logits(topology: Topology) -> Callable[[np.ndarray], Any]:
    """Return a compiled forward pass: float32 (batch, branches, *shape) -> float32 logits."""
    import tensorflow as tf

    # One trace for batches of every size, the smaller last one included.
    return tf.function(
        lambda features: topology.logits(features, False),
        input_signature=[tf.TensorSpec((None, *topology.input_shape), tf.float32)],
        autograph=False,
    )


def _losses(logits: Any, labels: Any, smoothing: float) -> Any:
    """Return float32 (batch,) cross entropies in nats."""
    import tensorflow as tf

    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if smoothing:
        spread = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
        losses = (1 - smoothing) * losses + smoothing * spread
    return losses
