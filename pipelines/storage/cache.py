"""A bottleneck cache on disk: found, opened, checked, read in batches or image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import ConfigError, ManifestError
from pipelines.storage import asked, cells, set_folders
from pipelines.storage.batches import WINDOW_BYTES, FeatureReader, Settings
from pipelines.storage.groups import Group, Groups, read_group
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.manifest import MANIFEST, PLAN, ShardFolder
from pipelines.storage.places import Places
from pipelines.storage.plan import Plan, Receipt
from pipelines.storage.rows import Shard

if TYPE_CHECKING:
    import tensorflow as tf

_THREADS = 2  # one reads and expands while the other waits for the disk


class FeatureCache:
    """A whole cache of one node.

    Attributes:
        path: its folder.
        node: the pivotal node's name.
        layout: shape, branches, dtype, encoding and format.
        classes: class names, in the order of the labels.
        fingerprint: what the cache was made from.
        details: what its plan publishes for readers.
        receipts: of the shards, in the plan's order.
    """

    def __init__(self, path: Path) -> None:
        """Open the cache; every shard is checked for presence and size.

        Raises:
            ManifestError: there is no whole cache here, or a newer one.
            ShardError: a shard is missing or cut short.
        """
        self.path = path
        command = f"bottleneck extract{set_folders.flag(path.parent)} --node {path.name}"
        plan, self.receipts = ShardFolder(path).read_manifest("features", FORMAT_VERSION, command)
        self.fingerprint = plan.fingerprint
        self.details = plan.details
        self._splits = [task.split for task in plan.tasks]
        self._places: Places | None = None
        try:
            self.node = str(plan.details["node"])
            self.layout = Layout.from_json(plan.details, plan.format_version)
            self.classes = tuple(plan.details["classes"])
            self._shards = shards_of(path, plan, self.receipts)
            self._bytes_a_row = self._row_bytes()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}: damaged: {error!r}; run `bottleneck verify --repair`, then `{command}`"
            ) from error

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have images."""
        return tuple(name for name in dict.fromkeys(self._splits) if self.num_rows(name))

    def num_rows(self, split: str) -> int:
        """Return the number of images of a split; 0 where there is none."""
        return sum(shard.num_rows for shard in self._of_splits([split]))

    def choose_branches(self, branches: str | Sequence[str]) -> tuple[str, ...]:
        """Turn a setting into branch names: "all", or names in any order.

        Returns:
            The names in the cache's order.

        Raises:
            ConfigError: a branch is not in the cache, or none is named.
        """
        return asked.branches(branches, self.layout.branches, self.path)

    def reader(
        self,
        splits: str | Sequence[str],
        branches: str | Sequence[str] = asked.ALL,
        rows: np.ndarray | None = None,
        num_threads: int = _THREADS,
    ) -> FeatureReader:
        """Return a reader of some images; of the shards, only what it needs is read.

        Args:
            splits: one split's name or several, which are laid end to end.
            branches: names in any order, or "all"; batches have them in the cache's order.
            rows: int64, which images of those splits, counted from 0, each once; None for all.
            num_threads: that read, check and expand, beside the one that takes the batches.

        Raises:
            ConfigError: a split has no images, or a branch or a row is not in the cache.
        """
        names = [splits] if isinstance(splits, str) else list(splits)
        missing = [name for name in names if not self.num_rows(name)]
        if missing or not names:
            known = ", ".join(self.splits) or "none"
            raise ConfigError(
                f"{self.path}: no images in split {', '.join(missing)}; there are {known}"
            )
        shards = self._of_splits(names)
        groups = Groups(shards)
        if rows is not None:
            groups = _select(groups, rows, self.path)
        window_rows = max(1, int(WINDOW_BYTES / self._bytes_a_row))
        settings = Settings(self.choose_branches(branches), window_rows, num_threads)
        return FeatureReader(self.layout, groups, settings)

    def split(
        self,
        name: str,
        branches: str | Sequence[str],
        budget_bytes: int,
        is_decoded: bool = False,
    ) -> FeatureReader:
        """Return a reader of one split, which is kept in memory when that fits a budget.

        Args:
            name: train, val or test.
            branches: names in any order, or "all".
            budget_bytes: of memory.
            is_decoded: keep float32 maps where these fit, and else maps as they are stored. That
                makes dense batches faster; sparse ones have to come from maps as they are stored.

        Raises:
            ConfigError: the split has no images, or a branch is not in the cache.
            ShardError: a shard is damaged.
        """
        reader = self.reader(name, branches)
        num_maps = reader.num_rows * len(reader.branches)
        if is_decoded and 4 * num_maps * self.layout.num_values <= budget_bytes:
            reader.decode()
        elif self.resident_bytes(name, branches) <= budget_bytes:
            reader.load()
        return reader

    def resident_bytes(self, split: str, branches: str | Sequence[str]) -> int:
        """Return about what a split takes in memory as cells, for some branches."""
        share = len(self.choose_branches(branches)) / len(self.layout.branches)
        return int(self.num_rows(split) * self._bytes_a_row * share)

    def dataset(
        self,
        splits: str | Sequence[str],
        batch_size: int,
        branches: str | Sequence[str] = asked.ALL,
        rows: np.ndarray | None = None,
        *,
        seed: int | None = None,
        epoch: int = 0,
        first_step: int = 0,
        dtype: str = "float32",
        is_sparse: bool = False,
        with_ids: bool = False,
    ) -> tf.data.Dataset:
        """Return batches as tf.data, in the plan's order or, with a seed, in training's.

        Args:
            splits: one split's name or several, which are laid end to end.
            batch_size: images a batch; the last may have fewer.
            branches: names in any order, or "all".
            rows: int64, which images of those splits, as for `reader`.
            seed: of the order; None for the plan's.
            epoch: counted from 0; with a seed only.
            first_step: batches before it are neither given nor read; with a seed only.
            dtype: of dense batches, "float32" or the stored one.
            is_sparse: give masks and values, for `datasets.expand` in the training step.
            with_ids: give the images' names, too.

        Returns:
            Pairs (features (images, branches, *shape) in `dtype`, labels int32 (images,)), or
            triples (masks uint8 (images, branches, bytes), values (nnz,) in the stored dtype,
            labels); with `with_ids` followed by the names, string (images,).

        Raises:
            ConfigError: a split has no images, a branch or a row is not in the cache, a number
                says no batch, it is another dtype, or the cache is dense and `is_sparse`.
        """
        from pipelines.storage import datasets

        order = datasets.Order(seed, epoch, first_step)
        form = datasets.Form(dtype, is_sparse, with_ids)
        return datasets.dataset(self.reader(splits, branches, rows), batch_size, order, form)

    def read(
        self, ids: Sequence[str], branches: str | Sequence[str] = asked.ALL, dtype: str = "float32"
    ) -> np.ndarray:
        """Read some images by name; the first call finds out where each image is.

        Args:
            ids: names, in the order wanted.
            branches: names in any order, or "all".
            dtype: "float32" or the stored one.

        Returns:
            (images, branches, *shape) in `dtype`, branches in the cache's order.

        Raises:
            ConfigError: an image or a branch is not in the cache, or it has another dtype.
            ShardError: a shard is damaged.
        """
        chosen = self.choose_branches(branches)
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for i, name in enumerate(ids):
            self._places = self._places or Places(self.path, self._shards)
            shard, row = self._places.find(name)
            group, row = divmod(row, self.layout.rows_per_group)
            wanted.setdefault((shard, group), []).append((i, row))
        self.layout.check_dtype(dtype)
        out = np.empty((len(ids), len(chosen), *self.layout.shape), dtype)
        for (shard, group), found in wanted.items():
            images, rows = (np.array(side) for side in zip(*found, strict=True))
            held = read_group(Group(self._shards[shard], group), chosen)
            out[images] = cells.decode(held.cells, self.layout, chosen, rows, dtype)
        return out

    def _of_splits(self, names: Sequence[str]) -> list[Shard]:
        return [
            shard
            for name in names
            for split, shard in zip(self._splits, self._shards, strict=True)
            if split == name
        ]

    def _row_bytes(self) -> float:
        """Return what an image takes in memory as cells, about; the same for any branches."""
        num_rows = max(1, sum(receipt.num_rows for receipt in self.receipts))
        num_values = sum(receipt.stats["num_values"] for receipt in self.receipts)
        if self.layout.encoding == "dense":
            return max(1.0, num_values * self.layout.itemsize / num_rows)
        nnz = sum(receipt.stats["nnz"] for receipt in self.receipts)
        masks = len(self.layout.branches) * self.layout.mask_bytes
        return max(1.0, masks + nnz * self.layout.itemsize / num_rows)


