"""Judging in folds: every model trained and judged on each part of all images, from one cache."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ConfigError, ShardError
from pipelines.evaluation import fold_figures, folds
from pipelines.evaluation.figures import Asked
from pipelines.evaluation.folds import TRAIN, Fold
from pipelines.fold_plans import Plan
from pipelines.fold_runs import FoldRun
from pipelines.images import recorded
from pipelines.progress import Progress
from pipelines.storage import atomic, locks
from pipelines.storage.cache import FeatureCache
from pipelines.train_runs import Start

_VAL_SHARE = 0.15  # where the images' own splits have no val
_DIVIDED = "no splits given"  # how the note begins where the splits are the program's own


def run(plan: Plan, asked: Asked, start: Start, progress: Progress) -> dict[str, Any]:
    """Train and judge in every fold that is not done yet; return the figures of all.

    Args:
        plan: what.
        asked: what the figures are of.
        start: of the trainings; its folders and seed are those of the folds in turn.
        progress: told about the models.

    Raises:
        ConfigError: there are fewer images of a class than folds, or a fold has too few images.
        TrainingError: a model cannot be trained.
        ShardError: a shard is damaged, or the disk refuses.
        StoppedError: it was asked to stop.
    """
    every = _divide(plan, progress)
    _check_batches(plan, every)
    atomic.make_folder(plan.folder)
    with locks.hold(plan.folder.parent) as lock, contextlib.ExitStack() as stack:
        marks = [m for path in plan.caches for m in stack.enter_context(locks.reading(path))]
        check = partial(locks.check_all, [lock, *marks])
        atomic.sweep(plan.folder)
        work = [FoldRun(plan, fold, start, check) for fold in every]
        judged = [one.read() for one in work]
        num_again = sum(
            one.has_receipt for one, found in zip(work, judged, strict=True) if found is None
        )
        if num_again:
            progress.say(
                f"folds: {num_again} are judged again: what is compared has changed, or a table is "
                "damaged; what is trained stays"
            )
        total, num_left = len(plan.entries) * len(work), len(plan.entries) * judged.count(None)
        progress.start("folds", total, "model", total - num_left)
        for place, one in enumerate(work):
            if judged[place] is None:
                one.run(progress)
                judged[place] = one.read()
                gc.collect()
    found = [one for one in judged if one is not None]
    if len(found) < len(work):
        raise ShardError(f"{plan.folder}: a table that was just written cannot be read; try again")
    return fold_figures.figures(found, asked)


def _divide(plan: Plan, progress: Progress) -> list[Fold]:
    """Divide all images of the cache; those of the same bytes stay together."""
    cache = plan.cache
    ids, labels = folds.read_labels(cache)
    groups = _groups(plan, ids, progress)
    note = cache.details.get("split_note", "")
    if note and not note.startswith(_DIVIDED):
        progress.say(
            "folds: the images are divided anew, whatever splits they came with; where several "
            "are of one thing, such as a patient, it may be on both sides"
        )
    return [
        fold
        for seed in plan.seeds
        for fold in folds.make(
            labels, cache.classes, plan.num_folds, seed, _val_share(cache), plan.is_honest, groups
        )
    ]


def _groups(plan: Plan, ids: Sequence[str], progress: Progress) -> np.ndarray:
    """Number the images by their bytes.

    Returns:
        int64 (images,), the same number for images of the same bytes.
    """
    table = recorded.hashes(plan.workspace_dir, plan.cache.fingerprint, plan.cache.splits)
    rows = pc.index_in(pa.array(ids, pa.string()), table["id"])
    if rows.null_count:
        progress.say(
            f"folds: of {rows.null_count:,} images nothing says any more what bytes they had; "
            "those of the same bytes may be on both sides"
        )
    own = pa.array([f"{number}" for number in range(len(ids))]).cast(pa.binary())
    hashes = table["sha256"].combine_chunks().cast(pa.binary()).take(rows)
    codes = pc.coalesce(hashes, own).dictionary_encode().indices
    groups = np.asarray(codes, np.int64)
    num_same = len(ids) - len(np.unique(groups))
    if num_same:
        progress.say(f"folds: {num_same:,} images have the bytes of another and stay with it")
    return groups


def _check_batches(plan: Plan, every: Sequence[Fold]) -> None:
    """Refuse folds that leave fewer images than a batch has.

    Raises:
        ConfigError: they do.
    """
    num_images = min(len(fold.rows[TRAIN]) for fold in every)
    for entry in plan.entries:
        for ask in (run.ask for run in entry.chain):
            if ask.config.batch_size > num_images:
                raise ConfigError(
                    f"--folds {plan.num_folds}: leaves {num_images} images to learn from, and run "
                    f"{ask.run} takes batches of {ask.config.batch_size}; give more folds, or "
                    f"train that run with --batch-size {num_images} or less"
                )


def _val_share(cache: FeatureCache) -> float:
    """Return the share of val in train and val, as the images were divided."""
    num_val = cache.num_rows("val")
    return num_val / (num_val + cache.num_rows("train")) if num_val else _VAL_SHARE
