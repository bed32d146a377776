"""What a training needs of its images, cache and devices, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.config import TrainTailConfig
from pipelines.errors import ConfigError, TrainingError
from pipelines.execution.replicas import Replicas
from pipelines.networks import models
from pipelines.storage.cache import FeatureCache


def check_cache(cache: FeatureCache, config: TrainTailConfig, num_runs: int) -> None:
    """Refuse a cache that nothing can be learnt from, before anything is written.

    Args:
        cache: to learn from.
        config: the settings.
        num_runs: that are to be trained side by side.

    Raises:
        ConfigError: a split has no images, or fewer than a batch; or dense maps are to be expanded.
        TrainingError: there are fewer than two classes.
    """
    blocks = cache.details["blocks"]
    if num_runs > 1 and len(blocks) > 1:
        raise ConfigError(
            f"sweep: only heads go side by side, and behind {cache.node} lie {', '.join(blocks)}; "
            "sweep from the node that the decision layer reads",
            is_usage=True,
        )
    num_rows = {split: cache.num_rows(split) for split in cache.splits}
    check_images(cache.path, num_rows, cache.classes, config)
    if config.expand == "device" and cache.layout.encoding != "sparse":
        raise ConfigError(
            f"--expand device: {cache.path} is dense, and has nothing to expand; leave it out",
            is_usage=True,
        )


def check_images(
    path: Path, num_rows: Mapping[str, int], classes: Sequence[str], config: TrainTailConfig
) -> None:
    """Refuse images that nothing can be learnt from.

    Args:
        path: where they are from, for the message.
        num_rows: images of each split.
        classes: names.
        config: the settings.

    Raises:
        ConfigError: a split has no images, or fewer than a batch.
        TrainingError: there are fewer than two classes, or not the backbone's own.
    """
    for split, what in (("train", "learn from"), ("val", "select the best checkpoint on")):
        if not num_rows.get(split):
            raise ConfigError(
                f"{path}: no images to {what}: split {split} is empty; there are "
                f"{', '.join(num_rows)}; compress again with images in {split}"
            )
    num_images = num_rows["train"]
    if config.batch_size > num_images:
        raise ConfigError(
            f"batch size {config.batch_size}: {path} has {num_images} images to learn from; "
            f"give --batch-size {num_images} or less"
        )
    if len(classes) < 2:
        raise TrainingError(
            f"{path}: {len(classes)} class ({', '.join(classes)}); two or more are needed"
        )
    if "pretrained" in (config.default, config.head_init):
        models.check_imagenet(classes)


def check_parts(cache: FeatureCache, config: TrainTailConfig, replicas: Replicas) -> None:
    """Refuse batches that leave a device without images where it has to take statistics of them.

    Args:
        cache: to learn from.
        config: the settings.
        replicas: the devices.

    Raises:
        ConfigError: the last batch of an epoch is too small.
    """
    num_last = cache.num_rows("train") % config.batch_size or config.batch_size
    if config.batch_norm == "batch" and num_last < replicas.share.num:
        raise ConfigError(
            f"--batch-norm batch: the last batch of an epoch has {num_last} images for "
            f"{replicas.share.num} devices, and each needs one; give another --batch-size",
            is_usage=True,
        )
