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
from pipelines.storage import content, set_folders
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


@dataclass(frozen=True)
class Survey:
    """A chain, and what it finds of the caches that it needs.

    Attributes:
        links: its runs, in their order.
        lacking: nodes whose caches are not there, or not whole.
        backbone: the network.
        like: a whole cache of that network, whose images the others have to have; None for none.
    """

    links: list[Link]
    lacking: list[str]
    backbone: str
    like: Path | None


def survey(features_dir: Path, backbone_name: str, num_blocks: int, name: str) -> Survey:
    """Plan a chain, and check the caches that it needs.

    Args:
        features_dir: the folder of the caches.
        backbone_name: of the settings; counts where a cache is of it, or where there is none.
        num_blocks: how many blocks, counted from the end of the network.
        name: with which the runs' names begin; empty for `DEFAULT_NAME`.

    Raises:
        ConfigError: the network has fewer blocks that can read a cache.
        ManifestError: the caches do not go together, or nothing names a network.
    """
    there = _whole_caches(features_dir)
    networks = [str(cache.fingerprint["backbone"]) for cache in there]
    backbone = backbone_name if backbone_name in networks or not networks else networks[0]
    if not backbone:
        flag = set_folders.flag(features_dir)
        raise ManifestError(f"{features_dir}: no cache here; run `bottleneck extract{flag}` first")
    links = plan(backbone, num_blocks, name)
    found, lacking = [], []
    for link in links:
        try:
            found.append(FeatureCache(find_folder(features_dir, link.node)))
        except (ManifestError, ShardError):
            lacking.append(link.node)
    for cache in found[1:]:
        _check_goes_with(cache, found[0])
    like = found or [cache for cache in there if cache.fingerprint["backbone"] == backbone]
    return Survey(links, lacking, backbone, like[0].path if like else None)


def survey_apart(features_dir: Path, backbone_name: str, num_blocks: int, name: str) -> Survey:
    """Do what `survey` does, without TensorFlow in this process.

    What TensorFlow runs on is settled when it starts, and training has devices of its own; so a
    process of its own looks at the network.
    """
    asked = (features_dir, backbone_name, num_blocks, name)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_survey_on_cpu, *asked).result()


def _survey_on_cpu(features_dir: Path, backbone_name: str, num_blocks: int, name: str) -> Survey:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to tell
    os.environ.update(slots.visible_to_one(slots.CPU))
    devices.configure()
    return survey(features_dir, backbone_name, num_blocks, name)


def _whole_caches(features_dir: Path) -> list[FeatureCache]:
    found = []
    for path in sorted(features_dir.glob("*/")):
        with contextlib.suppress(ManifestError, ShardError):  # said where it is trained from
            found.append(FeatureCache(path))
    return found


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
