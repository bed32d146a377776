"""A cache of feature maps that no network made, written by the project's own writer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist

import numpy as np

from benchmarks.filling import Batches, fill
from pipelines.networks.nodes import Node
from pipelines.storage.cache import FeatureCache
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.plan import Plan, Task, split_into_tasks
from pipelines.storage.probe import Probe

_BRANCHES = ("original", *(f"q{qf:03d}" for qf in range(10, 101, 10)))
_ROWS_PER_SHARD = 512  # as `compress` cuts shards at most
_CHUNK_ROWS = 64
_PROBE_ROWS = 16
_LIKENESS = 0.9  # correlation of one image's branches


@dataclass(frozen=True)
class Contents:
    """What a cache is to hold.

    Attributes:
        num_rows: images of each split.
        num_classes: labels are drawn evenly from so many.
        density: share of activations that are not zero, over 0 and under 1.
        seed: the same seed gives the same cache.
        made_with: of the fingerprint, what names the network for those who load it.
    """

    num_rows: dict[str, int]
    num_classes: int
    density: float
    seed: int = 0
    made_with: Mapping[str, str] = field(default_factory=dict)


def write(features_dir: Path, node: Node, contents: Contents) -> FeatureCache:
    """Write a float16 cache of eleven branches as `extract` would, and open it.

    Values are normal numbers, the same for all branches of an image up to noise, shifted and cut
    at zero so that a ReLU's share of zeros comes out.

    Args:
        features_dir: the folder of the caches.
        node: gives name and shape.
        contents: how much of what.
    """
    generator = np.random.default_rng(contents.seed)
    draft = Layout(node.shape, _BRANCHES, "float16", "auto", "parquet", rows_per_group=1)
    probe = Probe(draft)
    probe.measure(_draw(generator, _PROBE_ROWS, draft, contents.density))
    num_shards = sum(-(-count // _ROWS_PER_SHARD) for count in contents.num_rows.values())
    tasks = split_into_tasks(contents.num_rows, num_shards, "parquet")
    details = {
        **probe.choice().layout.to_json(),
        "node": node.name,
        "weights": "none",
        "blocks": [node.block],
        "classes": [f"{label:04d}" for label in range(contents.num_classes)],
        "split_note": "",
    }
    fingerprint = {"synthetic": dataclasses.asdict(contents), **contents.made_with}
    plan = Plan("features", FORMAT_VERSION, fingerprint, details, tasks)

    def batches(task: Task) -> Batches:
        for start in range(0, len(task), _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, len(task) - start)
            maps = _draw(generator, count, draft, contents.density)
            yield generator.integers(contents.num_classes, size=count).tolist(), maps

    return fill(features_dir / node.name, plan, batches)


def _draw(
    generator: np.random.Generator, num_images: int, layout: Layout, density: float
) -> np.ndarray:
    """Return feature maps, float32 (images, branches, *shape), 0 or more."""
    shared = generator.standard_normal((num_images, 1, *layout.shape), np.float32)
    shape = (num_images, len(layout.branches), *layout.shape)
    own = generator.standard_normal(shape, np.float32)
    values = _LIKENESS**0.5 * shared + (1 - _LIKENESS) ** 0.5 * own
    return np.maximum(values + np.float32(NormalDist().inv_cdf(density)), 0)
