"""Stage 2: every version of every image through the frozen network, what it gives kept on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import ExtractConfig
from pipelines.errors import ManifestError
from pipelines.execution import devices
from pipelines.execution.tasks import Output, in_turn, run_tasks
from pipelines.execution.threads import num_cores, ordered_map
from pipelines.images import preprocess
from pipelines.networks import backbones, blocks, forward, models, nodes
from pipelines.progress import Progress
from pipelines.storage import atomic, existing, feature_writer, features, variants
from pipelines.storage.features import EncodedRows, Layout
from pipelines.storage.manifest import (
    Plan,
    Receipt,
    ShardFolder,
    Task,
    check_same,
    digest,
    split_into_tasks,
)

VARIANTS_DIR = Path("variants") / "jpeg"
_NUM_PROBE_IMAGES = 16  # densities of neighbouring images differ by a few percent
_SHARD_ROWS = 256  # what a kill can cost: a minute or two of a large network on a slow machine
_MEND = "ask for that again, or start over with --overwrite"


def run(
    workspace_dir: Path, config: ExtractConfig, seed: int, progress: Progress
) -> dict[str, Any]:
    """Make the caches of one or more nodes in one pass, going on where an earlier run stopped.

    Returns:
        The summary: stage, num_images, num_quarantined, num_shards, size_bytes, seconds,
        num_resumed_shards, images_per_s (of this start, None where nothing was left); nodes:
        name -> density, encoding, dtype, size_bytes, num_branches, shape.

    Raises:
        ConfigError: an unknown backbone or branch.
        NodeError: a node is no valid cut.
        WeightsError: the weights are missing or do not fit.
        ManifestError: there are no variants, or a cache of the node has other settings.
        FeatureError: an activation cannot be stored.
        ShardError: a shard is damaged, or the disk refuses.
    """
    started = time.monotonic()
    source = variants.open_set(workspace_dir / VARIANTS_DIR, config.branches)
    features_dir = workspace_dir / config.features_dir
    asked = _asked_fingerprint(source, workspace_dir, config, seed)
    outputs = _finished(features_dir, config, asked)
    held = sum(len(output.receipts) for output in outputs)
    rate = None
    if not outputs:
        with contextlib.ExitStack() as locks:
            job = _prepare(source, workspace_dir, config, asked, locks, progress)
            outputs = job.outputs
            held = sum(len(output.receipts) for output in outputs)
            num_done = job.num_images_done()
            progress.start("extract", job.num_images, "image", num_done)
            begun = time.monotonic()
            run_tasks(outputs, partial(in_turn, job.run))
            rate = round((job.num_images - num_done) / (time.monotonic() - begun), 3)
    return {
        "stage": "extract",
        "num_images": sum(source.num_rows().values()),
        "num_quarantined": source.num_quarantined,
        "num_shards": sum(len(output.receipts) for output in outputs),
        "size_bytes": sum(_size_bytes(output) for output in outputs),
        "seconds": round(time.monotonic() - started, 3),
        "num_resumed_shards": held,
        "images_per_s": rate or None,
        "nodes": {str(output.plan.details["node"]): _summary(output) for output in outputs},
    }


def _asked_fingerprint(
    source: variants.VariantSet, workspace_dir: Path, config: ExtractConfig, seed: int
) -> dict[str, Any]:
    """Return the part of the fingerprint that is known before TensorFlow is loaded."""
    return {
        "variants": source.plan.fingerprint,
        # Settings do not tell which images could be used: one that was mended moves all rows.
        "variants_sha256": digest([receipt.sha256 for receipt in source.receipts]),
        "branches": list(source.names),
        "backbone": config.backbone,
        **backbones.weights_identity(
            config.backbone, models.weights_path(workspace_dir, config.weights)
        ),
        **({"weights_seed": seed} if config.weights == "none" else {}),
        "dtype": config.dtype,
        "format": config.format,
        "batch_size": config.batch_size,
        "shards": config.shards,
    }


def _finished(features_dir: Path, config: ExtractConfig, asked: Mapping[str, Any]) -> list[Output]:
    """Find the asked caches if all of them are whole and made with the asked settings."""
    found = []
    names = config.node or existing.names_of_default(features_dir, config.backbone)
    for name in names:
        folder = existing.existing_folder(features_dir, name)
        plan = existing.read_plan(folder, config.overwrite) if folder else None
        if folder is None or plan is None:
            return []
        made = {key: value for key, value in plan.fingerprint.items() if key in asked}
        if not config.overwrite:
            check_same(made, asked, folder.path, _MEND)
        output = Output(folder, plan)
        is_whole = (folder.path / "manifest.json").exists() and not output.missing()
        if not is_whole or made != asked:
            return []
        found.append(output)
    return found


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a shard's task needs."""

    source: variants.VariantSet
    outputs: list[Output]
    layouts: list[Layout]
    forward: Callable[[np.ndarray], list[np.ndarray]]
    prepare: Callable[[Sequence[variants.VariantRow]], np.ndarray]
    batch_size: int
    progress: Progress

    @property
    def num_images(self) -> int:
        return sum(self.source.num_rows().values())

    def num_images_done(self) -> int:
        tasks = self.outputs[0].plan.tasks
        return sum(
            len(task)
            for task in tasks
            if all(task.shard in output.receipts for output in self.outputs)
        )

    def run(self, task: Task, todo: Sequence[Output]) -> list[Receipt]:
        """Write one shard of every output in `todo`."""
        chosen = [self.outputs.index(output) for output in todo]
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(
                    feature_writer.open_shard(
                        self.outputs[i].folder.path / task.shard, self.layouts[i]
                    )
                )
                for i in chosen
            ]
            for rows, encoded in self._encoded(task, chosen):
                for writer, columns in zip(writers, encoded, strict=True):
                    writer.add([row.id for row in rows], [row.label for row in rows], columns)
                self.progress.advance(len(rows))
        return [writer.receipt(task.shard) for writer in writers]

    def _encoded(
        self, task: Task, chosen: Sequence[int]
    ) -> Iterator[tuple[list[variants.VariantRow], list[EncodedRows]]]:
        """Decode, forward and encode side by side, batch by batch, a few batches ahead."""
        workers = num_cores()
        batches = _chunks(self.source.rows(task.split, task.start, task.stop), self.batch_size)
        prepared = ordered_map(
            lambda rows: (rows, self.prepare(rows)), batches, workers, workers + 1
        )
        forwarded = ((rows, self.forward(pixels)) for rows, pixels in prepared)

        def encode(
            item: tuple[list[variants.VariantRow], list[np.ndarray]],
        ) -> tuple[list[variants.VariantRow], list[EncodedRows]]:
            rows, maps = item
            return rows, [features.encode(maps[i][: len(rows)], self.layouts[i]) for i in chosen]

        return ordered_map(encode, forwarded, 1, 2)


