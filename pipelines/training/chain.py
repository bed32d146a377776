"""The thesis's procedure (3.4.1): a run a block, from the end of the network towards the front."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError, ManifestError
from pipelines.networks import backbones, blocks
from pipelines.storage.cache import FeatureCache, find_folder

DEFAULT_NAME = "blocks"


@dataclass(frozen=True)
class Link:
    """One run of a chain.

    Attributes:
        run: its name.
        block: that it adds to those trained before.
        node: whose cache it reads.
        start_from: the run before; empty for the first.
    """

    run: str
    block: str
    node: str
    start_from: str


def plan(backbone_name: str, num_blocks: int, name: str) -> list[Link]:
    """Plan the runs of a chain.

    Args:
        backbone_name: of the network.
        num_blocks: how many blocks, counted from the end of the network.
        name: with which the runs' names begin; empty for `DEFAULT_NAME`.

    Returns:
        The runs in their order.

    Raises:
        ConfigError: the network has fewer blocks that can read a cache.
    """
    model = backbones.load(backbone_name, backbones.NONE).model
    known = [block for block in blocks.list_blocks(backbone_name, model) if block.input_node]
    if num_blocks > len(known):
        raise ConfigError(
            f"blocks {num_blocks}: {backbone_name} has {len(known)} that can read a cache "
            f"({', '.join(block.name for block in reversed(known))}); ask for so many or fewer",
            is_usage=True,
        )
    links: list[Link] = []
    for number, block in enumerate(reversed(known[-num_blocks:]), 1):
        run = f"{name or DEFAULT_NAME}-{number}-{block.name}"
        start_from = links[-1].run if links else ""
        links.append(Link(run, block.name, str(block.input_node), start_from))
    return links


def any_cache(features_dir: Path) -> FeatureCache | None:
    """Open one of the caches of a folder, which says what the others should be of."""
    for path in sorted(features_dir.glob("*/")):
        try:
            return FeatureCache(path)
        except ManifestError:
            continue  # not finished; whoever trains from it will say so
    return None


def missing(features_dir: Path, links: list[Link]) -> list[str]:
    """Check the caches of a chain; return the nodes of those that are not there or not whole.

    Raises:
        ManifestError: they are of several networks, images or classes.
    """
    found, lacking = [], []
    for link in links:
        try:
            found.append(FeatureCache(find_folder(features_dir, link.node)))
        except ManifestError:
            lacking.append(link.node)
    for cache in found[1:]:
        _check_goes_with(cache, found[0])
    return lacking


def _check_goes_with(cache: FeatureCache, first: FeatureCache) -> None:
    for what, here, there in (
        ("backbone", cache.fingerprint["backbone"], first.fingerprint["backbone"]),
        ("weights", cache.fingerprint["weights_sha256"], first.fingerprint["weights_sha256"]),
        ("classes", cache.classes, first.classes),
        *(
            (f"number of {split} images", cache.num_rows(split), first.num_rows(split))
            for split in ("train", "val", "test")
        ),
    ):
        if here != there:
            raise ManifestError(
                f"{cache.path}: made with other {what} than {first.path}; "
                "extract one of them again with --overwrite"
            )
