"""Fill a cache from any source of feature maps, by the project's own writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pipelines.storage import cells, feature_writer
from pipelines.storage.cache import FeatureCache, shard_of
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task
from pipelines.storage.rows import Shard

Batches = Iterable[tuple[list[int], np.ndarray]]
"""Labels, and feature maps, float32 (images, branches, *shape)."""


def fill(folder: Path, plan: Plan, batches_of: Callable[[Task], Batches]) -> FeatureCache:
    """Write every shard of a plan as `extract` would, and open the cache."""
    shards = ShardFolder(folder)
    shards.publish(plan)
    receipts = {}
    for task in plan.tasks:
        receipts[task.shard] = fill_shard(shard_of(folder, plan, task.shard), batches_of(task))
        shards.commit(plan, receipts[task.shard])
    shards.finish(plan, receipts)
    return FeatureCache(folder)


def fill_shard(shard: Shard, batches: Batches) -> Receipt:
    """Encode and write one shard; its images are named after it and numbered."""
    count = 0
    with feature_writer.open_shard(shard) as writer:
        for labels, maps in batches:
            ids = [f"{shard.path.name}/{count + i}" for i in range(len(maps))]
            writer.add(ids, labels, cells.encode(maps, shard.layout))
            count += len(maps)
    return writer.receipt()
