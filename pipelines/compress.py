"""Stage 1: every image as it is and in ten other versions, in variants/jpeg/ or control/."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipelines.compression import sets
from pipelines.compression.plans import Asked
from pipelines.config import CompressConfig
from pipelines.execution import local, shares
from pipelines.execution.engine import Engine
from pipelines.progress import Progress
from pipelines.storage import set_folders


def run(
    workspace_dir: Path,
    config: CompressConfig,
    seed: int,
    progress: Progress,
    engine: Engine = local.open_crew,
) -> dict[str, Any]:
    """Make the variant set or a share of it, going on where an earlier run stopped.

    Returns:
        The summary: stage, num_images, num_quarantined, num_shards, num_planned_shards, size_bytes,
        seconds, num_resumed_shards, num_other_shards (that other shares made meanwhile), is_whole.

    Raises:
        ConfigError: no images are named, or there is no such share.
        SourceError: the images cannot be used, or too many of them are bad.
        ManifestError: the set was made with other settings, or others are at work.
        ShardError: the disk refuses.
        WorkerError: processes that encode cannot start, or die again and again.
    """
    started = time.monotonic()
    asked = Asked.from_settings(config.model_dump(), seed)
    share = shares.choose(config.task_index, config.num_tasks)
    way = sets.Way(engine, config.workers, config.hang_timeout, share)
    set_dir = workspace_dir / set_folders.stored(config.set)
    made = sets.make(workspace_dir, set_dir, asked, way, progress)
    receipts = made.output.receipts.values()
    return {
        "stage": "compress",
        "num_images": sum(receipt.num_rows for receipt in receipts),
        "num_quarantined": made.num_quarantined,
        "num_shards": len(receipts),
        "num_planned_shards": len(made.output.plan.tasks),
        "size_bytes": sum(receipt.size_bytes for receipt in receipts),
        "seconds": round(time.monotonic() - started, 3),
        "num_resumed_shards": made.num_resumed_shards,
        "num_other_shards": made.output.num_from_others,
        "is_whole": made.is_whole,
    }