def _prepare(
    source: variants.VariantSet,
    workspace_dir: Path,
    config: ExtractConfig,
    asked: Mapping[str, Any],
    locks: contextlib.ExitStack,
    progress: Progress,
) -> _Job:
    """Load the network, read or publish the plan of each node."""
    profile = devices.configure()
    # As train-tail will load it: a seed that the fingerprint lacks must not decide any weight.
    weights = models.weights_path(workspace_dir, config.weights)
    backbone = backbones.load(config.backbone, weights, asked.get("weights_seed", 0))
    chosen = _choose_nodes(backbone, config.node)
    protocol = preprocess.for_backbone(backbone.protocol, backbone.input_size)
    front = nodes.front(backbone.model, chosen)
    names = [node.name for node in chosen]
    run_forward = forward.build(front, names, protocol, config.batch_size, len(source.names))
    prepare = partial(
        forward.prepare,
        branches=source.names,
        protocol=protocol,
        batch_size=config.batch_size,
        max_megapixels=source.plan.fingerprint["max_megapixels"],
    )
    tasks = _tasks(source, config.shards)
    probe: list[np.ndarray] = []
    outputs: list[Output] = []
    layouts: list[Layout] = []
    for i, node in enumerate(chosen):
        folder = ShardFolder(workspace_dir / config.features_dir / node.name)
        locks.enter_context(atomic.exclusive(folder.path))
        folder.sweep()
        fingerprint = {
            **asked,
            "node": node.name,
            "weights_sha256": backbone.weights_sha256,
            "protocol": protocol.describe(),
            "profile": profile,
        }
        plan = existing.read_plan(folder, config.overwrite)
        if config.overwrite and (plan is None or plan.fingerprint != fingerprint):
            folder.clear()
            plan = None
        if plan is not None:
            check_same(plan.fingerprint, fingerprint, folder.path, _MEND)
            if outputs and plan.tasks != outputs[0].plan.tasks:
                raise ManifestError(
                    f"{folder.path}: has other shards than {outputs[0].folder.path}, so one pass "
                    "cannot make both; extract one after the other"
                )
        else:
            if not probe:
                progress.say(f"probing {_NUM_PROBE_IMAGES} images for the encoding")
                split = next(task.split for task in tasks if len(task))
                probe = _probe(source, split, prepare, run_forward, config.batch_size)
            details = {
                **_choose_layout(probe[i], node.shape, source.names, config),
                "node": node.name,
                "weights": models.kept_weights(workspace_dir, weights),
                "blocks": list(blocks.blocks_behind(backbone.name, backbone.model, node)),
                "feeds_decision": node.name == _default_node(backbone),
                "classes": source.plan.details["classes"],
                "split_note": source.plan.details["note"],
            }
            same = outputs[0].plan.tasks if outputs else tasks
            plan = Plan("features", features.FORMAT_VERSION, fingerprint, details, same)
            folder.publish(plan)
        outputs.append(Output(folder, plan))
        layouts.append(Layout.from_json(plan.details))
    return _Job(source, outputs, layouts, run_forward, prepare, config.batch_size, progress)


