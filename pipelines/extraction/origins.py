"""Where an extract starts: variants, stored or listed, or the cache of a node in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError
from pipelines.extraction.inputs import Origin
from pipelines.images.encode import Encoder
from pipelines.storage import content, variants
from pipelines.storage.cache import FeatureCache
from pipelines.storage.fingerprint import digest

# What a chained cache takes over from the one it starts from: what its images went through.
_FROM_SOURCE = ("variants", content.KEY, "protocol")


@dataclass(frozen=True)
class Opened:
    """What is read, as far as plans and summaries go.

    Attributes:
        origin: what workers open.
        identity: its part of the fingerprint.
        published: what readers of a cache are told about the images: classes, split_note.
        num_quarantined: images that cannot be used.
    """

    origin: Origin
    identity: Mapping[str, Any]
    published: Mapping[str, Any]
    num_quarantined: int
    _num_rows: Mapping[str, int]

    @property
    def branches(self) -> tuple[str, ...]:
        """The versions of each image that are run."""
        return self.origin.branches

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""
        return self._num_rows

    @property
    def num_images(self) -> int:
        """The images that can be used."""
        return sum(self._num_rows.values())


def open_images(folder: Path, branches: Sequence[str], encoder: Encoder | None = None) -> Opened:
    """Open a set of variants.

    Args:
        folder: of the set.
        branches: that are asked for, or only "all".
        encoder: makes the variants, where the set holds none.

    Raises:
        ManifestError: the set is not there, or not whole.
        ShardError: a shard is missing.
        ConfigError: there is no such branch.
    """
    found = variants.open_set(folder, branches)
    identity = {
        "variants": found.plan.fingerprint,
        # Settings do not tell which images could be used: one that was mended moves all rows.
        content.KEY: content.digest_of(found.receipts),
    }
    details = found.plan.details
    return Opened(
        Origin(found.folder, found.names, encoder=encoder),
        identity,
        {"classes": details["classes"], "split_note": details["note"]},
        found.num_quarantined,
        found.num_rows(),
    )


def open_node(folder: Path, branches: Sequence[str], backbone: str) -> Opened:
    """Open the cache of a node in front.

    Raises:
        ManifestError: it is not whole, or of another network.
        ShardError: a shard is missing.
        ConfigError: there is no such branch.
    """
    cache = FeatureCache(folder)
    made = cache.fingerprint
    if made["backbone"] != backbone:
        raise ManifestError(
            f"{cache.path}: made with {made['backbone']}, this run asks for {backbone}; "
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
    return Opened(
        Origin(cache.path, cache.choose_branches(branches), is_node=True),
        identity,
        {key: cache.details[key] for key in ("classes", "split_note")},
        0,
        {split: cache.num_rows(split) for split in cache.splits},
    )