def shards_of(path: Path, plan: Plan, receipts: Sequence[Receipt]) -> list[Shard]:
    """Return the shards of a cache as its plan and receipts describe them."""
    layout, identity = Layout.from_json(plan.details, plan.format_version), plan.identity
    return [
        Shard(
            path / receipt.shard,
            f"{identity}/{receipt.shard}",
            layout,
            receipt.num_rows,
            receipt.footer_sha256,
        )
        for receipt in receipts
    ]


def shard_of(path: Path, plan: Plan, name: str) -> Shard:
    """Return a shard that is to be written."""
    layout = Layout.from_json(plan.details, plan.format_version)
    return Shard(path / name, f"{plan.identity}/{name}", layout)


def find_cache(features_dir: Path, node: str) -> FeatureCache:
    """Open the cache of a node (see `find_folder`)."""
    return FeatureCache(find_folder(features_dir, node))


def find_folder(features_dir: Path, node: str) -> Path:
    """Find the cache of a node, by any spelling of its name, or the only one there is.

    Args:
        features_dir: the folder of the caches.
        node: a node's name; empty for the only cache.

    Raises:
        ManifestError: there is no such cache, or several and none is named.
    """
    files = (path for name in (PLAN, MANIFEST) for path in features_dir.glob(f"*/{name}"))
    found = sorted({path.parent for path in files})
    names = ", ".join(path.name for path in found)
    flag = set_folders.flag(features_dir)
    if not found:
        raise ManifestError(f"{features_dir}: no cache here; run `bottleneck extract{flag}` first")
    if node:
        wanted = loosely(node)
        matching = [path for path in found if loosely(path.name) == wanted]
        if not matching:
            raise ManifestError(
                f"{features_dir}: no cache of node {node}; there are {names}; "
                f"run `bottleneck extract{flag} --node {node}` first"
            )
        return matching[0]
    if len(found) > 1:
        raise ManifestError(f"{features_dir}: several caches; choose one with --node: {names}")
    return found[0]


def loosely(name: str) -> str:
    """Spell a node's name so that `mixed9` and `mixed_9` are the same."""
    return name.replace("_", "").lower()


def _select(groups: Groups, rows: np.ndarray, path: Path) -> Groups:
    """Keep of each group the rows that are wanted."""
    return Groups(groups.shards, asked.rows(rows, int(groups.num_rows.sum()), path))
