"""Stage 2: every version of every image through the frozen network, what it gives kept on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import ExtractConfig
from pipelines.errors import ManifestError
from pipelines.execution import devices
from pipelines.execution.tasks import Output
from pipelines.extraction import cut_check, job
from pipelines.extraction.cut_check import CutCheck
from pipelines.extraction.inputs import CachedNode, Images, Source
from pipelines.extraction.plans import MEND, Settings, Target
from pipelines.images import preprocess
from pipelines.networks import backbones, blocks, forward, models, nodes
from pipelines.progress import Progress
from pipelines.storage import existing, locks, variants
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.fingerprint import check_same, digest
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.manifest import ShardFolder

VARIANTS_DIR = Path("variants") / "jpeg"
# What a chained cache takes over from the one it starts from: what its images went through.
_FROM_SOURCE = ("variants", "variants_sha256", "protocol")


def run(
    workspace_dir: Path, config: ExtractConfig, seed: int, progress: Progress
) -> dict[str, Any]:
    """Make the caches of one or more nodes in one pass, going on where an earlier run stopped.

    Returns:
        The summary: stage, num_images, num_quarantined, num_shards, size_bytes, seconds,
        num_resumed_shards, images_per_s (of this start, None where nothing was left); nodes:
        name -> density, encoding, reason, dtype, format, size_bytes, num_branches, shape,
        clipped_share (uint8), cut_check (None where there was none).

    Raises:
        ConfigError: an unknown backbone or branch.
        NodeError: a node is no valid cut, or does not lie behind the one to start from.
        WeightsError: the weights are missing or do not fit.
        ManifestError: there are no variants, or a cache of the node has other settings.
        FeatureError: an activation cannot be stored, or the cut changes the network's scores.
        ShardError: a shard is damaged, or the disk refuses.
    """
    started = time.monotonic()
    path = _origin_path(workspace_dir, config)
    with locks.reading(path) as marks:
        origin = _open_origin(path, config)
        asked = _asked_fingerprint(origin, workspace_dir, config, seed)
        outputs = _finished(workspace_dir / config.features_dir, config, asked, origin.num_images)
        held, rate = sum(len(output.receipts) for output in outputs), None
        if not outputs:
            extraction = _prepare(origin, workspace_dir, config, asked)
            begun = time.monotonic()
            done = job.fill(
                extraction.source,
                extraction.targets,
                extraction.run_forward,
                _settings(config),
                progress,
                extraction.check,
                marks,
            )
            outputs, held = done.outputs, done.num_resumed_shards
            rate = round(done.num_images / (time.monotonic() - begun), 3) or None
    return {
        "stage": "extract",
        "num_images": origin.num_images,
        "num_quarantined": origin.num_quarantined,
        "num_shards": sum(len(output.receipts) for output in outputs),
        "size_bytes": sum(_size_bytes(output) for output in outputs),
        "seconds": round(time.monotonic() - started, 3),
        "num_resumed_shards": held,
        "images_per_s": rate,
        "nodes": {str(output.plan.details["node"]): _summary(output) for output in outputs},
    }


@dataclass(frozen=True)
class _Origin:
    """Where the inputs come from: the variants, or the cache of a node in front.

    Attributes:
        path: the folder that is read.
        opened: the variants or the cache.
        branches: that are run.
        identity: its part of the fingerprint.
        num_images: that can be used.
        num_quarantined: that cannot.
    """

    path: Path
    opened: variants.VariantSet | FeatureCache
    branches: tuple[str, ...]
    identity: Mapping[str, Any]
    num_images: int
    num_quarantined: int


def _origin_path(workspace_dir: Path, config: ExtractConfig) -> Path:
    if not config.from_node:
        return workspace_dir / VARIANTS_DIR
    return find_folder(workspace_dir / config.features_dir, config.from_node)


def _open_origin(path: Path, config: ExtractConfig) -> _Origin:
    if not config.from_node:
        found = variants.open_set(path, config.branches)
        identity = {
            "variants": found.plan.fingerprint,
            # Settings do not tell which images could be used: one that was mended moves all rows.
            "variants_sha256": digest([receipt.sha256 for receipt in found.receipts]),
        }
        num_images = sum(found.num_rows().values())
        return _Origin(
            found.folder, found, found.names, identity, num_images, found.num_quarantined
        )
    cache = FeatureCache(path)
    made = cache.fingerprint
    if made["backbone"] != config.backbone:
        raise ManifestError(
            f"{cache.path}: made with {made['backbone']}, this run asks for {config.backbone}; "
            "start from a node of the same network"
        )
    identity = {
        **{key: made[key] for key in _FROM_SOURCE if key in made},
        "from_node": {
            "node": cache.node,
            "dtype": cache.layout.dtype,
            "sha256": digest([receipt.sha256 for receipt in cache.receipts]),
            **({"from_node": made["from_node"]} if "from_node" in made else {}),
        },
    }
    num_images = sum(cache.num_rows(split) for split in cache.splits)
    return _Origin(
        cache.path, cache, cache.choose_branches(config.branches), identity, num_images, 0
    )


def _asked_fingerprint(
    origin: _Origin, workspace_dir: Path, config: ExtractConfig, seed: int
) -> dict[str, Any]:
    """Return the part of the fingerprint that is known before TensorFlow is loaded."""
    weights = models.weights_path(workspace_dir, config.weights)
    return {
        **origin.identity,
        "branches": list(origin.branches),
        "backbone": config.backbone,
        **backbones.weights_identity(config.backbone, weights),
        **({"weights_seed": seed} if config.weights == "none" else {}),
        "dtype": config.dtype,
        "encoding": config.encoding,
        "format": config.format,
        "batch_size": config.batch_size,
        "shards": config.shards,
        "shard_bytes": config.shard_size,
    }


def _settings(config: ExtractConfig) -> Settings:
    return Settings(
        config.dtype,
        config.encoding,
        config.format,
        config.batch_size,
        config.shards,
        config.shard_size,
        config.overwrite,
    )


def _finished(
    features_dir: Path, config: ExtractConfig, asked: Mapping[str, Any], num_images: int
) -> list[Output]:
    """Find the asked caches if all are whole, checked and made with the asked settings."""
    found = []
    names = config.node or existing.names_of_default(features_dir, config.backbone)
    for name in names:
        folder = existing.existing_folder(features_dir, name)
        plan = existing.read_plan(folder, config.overwrite) if folder else None
        if folder is None or plan is None:
            return []
        if plan.format_version < FORMAT_VERSION and not config.overwrite:
            raise ManifestError(
                f"{folder.path}: format version {plan.format_version}, this program writes "
                f"{FORMAT_VERSION}; train on it as it is, or make it anew with --overwrite"
            )
        compared = {*asked, "from_node"}
        made = {key: value for key, value in plan.fingerprint.items() if key in compared}
        if not config.overwrite:
            check_same(made, asked, folder.path, MEND)
        output = Output(folder, plan)
        is_whole = folder.is_finished(plan) and not output.missing()
        is_checked = cut_check.is_checked(folder, config.check_images, num_images)
        if not is_whole or not is_checked or made != asked:
            return []
        found.append(output)
    return found


@dataclass(frozen=True)
class _Extraction:
    """What fills the caches."""

    source: Source
    targets: list[Target]
    run_forward: Any
    check: CutCheck


def _prepare(
    origin: _Origin, workspace_dir: Path, config: ExtractConfig, asked: Mapping[str, Any]
) -> _Extraction:
    """Load the network, cut it, compile its parts."""
    profile = devices.configure()
    # As train-tail will load it: a seed that the fingerprint lacks must not decide any weight.
    weights = models.weights_path(workspace_dir, config.weights)
    backbone = backbones.load(config.backbone, weights, asked.get("weights_seed", 0))
    chosen = _choose_nodes(backbone, config.node)
    protocol = preprocess.for_backbone(backbone.protocol, backbone.input_size)
    size = (config.batch_size, len(origin.branches))
    source: Source
    if isinstance(origin.opened, FeatureCache):
        if backbone.weights_sha256 != origin.opened.fingerprint["weights_sha256"]:
            raise ManifestError(
                f"{origin.path}: made with other weights than {config.weights} has now; "
                "start from a cache of the same weights"
            )
        start = nodes.find_node(backbone.name, backbone.model, origin.opened.node)
        source = CachedNode(origin.opened, origin.branches)
        part = nodes.between(backbone.model, start, chosen)
        batch = forward.Batch(*size, start.shape, None)
        whole = nodes.to_decision(backbone.model, start)
    else:
        source = Images(origin.opened, protocol)
        part = nodes.front(backbone.model, chosen)
        batch = forward.Batch(*size, (protocol.size, protocol.size, 3), protocol)
        whole = nodes.to_decision(backbone.model)
    fingerprint = {
        "protocol": protocol.describe(),
        **asked,
        "weights_sha256": backbone.weights_sha256,
        "profile": profile,
    }
    targets = [
        Target(
            ShardFolder(workspace_dir / config.features_dir / node.name),
            node.shape,
            {**fingerprint, "node": node.name},
            {
                "node": node.name,
                "weights": models.kept_weights(workspace_dir, weights),
                "blocks": list(blocks.blocks_behind(backbone.name, backbone.model, node)),
                "feeds_decision": node.name == _default_node(backbone),
                **source.published(),
            },
        )
        for node in chosen
    ]
    classifier = nodes.classifier(backbone.model)
    behind = [
        forward.build_scores(
            nodes.to_decision(backbone.model, node),
            *classifier,
            forward.Batch(*size, node.shape, None),
        )
        for node in chosen
    ]
    check = CutCheck(
        source,
        forward.build_scores(whole, *classifier, batch),
        behind,
        config.check_images,
        config.batch_size,
    )
    run_forward = forward.build(part, [node.name for node in chosen], batch)
    return _Extraction(source, targets, run_forward, check)


def _default_node(backbone: backbones.Backbone) -> str:
    """Return the node that the decision layer reads, where the thesis's first run starts."""
    return str(blocks.list_blocks(backbone.name, backbone.model)[-1].input_node)


