"""Stratified folds of all images of a cache, and the cache as one fold's training sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import ConfigError
from pipelines.storage import asked
from pipelines.storage.batches import FeatureReader
from pipelines.storage.cache import FeatureCache

TRAIN, VAL, TEST = "train", "val", "test"
_FOLDS, _VAL = 0xF01D, 0x0A1  # streams of random numbers, apart from training's
_LABEL_ROWS = 256  # at once


@dataclass(frozen=True)
class Fold:
    """One of the parts that all images are judged in.

    Attributes:
        number: of the part that is reported on, counted from 1.
        num_folds: parts.
        seed: of the parts.
        rows: by split, int64 images of all splits laid end to end, rising. Under the thesis's
            protocol val and test are the same.
    """

    number: int
    num_folds: int
    seed: int
    rows: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        """A folder's name."""
        width = len(str(self.num_folds))
        return f"seed-{self.seed}-fold-{self.number:0{width}d}-of-{self.num_folds}"

    @property
    def rows_sha256(self) -> str:
        """Digest of which images are in which split."""
        digest = hashlib.sha256()
        for name, rows in self.rows.items():
            digest.update(f"{name} {len(rows)} ".encode())
            digest.update(np.ascontiguousarray(rows, "<i8").tobytes())
        return digest.hexdigest()


def make(
    labels: np.ndarray,
    classes: Sequence[str],
    num_folds: int,
    seed: int,
    val_share: float,
    is_honest: bool,
    groups: np.ndarray | None = None,
) -> list[Fold]:
    """Divide images so that each class is spread evenly over the folds.

    Images of one group are never on both sides; a group counts for the class of its first image.

    Args:
        labels: int32 (images,), of all images.
        classes: names.
        num_folds: parts, at least 2.
        seed: of the parts.
        val_share: of the images that are not reported on, to select the checkpoint on.
        is_honest: select on other images than are reported on.
        groups: int (images,), equal for images that stay together; None where each is alone.

    Raises:
        ConfigError: a class has fewer images than there are folds, so that one would have none; or
            none is left to select the checkpoint on.
    """
    if groups is None:
        groups = np.arange(len(labels))
    _check(labels, groups, classes, num_folds)
    part = _deal(labels, groups, num_folds, (seed, _FOLDS))
    found = []
    for number in range(num_folds):
        test = np.flatnonzero(part == number)
        rest = np.flatnonzero(part != number)
        val = test
        if is_honest:
            is_val = _chosen(labels[rest], groups[rest], val_share, (seed, _VAL, number))
            val, rest = rest[is_val], rest[~is_val]
            if not len(val):
                raise ConfigError(
                    f"--folds {num_folds}: leaves one image of each class to learn from and none "
                    "to select the checkpoint on; add images",
                    is_usage=True,
                )
        found.append(Fold(number + 1, num_folds, seed, {TRAIN: rest, VAL: val, TEST: test}))
    return found


def _check(labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], num_folds: int) -> None:
    """Refuse a number of folds that would leave one of them without a class."""
    firsts, _ = _units(groups)
    counts = np.bincount(labels[firsts], minlength=len(classes))
    least = int(np.argmin(counts))
    most = int(counts[least])
    if 2 <= num_folds <= most:
        return
    num_images = int(np.count_nonzero(labels == least))
    what = f"--folds {num_folds}: class {classes[least]} has {num_images} "
    what += "image" if num_images == 1 else "images"
    if num_images > most:
        what += f", {most} that are not the same bytes as another"
    mend = f"give 2 to {most}" if most >= 2 else "every fold needs one; add images of it"
    raise ConfigError(f"{what}; {mend}", is_usage=True)


class FoldedCache(FeatureCache):
    """A cache whose splits are those of a fold; its images and numbers are the same."""

    def __init__(self, path: Path, fold: Fold) -> None:
        """Open a cache.

        Args:
            path: its folder.
            fold: says which images are in which split.

        Raises:
            ManifestError: there is no whole cache here.
            ShardError: a shard is missing or cut short.
        """
        super().__init__(path)
        self._fold = fold
        self._own_splits = super().splits
        kept: dict[str, object] = {
            "seed": fold.seed,
            "number": fold.number,
            "num_folds": fold.num_folds,
        }
        kept["num_rows"] = {name: len(rows) for name, rows in fold.rows.items()}
        kept["rows_sha256"] = fold.rows_sha256
        self.fingerprint = {**self.fingerprint, "fold": kept}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have images."""
        return tuple(name for name, rows in self._fold.rows.items() if len(rows))

    def num_rows(self, split: str) -> int:
        """Return the number of images of a split; 0 where there is none."""
        return len(self._fold.rows.get(split, ()))

    def reader(
        self,
        splits: str | Sequence[str],
        branches: str | Sequence[str] = asked.ALL,
        rows: np.ndarray | None = None,
        num_threads: int = 2,
    ) -> FeatureReader:
        """Return a reader of the images of one split of the fold; see `FeatureCache.reader`."""
        if not isinstance(splits, str) or rows is not None:
            raise ValueError(f"a fold is read a whole split at a time, and {splits} was asked for")
        own = self._fold.rows[splits]
        return super().reader(self._own_splits, branches, own, num_threads)


def read_labels(cache: FeatureCache) -> tuple[list[str], np.ndarray]:
    """Return names and labels of all images, the splits laid end to end.

    Returns:
        The names, and int32 (images,).

    Raises:
        ShardError: a shard is damaged.
    """
    ids: list[str] = []
    labels = []
    reader = cache.reader(cache.splits, cache.layout.branches[:1])
    for batch in reader.in_order(_LABEL_ROWS, cache.layout.dtype):
        ids += batch.ids
        labels.append(batch.labels.copy())
    return ids, np.concatenate(labels)


def _units(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first image of each group, rising, and which of these each image goes with."""
    _, firsts, unit_of = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(firsts, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return firsts[order], place[unit_of]


def _deal(
    labels: np.ndarray, groups: np.ndarray, num_parts: int, key: tuple[int, ...]
) -> np.ndarray:
    """Deal the groups of each class out like cards; no part gets many of the remainders.

    Returns:
        int64 (images,), the part of each.
    """
    firsts, unit_of = _units(groups)
    labels = labels[firsts]
    rng = _generator(*key)
    parts, start = np.empty(len(labels), np.int64), 0
    for label in np.unique(labels):
        units = rng.permutation(np.flatnonzero(labels == label))
        parts[units] = (start + np.arange(len(units))) % num_parts
        start += len(units)
    return parts[unit_of]


def _chosen(
    labels: np.ndarray, groups: np.ndarray, share: float, key: tuple[int, ...]
) -> np.ndarray:
    """Choose a share of the groups of each class, at least one of each class that has two.

    Returns:
        bool (images,).
    """
    firsts, unit_of = _units(groups)
    labels = labels[firsts]
    rng = _generator(*key)
    is_chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        units = rng.permutation(np.flatnonzero(labels == label))
        num = min(max(1, round(share * len(units))), len(units) - 1)
        is_chosen[units[:num]] = True
    return is_chosen[unit_of]


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
