"""What the caches of a workspace hold: zeros and sizes (thesis, tables 4.1 and 4.2; figure 3.1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import holdings
from pipelines.analysis import plots
from pipelines.config import StatsConfig
from pipelines.errors import ManifestError
from pipelines.progress import Progress
from pipelines.storage import atomic, locks, set_folders
from pipelines.storage.cache import FeatureCache, find_cache
from pipelines.storage.manifest import MANIFEST

STATS_DIR = "stats"
_BATCH_SIZE = 16


def run(
    workspace_dir: Path, features_dir: Path, config: StatsConfig, progress: Progress
) -> dict[str, Any]:
    """Sum up the caches and the originals; draw pictures into stats/ of the workspace.

    Returns:
        The summary: stage, nodes: name -> density, zeros_by_branch, bytes_per_map,
        dense_bytes_per_map, raw_sparse_bytes_per_map, shard_bytes, num_images, num_shards, dtype,
        encoding, format; qf_histogram: num_images, num_unknown, num_by_qf (None without
        variants); pictures: paths relative to the workspace; seconds.

    Raises:
        ManifestError: there is neither a cache nor a set of variants, or not the one asked for.
        ShardError: a shard is damaged.
    """
    started = time.monotonic()
    caches = _open_caches(features_dir, config.node)
    sets = [workspace_dir / set_folders.stored(name) for name in set_folders.SETS]
    whole = [path for path in sets if (path / MANIFEST).exists()]  # with the same originals
    if not caches and not whole:
        raise ManifestError(
            f"{workspace_dir}: neither variants nor caches here; run `bottleneck compress` and "
            "`bottleneck extract` first"
        )
    atomic.make_folder(workspace_dir / STATS_DIR)
    ending = set_folders.ending(set_folders.settings_of(features_dir.name)[1])
    pictures = []
    for cache in caches:
        path = workspace_dir / STATS_DIR / f"density{ending}-{cache.path.name}.png"
        plots.channel_density(_channel_density(cache, config.images, progress), path)
        pictures.append(path)
    histogram = None
    if whole:
        histogram = holdings.qualities(whole[0], config.images, progress, "stats originals")
        pictures.append(workspace_dir / STATS_DIR / "qf-histogram.png")
        plots.qf_histogram(histogram, pictures[-1])
    return {
        "stage": "stats",
        "nodes": {cache.path.name: holdings.sizes(cache) for cache in caches},
        "qf_histogram": histogram,
        "pictures": [path.relative_to(workspace_dir).as_posix() for path in pictures],
        "seconds": round(time.monotonic() - started, 3),
    }


def _open_caches(features_dir: Path, asked: Sequence[str]) -> list[FeatureCache]:
    if asked:
        return [find_cache(features_dir, name) for name in asked]
    return [FeatureCache(path.parent) for path in sorted(features_dir.glob("*/manifest.json"))]


def _channel_density(cache: FeatureCache, limit: int, progress: Progress) -> plots.ChannelDensity:
    """Count, in the first images, how often each channel is not zero."""
    layout = cache.layout
    total = sum(cache.num_rows(split) for split in cache.splits)
    num_images = min(limit or total, total)
    counts = np.zeros((len(layout.branches), layout.num_channels), np.int64)
    with locks.reading(cache.path):
        reader = cache.reader(cache.splits, rows=np.arange(num_images))
        progress.start(f"stats {cache.path.name}", num_images, "image")
        for batch in reader.in_order(_BATCH_SIZE, layout.dtype):
            maps = batch.features.reshape(len(batch.labels), len(counts), -1, layout.num_channels)
            counts += np.count_nonzero(maps, axis=(0, 2))
            progress.advance(len(maps))
    shares = counts / (num_images * layout.num_positions)
    return plots.ChannelDensity(cache.path.name, layout.branches, num_images, shares)
