"""Stage 2: every version of every image through the frozen network, what it gives kept on disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.compression import plans, sets
from pipelines.compression.plans import Asked
from pipelines.config import CompressConfig, ExtractConfig
from pipelines.errors import ConfigError
from pipelines.execution import local, shares
from pipelines.execution.engine import Engine
from pipelines.execution.shares import Share
from pipelines.extraction import finished, job, network, origins, summary
from pipelines.extraction.crews import Places, manned
from pipelines.extraction.origins import Opened
from pipelines.extraction.plans import Settings, Target
from pipelines.extraction.times import Times
from pipelines.images.encode import Encoder
from pipelines.networks import backbones, models
from pipelines.progress import Progress
from pipelines.storage import locks, set_folders
from pipelines.storage.cache import find_folder
from pipelines.storage.manifest import ShardFolder


def run(
    workspace_dir: Path,
    config: ExtractConfig,
    seed: int,
    progress: Progress,
    engine: Engine = local.open_crew,
    compress_config: CompressConfig | None = None,
) -> dict[str, Any]:
    """Make the caches of one or more nodes, or a share of them, going on where a start stopped.

    Args:
        workspace_dir: holds variants and caches.
        config: the settings.
        seed: of random weights, and of splits where variants are made on the fly.
        progress: told about the images.
        engine: does the work.
        compress_config: says which images, and how, where variants are made on the fly.

    Returns:
        The summary: stage, num_images, num_quarantined, num_shards, num_planned_shards, size_bytes,
        seconds, num_resumed_shards, num_other_shards (that other shares made meanwhile), is_whole;
        of this start, None where nothing was left:
        images_per_s, device (shares of its time: busy, wait_decode, wait_disk, wait_write),
        num_workers; on_the_fly (check_s, variants_s, in processor seconds; None without); nodes:
        name -> density, encoding, reason, dtype, format, size_bytes, num_branches, shape,
        clipped_share (uint8), cut_check (None where there was none).

    Raises:
        ConfigError: an unknown backbone, branch, device or share.
        NodeError: a node is no valid cut, or does not lie behind the one to start from.
        WeightsError: the weights are missing or do not fit.
        ManifestError: there are no variants, or a cache of the node has other settings.
        FeatureError: an activation cannot be stored, or the cut changes the network's scores.
        ShardError: a shard is damaged, or the disk refuses.
        SourceError: images cannot be used, or have changed, where variants are made on the fly.
        WorkerError: workers cannot start, or die again and again.
    """
    started = time.monotonic()
    share = shares.choose(config.task_index, config.num_tasks)
    call = _Call(workspace_dir, config, seed, progress, engine, share)
    encoder = _list_images(call, compress_config) if config.on_the_fly else None
    check_s = time.monotonic() - started
    path = _origin_path(call)
    with locks.reading(path) as marks:
        opened = _open_origin(call, path, encoder)
        done, of_this_start = _fill(call, opened, marks)
    made_s = {"check_s": round(check_s, 3), "variants_s": round(done.times.variants_s, 3)}
    return {
        "stage": "extract",
        "num_images": opened.num_images,
        "num_quarantined": opened.num_quarantined,
        "num_shards": sum(len(output.receipts) for output in done.outputs),
        "num_planned_shards": sum(len(output.plan.tasks) for output in done.outputs),
        "size_bytes": sum(map(summary.size_bytes, done.outputs)),
        "seconds": round(time.monotonic() - started, 3),
        "num_resumed_shards": done.num_resumed_shards,
        "num_other_shards": sum(output.num_from_others for output in done.outputs),
        "is_whole": done.is_whole,
        **of_this_start,
        "on_the_fly": made_s if config.on_the_fly else None,
        "nodes": {str(o.plan.details["node"]): summary.of_cache(o) for o in done.outputs},
    }


@dataclass(frozen=True)
class _Call:
    """What a start was called with."""

    workspace_dir: Path
    config: ExtractConfig
    seed: int
    progress: Progress
    engine: Engine
    share: Share

    @property
    def features_dir(self) -> Path:
        return self.workspace_dir / self.config.caches_dir

    @property
    def weights(self) -> str:
        return models.weights_path(self.workspace_dir, self.config.weights)


def _list_images(call: _Call, config: CompressConfig | None) -> Encoder:
    """Find out which images can be used, without storing variants; returns what makes these."""
    if call.config.from_node:
        raise ConfigError("on-the-fly and from-node: choose one to start from", is_usage=True)
    if config is None:
        raise ValueError("on_the_fly needs the settings of compress")
    overwrite = config.overwrite or call.config.overwrite
    settings = {**config.model_dump(), "set": call.config.set, "overwrite": overwrite}
    asked = Asked.from_settings(settings, call.seed, is_stored=False)
    way = sets.Way(call.engine, config.workers, config.hang_timeout)
    plans.check_named(call.workspace_dir, asked)
    set_dir = call.workspace_dir / set_folders.listed(call.config.set)
    with locks.planning(set_dir.parent, call.progress.say):  # one share does it for all
        made = sets.make(call.workspace_dir, set_dir, asked, way, call.progress)
    return dataclasses.replace(made.encoder, is_stored=True)


def _origin_path(call: _Call) -> Path:
    if call.config.on_the_fly:
        return call.workspace_dir / set_folders.listed(call.config.set)
    if not call.config.from_node:
        return call.workspace_dir / set_folders.stored(call.config.set)
    return find_folder(call.features_dir, call.config.from_node)


def _open_origin(call: _Call, path: Path, encoder: Encoder | None) -> Opened:
    if call.config.from_node:
        return origins.open_node(path, call.config.branches, call.config.backbone)
    return origins.open_images(path, call.config.branches, encoder)


def _fill(
    call: _Call, opened: Opened, marks: Sequence[locks.Lock]
) -> tuple[job.Done, dict[str, Any]]:
    """Fill the caches, unless they are whole; returns what is said of this start alone, too."""
    config = call.config
    named = finished.names(call.features_dir, config.node, config.backbone)
    asked = _asked(call, opened, named)
    outputs = finished.find(call.features_dir, named, asked, config.overwrite)
    if outputs and finished.are_checked(outputs, config.check_images, opened.num_images):
        held = sum(len(output.receipts) for output in outputs)
        nothing = {"images_per_s": None, "device": None, "num_workers": None}
        return job.Done(outputs, held, 0, 0, True, Times()), nothing
    places = Places(config.devices, config.workers, config.threads, config.hang_timeout)
    work, rows = _work(call, opened, asked), opened.num_rows()
    with manned(call.engine, work, places, rows, call.progress.say) as crew:
        begun = time.monotonic()
        way = job.Way(config.check_images, call.share, marks, config.workers)
        targets = _targets(call, opened, asked, crew.facts)
        done = job.fill(opened, targets, crew.crew, _settings(config), way, call.progress)
        seconds = time.monotonic() - begun
    return done, {
        "images_per_s": round(done.num_images / seconds, 3) or None,
        "device": done.times.shares(),
        "num_workers": min(crew.num_workers, max(1, done.num_shards)),
    }


def _asked(call: _Call, opened: Opened, named: Sequence[str]) -> dict[str, Any]:
    """Return the part of the fingerprint that is known before TensorFlow is loaded."""
    config = call.config
    asked: dict[str, Any] = {
        **opened.identity,
        "branches": list(opened.branches),
        "backbone": config.backbone,
        **backbones.weights_identity(config.backbone, call.weights),
        **({"weights_seed": call.seed} if config.weights == "none" else {}),
        "dtype": config.dtype,
        "encoding": config.encoding,
        "format": config.format,
        "shards": config.shards,
        "shard_bytes": config.shard_size,
        "profile": {"precision": config.precision, "threads": config.threads},
    }
    batch_size = config.batch_size or finished.planned_batch_size(
        call.features_dir, named, asked, config.overwrite
    )
    return {**asked, **({"batch_size": batch_size} if batch_size else {})}


def _work(call: _Call, opened: Opened, asked: Mapping[str, Any]) -> network.Job:
    return network.Job(
        backbone=call.config.backbone,
        weights=call.weights,
        # As train-tail will load it: a seed that the fingerprint lacks must decide no weight.
        weights_seed=asked.get("weights_seed", 0),
        nodes=tuple(call.config.node),
        origin=opened.origin,
        batch_size=asked.get("batch_size", 0),
        precision=call.config.precision,
        threads=call.config.threads,
    )


def _settings(config: ExtractConfig) -> Settings:
    return Settings(
        dtype=config.dtype,
        encoding=config.encoding,
        format=config.format,
        shards=config.shards,
        shard_bytes=config.shard_size,
        overwrite=config.overwrite,
    )


def _targets(
    call: _Call, opened: Opened, asked: Mapping[str, Any], facts: network.Facts
) -> list[Target]:
    """Say what the caches are to be, now that the network is known."""
    fingerprint = {
        "protocol": facts.protocol.describe(),
        **asked,
        "weights_sha256": facts.weights_sha256,
        "profile": facts.profile,
        "batch_size": facts.batch_size,
    }
    return [
        Target(
            ShardFolder(call.features_dir / node.name),
            node.shape,
            {**fingerprint, "node": node.name},
            {
                "node": node.name,
                "weights": models.kept_weights(call.workspace_dir, call.weights),
                "blocks": list(node.blocks),
                "feeds_decision": node.feeds_decision,
                **opened.published,
            },
        )
        for node in facts.nodes
    ]
