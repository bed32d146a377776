"""What `train-tail` holds at most: on few images and on many, and for a large decision layer.

The command runs in a process of its own on made-up caches, streamed (`--cache-memory 0`).
"""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import peaks, report, synthetic_cache
from pipelines.networks import backbones, nodes
from pipelines.networks.backbones import Backbone
from pipelines.storage.cache import FeatureCache

_MOMENTUM = 0.9
_NUM_COPIES = 4  # of the decision layer: weights, momentum, gradient, and what is added to these


@dataclass(frozen=True)
class Sizes:
    """What is trained.

    Attributes:
        backbone: gives the shape; its weights are random.
        density: share of the features that are not zero.
        batch_size: images a step.
        num_classes: of the large decision layer.
    """

    backbone: str
    density: float
    batch_size: int
    num_classes: int


def by_images(
    folder: Path, sizes: Sizes, num_images: Sequence[int], repetitions: int
) -> report.Row:
    """Compare a small set with a large one, as many steps on each."""
    few, many = num_images
    small, large = (_write(folder / f"images-{number}", sizes, number, 2) for number in num_images)
    # As many steps, or the large set's peak is higher for having more of them to rise in.
    figures = report.take_turns(
        {
            "small": partial(_peak_mb, small, sizes, math.ceil(many / few)),
            "large": partial(_peak_mb, large, sizes, 1),
        },
        repetitions,
    )
    return report.compare(
        f"train-tail {large.node}, streamed, {many:,} images",
        "MB at most",
        figures["large"],
        figures["small"],
        f"{few:,} images",
        "about 1",
        {
            f"MB of cells, {number:,} images": cache.resident_bytes("train", "all") / 1e6
            for number, cache in zip(num_images, (small, large), strict=True)
        },
    )


def by_head(folder: Path, sizes: Sizes, num_images: int, repetitions: int) -> report.Row:
    """Hold a large decision layer with momentum against what arithmetic says."""
    small = _write(folder / "classes-2", sizes, num_images, 2)
    large = _write(folder / "classes-many", sizes, num_images, sizes.num_classes)
    flags = ("--momentum", str(_MOMENTUM))
    figures = report.take_turns(
        {
            "small": partial(_peak_mb, small, sizes, 1, *flags),
            "large": partial(_peak_mb, large, sizes, 1, *flags),
        },
        repetitions,
    )
    width = len(small.layout.branches) * small.layout.num_values
    copy_mb = 4e-6 * width * (sizes.num_classes - 2)
    bounds = [peak_mb + _NUM_COPIES * copy_mb for peak_mb in figures["small"]]
    return report.compare(
        f"train-tail {large.node}, {sizes.num_classes:,} classes, momentum {_MOMENTUM}",
        "MB at most",
        figures["large"],
        bounds,
        f"2 classes + 4 bytes x {width:,} x {sizes.num_classes - 2:,} x {_NUM_COPIES}: weights, "
        "momentum, gradient, and what is added to these",
        "about 1",
        {"MB of the decision layer, once": copy_mb},
    )


@functools.cache
def _backbone(name: str) -> Backbone:
    return backbones.load(name, backbones.NONE)


def _write(workspace_dir: Path, sizes: Sizes, num_images: int, num_classes: int) -> FeatureCache:
    """Make a workspace with a cache of the decision layer's input."""
    backbone = _backbone(sizes.backbone)
    node = nodes.list_nodes(backbone.name, backbone.model)[-1]
    made_with = {"backbone": backbone.name, "weights_sha256": backbone.weights_sha256}
    rows = {"train": num_images, "val": min(num_images, sizes.batch_size)}
    contents = synthetic_cache.Contents(rows, num_classes, sizes.density, made_with=made_with)
    workspace_dir.mkdir()
    (workspace_dir / "bottleneck.toml").touch()
    return synthetic_cache.write(workspace_dir / "features", node, contents)


def _peak_mb(cache: FeatureCache, sizes: Sizes, epochs: int, *flags: str) -> float:
    """Train so many epochs, anew; the peak in MB."""
    workspace_dir = cache.path.parent.parent
    shutil.rmtree(workspace_dir / "runs", ignore_errors=True)
    return peaks.peak_mb(
        *("train-tail", "-C", str(workspace_dir), "--cache-memory", "0"),
        *("--epochs", str(epochs), "--patience", str(epochs), "--learning-rate", "0.0001"),
        *("--batch-size", str(min(sizes.batch_size, cache.num_rows("train"))), *flags),
    )
