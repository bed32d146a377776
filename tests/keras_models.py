"""Networks of random weights, built once for the whole session; no test changes one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pipelines.networks import backbones, nodes


@functools.cache
def model_of(name: str) -> Any:
    """Return a backbone's Keras model."""
    return backbones.load(name, "none", seed=7).model


@functools.lru_cache(maxsize=4)
def small_model(builder: str, side: int) -> Any:
    """Return a network of keras.applications with 5 classes and a small input."""
    import keras

    keras.utils.set_random_seed(1)
    model = getattr(keras.applications, builder)(
        input_shape=(side, side, 3), weights=None, classes=5
    )
    # Kernels are random; biases and statistics are all 0 or 1, so one not copied would not show.
    generator = np.random.default_rng(2)
    values = [
        w + (w.ndim == 1) * generator.uniform(-0.1, 0.1, w.shape).astype(w.dtype)
        for w in model.get_weights()
    ]
    model.set_weights(values)
    return model


def listed(name: str) -> dict[str, nodes.Node]:
    """Return the nodes of a backbone by name."""
    return {node.name: node for node in nodes.list_nodes(name, model_of(name))}
