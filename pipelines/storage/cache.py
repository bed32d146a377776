"""A bottleneck cache on disk: found, opened, checked; its splits are read by `batches.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import ConfigError, ManifestError
from pipelines.storage import features, parquet
from pipelines.storage.batches import Group, SplitReader
from pipelines.storage.manifest import ShardFolder

WINDOW_BYTES = 64 << 20  # of shards, about: what is shuffled together


class FeatureCache:
    """A whole cache of one node.

    Attributes:
        path: its folder.
        node: the pivotal node's name.
        layout: shape, branches, dtype and encoding.
        classes: class names, in the order of the labels.
        fingerprint: what the cache was made from.
    """

    def __init__(self, path: Path) -> None:
        """Open the cache; every shard is checked for presence and size.

        Raises:
            ManifestError: there is no whole cache here, or a newer one.
            ShardError: a shard is missing or cut short.
        """
        self.path = path
        command = f"bottleneck extract --node {path.name}"
        plan, self._receipts = ShardFolder(path).read_manifest(
            "features", features.FORMAT_VERSION, command
        )
        self.node = str(plan.details["node"])
        self.layout = features.Layout.from_json(plan.details)
        self.classes = tuple(plan.details["classes"])
        self.fingerprint = plan.fingerprint
        self.details = plan.details
        self._shards_of: dict[str, list[int]] = {}
        for i, task in enumerate(plan.tasks):
            self._shards_of.setdefault(task.split, []).append(i)

    def num_rows(self, split: str) -> int:
        """Return the number of images of a split; 0 where there is none."""
        return sum(self._receipts[i].num_rows for i in self._shards_of.get(split, []))

    def choose_branches(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Turn a setting into branch names: "all", or names in any order.

        Returns:
            The names in the cache's order.

        Raises:
            ConfigError: a branch is not in the cache.
        """
        if tuple(asked) == ("all",):
            return self.layout.branches
        for name in asked:
            if name not in self.layout.branches:
                raise ConfigError(
                    f"{self.path}: no branch {name}; it has {', '.join(self.layout.branches)}"
                )
        return tuple(name for name in self.layout.branches if name in asked)

    def split(self, name: str, branches: Sequence[str], budget_bytes: int) -> SplitReader:
        """Return a reader of one split's images.

        Args:
            name: train, val or test.
            branches: which branches, in the order of the branch axis.
            budget_bytes: keep the split decoded in memory when it fits.

        Raises:
            ManifestError: the split has no images.
            ShardError: a shard is damaged.
        """
        if not self.num_rows(name):
            raise ManifestError(f"{self.path}: no images in split {name}")
        groups = []
        for i in self._shards_of[name]:
            path = self.path / self._receipts[i].shard
            with parquet.open_file(path) as file:
                counts = parquet.group_rows(path, file, self._receipts[i].num_rows)
            groups += [Group(path, g, count) for g, count in enumerate(counts)]
        num_rows = sum(receipt.num_rows for receipt in self._receipts)
        row_bytes = sum(receipt.size_bytes for receipt in self._receipts) / num_rows
        window_rows = max(1, int(WINDOW_BYTES / row_bytes))
        reader = SplitReader(self.layout, tuple(branches), groups, window_rows)
        if reader.decoded_bytes <= budget_bytes:
            reader.load()
        return reader


def find_cache(features_dir: Path, node: str) -> FeatureCache:
    """Open the cache of a node, by any spelling of its name, or the only one there is.

    Args:
        features_dir: the folder of the caches.
        node: a node's name; empty for the only cache.

    Raises:
        ManifestError: there is no such cache, or several and none is named.
    """
    found = sorted(path.parent for path in features_dir.glob("*/plan.json"))
    names = ", ".join(path.name for path in found)
    if not found:
        raise ManifestError(f"{features_dir}: no cache here; run `bottleneck extract` first")
    if node:
        wanted = loosely(node)
        matching = [path for path in found if loosely(path.name) == wanted]
        if not matching:
            raise ManifestError(
                f"{features_dir}: no cache of node {node}; there are {names}; "
                f"run `bottleneck extract --node {node}` first"
            )
        return FeatureCache(matching[0])
    if len(found) > 1:
        raise ManifestError(f"{features_dir}: several caches; choose one with --node: {names}")
    return FeatureCache(found[0])


def loosely(name: str) -> str:
    """Spell a node's name so that `mixed9` and `mixed_9` are the same."""
    return name.replace("_", "").lower()
