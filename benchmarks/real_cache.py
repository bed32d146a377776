"""A cache of feature maps that are at hand, and more of them where they are few."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.filling import Batches, fill
from pipelines.storage.cache import FeatureCache
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.plan import Plan, Task
from pipelines.storage.probe import Probe

_ROWS_PER_BATCH = 16


def write(
    folder: Path, values: np.ndarray, dtype: str, file_format: str, copies: int = 1
) -> FeatureCache:
    """Write maps, float32 (images, branches, *shape), a shard a copy, and open the cache."""
    layout = choose_layout(values, dtype, file_format)
    num_rows = len(values)
    tasks = tuple(
        Task(
            f"train-{i:05d}-of-{copies:05d}.{file_format}",
            "train",
            i * num_rows,
            (i + 1) * num_rows,
        )
        for i in range(copies)
    )
    details = {**layout.to_json(), "node": folder.name, "classes": ["a", "b"]}
    plan = Plan("features", FORMAT_VERSION, {}, details, tasks)
    return fill(folder, plan, lambda _: batches(values))


def choose_layout(values: np.ndarray, dtype: str, file_format: str) -> Layout:
    """Return the layout that a probe of these maps chooses."""
    branches = tuple(f"b{i:02d}" for i in range(values.shape[1]))
    probe = Probe(Layout(values.shape[2:], branches, dtype, "auto", file_format, 1))
    if probe.needs_ranges:
        probe.see(values)
    probe.measure(values)
    return probe.choice().layout


def batches(values: np.ndarray) -> Batches:
    """Return maps as a network gives them, with labels of two classes by turns."""
    for start in range(0, len(values), _ROWS_PER_BATCH):
        some = values[start : start + _ROWS_PER_BATCH]
        yield [i % 2 for i in range(len(some))], some


def vary(values: np.ndarray, num_images: int) -> np.ndarray:
    """Repeat maps until there are enough, in ways that a compressor cannot see."""
    generator = np.random.default_rng(0)
    parts = []
    for _ in range(-(-num_images // len(values))):
        order = generator.permutation(values.shape[-1])
        parts.append(values[..., order] * np.float32(generator.uniform(0.7, 1.3)))
    return np.ascontiguousarray(np.concatenate(parts)[:num_images])