def _default_node(backbone: backbones.Backbone) -> str:
    """Return the node that the decision layer reads, where the thesis's first run starts."""
    return str(blocks.list_blocks(backbone.name, backbone.model)[-1].input_node)


def _choose_nodes(backbone: backbones.Backbone, asked: Sequence[str]) -> list[nodes.Node]:
    if not asked:
        asked = [_default_node(backbone)]
    found = [nodes.find_node(backbone.name, backbone.model, name) for name in asked]
    return list({node.name: node for node in found}.values())


def _tasks(source: variants.VariantSet, num_shards: int) -> tuple[Task, ...]:
    """Cut the images into shards, which need not be those of the variants."""
    num_rows = source.num_rows()
    default = sum(-(-count // _SHARD_ROWS) for count in num_rows.values())
    return split_into_tasks(num_rows, num_shards or default, features.SUFFIX)


def _probe(
    source: variants.VariantSet,
    split: str,
    prepare: Callable[[Sequence[variants.VariantRow]], np.ndarray],
    run_forward: Callable[[np.ndarray], list[np.ndarray]],
    batch_size: int,
) -> list[np.ndarray]:
    """Return the first images' feature maps, float32 (images, branches, *shape), one a node."""
    parts = [
        [maps[: len(rows)] for maps in run_forward(prepare(rows))]
        for rows in _chunks(source.rows(split, 0, _NUM_PROBE_IMAGES), batch_size)
    ]
    return [np.concatenate(maps) for maps in zip(*parts, strict=True)]


def _choose_layout(
    probe: np.ndarray, shape: tuple[int, ...], branches: tuple[str, ...], config: ExtractConfig
) -> dict[str, Any]:
    layout, sizes = feature_writer.choose_layout(
        probe, Layout(shape, branches, config.dtype, "dense", config.batch_size)
    )
    return {**dataclasses.asdict(layout), "probe_size_bytes": sizes}


def _chunks(rows: Iterator[variants.VariantRow], size: int) -> Iterator[list[variants.VariantRow]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _size_bytes(output: Output) -> int:
    return sum(receipt.size_bytes for receipt in output.receipts.values())


def _summary(output: Output) -> dict[str, Any]:
    layout = Layout.from_json(output.plan.details)
    receipts = output.receipts.values()
    num_values = sum(receipt.stats["num_values"] for receipt in receipts)
    return {
        "density": round(sum(r.stats["nnz"] for r in receipts) / max(1, num_values), 6),
        "encoding": layout.encoding,
        "dtype": layout.dtype,
        "size_bytes": _size_bytes(output),
        "num_branches": len(layout.branches),
        "shape": list(layout.shape),
    }
