"""The thesis's procedure (3.4.1): a run a block, from the end of the network towards the front."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError, ManifestError, ShardError
from pipelines.execution import devices, slots
from pipelines.networks import backbones, blocks
from pipelines.storage import content
from pipelines.storage.cache import FeatureCache, find_folder

DEFAULT_NAME = "blocks"
# What the images of a chain's caches went through, as their fingerprints have it.
_MADE_FROM = {"images": content.KEY, "variants": "variants", "preprocessing": "protocol"}


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


def backbone_name(features_dir: Path, otherwise: str) -> str:
    """Name the network whose blocks are trained: of a cache that is there, or of the settings.

    Args:
        features_dir: the folder of the caches.
        otherwise: of the settings; counts where a cache is of it, or where there is none.

    Raises:
        ManifestError: nothing names one.
    """
    found = []
    for path in sorted(features_dir.glob("*/")):
        with contextlib.suppress(ManifestError, ShardError):  # said where it is trained from
            found.append(str(FeatureCache(path).fingerprint["backbone"]))
    if found and otherwise not in found:
        return found[0]
    if not otherwise:
        raise ManifestError(f"{features_dir}: no cache here; run `bottleneck extract` first")
    return otherwise


def missing_nodes(features_dir: Path, otherwise: str, num_blocks: int, name: str) -> list[str]:
    """List the nodes whose caches a chain lacks, without TensorFlow in this process.

    What TensorFlow runs on is settled when it starts, and training has devices of its own; so a
    process of its own looks at the network. See `backbone_name` and `plan` for the arguments.

    Raises:
        ConfigError: the network has fewer blocks that can read a cache.
        ManifestError: the caches do not go together.
    """
    asked = (features_dir, otherwise, num_blocks, name)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_missing_nodes, *asked).result()


def _missing_nodes(features_dir: Path, otherwise: str, num_blocks: int, name: str) -> list[str]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to tell
    os.environ.update(slots.visible_to_one(slots.CPU))
    devices.configure()
    return missing(features_dir, plan(backbone_name(features_dir, otherwise), num_blocks, name))


def missing(features_dir: Path, links: list[Link]) -> list[str]:
    """Check the caches of a chain; return the nodes of those that are not there or not whole.

    Raises:
        ManifestError: they are of several networks, images or classes.
    """
    found, lacking = [], []
    for link in links:
        try:
            found.append(FeatureCache(find_folder(features_dir, link.node)))
        except (ManifestError, ShardError):
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
        *(
            (what, cache.fingerprint.get(key), first.fingerprint.get(key))
            for what, key in _MADE_FROM.items()
        ),
    ):
        if here != there:
            raise ManifestError(
                f"{cache.path}: made with other {what} than {first.path}; "
                "extract one of them again with --overwrite"
            )
