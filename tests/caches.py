"""Feature caches made up by the tests, and a network small enough to train in milliseconds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.networks import backbones
from pipelines.storage import cells, feature_writer, formats
from pipelines.storage.cache import FeatureCache, shard_of
from pipelines.storage.dtypes import Ranges
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, split_into_tasks

BRANCHES = ("original", "q010", "q050")
ROWS = {"train": 44, "val": 20, "test": 30}


@functools.cache
def tiny() -> backbones.Backbone:
    """Build a network of two convolutions and five classes; no test changes its weights."""
    import keras

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(7, 3, padding="same", use_bias=False, name="second")(x)
    x = keras.layers.BatchNormalization(name="second_bn")(x)
    x = keras.layers.ReLU(name="second_relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    outputs = keras.layers.Dense(5, activation="softmax", name="predictions")(x)
    model = keras.Model(inputs, outputs, name="tiny")
    rng = np.random.default_rng(5)
    model.set_weights([rng.uniform(0.1, 0.6, w.shape) for w in model.get_weights()])
    return backbones.Backbone(
        name="tiny",
        model=model,
        input_size=8,
        protocol="raw",
        weights="none",
        weights_sha256=hashlib.sha256(b"tiny").hexdigest(),
        has_classifier=True,
        num_classes=5,
    )


@functools.cache
def lite0() -> backbones.Backbone:
    """Load EfficientNet-Lite0 with its real weights; no test changes them."""
    return backbones.load("efficientnet_lite0")


def make_cache(
    folder: Path,
    backbone: backbones.Backbone,
    shape: Sequence[int],
    *,
    classes: Sequence[str] = ("ant", "bee", "cow", "doe"),
    branches: Sequence[str] = BRANCHES,
    rows: Mapping[str, int] = ROWS,
    dtype: str = "float32",
    encoding: str = "dense",
    format: str = "parquet",
    noise: float = 1.0,
    seed: int = 0,
    labels_of: Mapping[str, int] | None = None,
    blocks: Sequence[str] = ("FC",),
    images: str = "some",
    signal: Mapping[str, float] | None = None,
    labels_seed: int | None = None,
) -> FeatureCache:
    """Write the cache `folder` of a node, as extract would leave it, and open it.

    Args:
        folder: its name is the node's.
        backbone: the network that the cache claims to be made with.
        shape: of one feature map.
        classes: names; the number of classes follows.
        branches: names; every branch has noise of its own.
        rows: images of each split.
        dtype: as stored; uint8 has scales that hold every value.
        encoding: sparse or dense.
        format: of the shards.
        noise: deviation of a value from its class's mean, which is itself of about 1.
        seed: another one gives other features.
        labels_of: by image, a label instead of its own.
        blocks: that the cache says lie behind its node.
        images: what stands for the hash of all images.
        signal: by branch, by how much its class's mean counts, where that is not 1.
        labels_seed: of the labels, where caches of other branches are to have the same.
    """
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 1, (len(classes), 1, *shape))
    weights = np.array([(signal or {}).get(name, 1.0) for name in branches], np.float32)
    means = means * weights.reshape(-1, *[1] * len(shape))
    tasks = split_into_tasks(rows, 5, formats.FORMATS[format].SUFFIX)
    drawn = []
    labels_rng = rng if labels_seed is None else np.random.default_rng(labels_seed)
    for task in tasks:
        labels = labels_rng.integers(0, len(classes), len(task))
        spread = rng.normal(0, noise, (len(task), len(branches), *shape))
        drawn.append((labels, np.maximum(means[labels] + spread, 0).astype(np.float32)))
    layout = Layout(tuple(shape), tuple(branches), dtype, encoding, format, rows_per_group=8)
    if dtype == "uint8":
        ranges = functools.reduce(Ranges.joined, [Ranges.of(maps) for _, maps in drawn])
        scales, zero_points = ranges.quantisation()
        layout = dataclasses.replace(layout, scales=scales, zero_points=zero_points)
    details = {
        **layout.to_json(),
        "node": folder.name,
        "classes": list(classes),
        "split_note": "",
        "weights": backbone.weights,
        "blocks": list(blocks),
    }
    fingerprint = {
        "node": folder.name,
        "backbone": backbone.name,
        "weights_sha256": backbone.weights_sha256,
        "images_sha256": images,
        "made_up": {
            "seed": seed,
            "noise": noise,
            "rows": dict(rows),
            "dtype": dtype,
            "branches": list(branches),
        },
    }
    plan = Plan("features", FORMAT_VERSION, fingerprint, details, tasks)
    shards = ShardFolder(folder)
    shards.publish(plan)
    receipts = {}
    for task, (labels, maps) in zip(tasks, drawn, strict=True):
        names = [f"{task.split}/{row:04d}" for row in range(task.start, task.stop)]
        labels = [(labels_of or {}).get(*pair) for pair in zip(names, labels, strict=True)]
        with feature_writer.open_shard(shard_of(folder, plan, task.shard)) as writer:
            for i in range(0, len(task), 4):
                some = slice(i, i + 4)
                writer.add(names[some], labels[some], cells.encode(maps[some], layout))
        receipts[task.shard] = writer.receipt()
        shards.commit(plan, receipts[task.shard])
    shards.finish(plan, receipts)
    return FeatureCache(folder)


def read_split(
    cache: FeatureCache, split: str, branches: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read all of a split: features (images, branches, *shape), labels, ids."""
    batches = list(cache.split(split, branches or cache.layout.branches, 0).in_order(16))
    return (
        np.concatenate([batch.features for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        [name for batch in batches for name in batch.ids or ()],
    )