def _choose_nodes(backbone: backbones.Backbone, asked: Sequence[str]) -> list[nodes.Node]:
    if not asked:
        asked = [_default_node(backbone)]
    found = [nodes.find_node(backbone.name, backbone.model, name) for name in asked]
    return list({node.name: node for node in found}.values())


def _size_bytes(output: Output) -> int:
    return sum(receipt.size_bytes for receipt in output.receipts.values())


def _summary(output: Output) -> dict[str, Any]:
    details = output.plan.details
    layout = Layout.from_json(details, output.plan.format_version)
    receipts = output.receipts.values()
    num_values = sum(receipt.stats["num_values"] for receipt in receipts)
    clipped = sum(receipt.stats.get("num_clipped", 0) for receipt in receipts)
    is_uint8 = layout.dtype == "uint8"
    return {
        "density": round(sum(r.stats["nnz"] for r in receipts) / max(1, num_values), 6),
        "encoding": layout.encoding,
        "reason": details.get("probe", {}).get("reason"),
        "dtype": layout.dtype,
        "format": layout.format,
        "size_bytes": _size_bytes(output),
        "num_branches": len(layout.branches),
        "shape": list(layout.shape),
        "clipped_share": round(clipped / max(1, num_values), 9) if is_uint8 else None,
        "cut_check": output.folder.read_cut_check(),
    }
