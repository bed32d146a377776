"""A chain of blocks: checked before anything starts, then trained run by run (thesis, 3.4.1)."""

from __future__ import annotations

import contextlib
import gc
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import run_folder, trainable
from pipelines.config import ExtractConfig, TrainTailConfig
from pipelines.errors import ConfigError, ManifestError
from pipelines.execution import replicas
from pipelines.progress import Silent
from pipelines.storage import set_folders, variants
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.train_runs import Ask, Start
from pipelines.training import chain
from pipelines.training.chain import Link, Survey
from pipelines.training.loop import never


def find_lacking(
    workspace_dir: Path,
    features_dir: Path,
    config: TrainTailConfig,
    seed: int,
    network: ExtractConfig,
) -> dict[str, Any]:
    """Say what `extract` has to make before a chain can be trained; TensorFlow is not loaded here.

    Args:
        workspace_dir: the workspace.
        features_dir: the folder of the caches.
        config: the settings.
        seed: of the runs.
        network: the settings of extract.

    Returns:
        The settings of extract that have to be others: `node`, and where they are not those of the
        caches that are there or wanted, `backbone`, `weights`, `features_dir` and `set`. Empty
        where nothing lacks.

    Raises:
        ConfigError: the network has fewer blocks, or several hosts ask.
        ManifestError: the caches do not go together, or a run of the chain has other settings.
        TrainingError: nothing can be learnt from the images.
    """
    if replicas.hosts().num > 1:
        raise ConfigError(
            "--extract: not on several hosts at once; run `bottleneck extract` first, then all of "
            "them without --extract",
            is_usage=True,
        )
    found = chain.survey_apart(features_dir, network.backbone, config.blocks, config.run)
    if not found.lacking:
        return {}
    start = Start(workspace_dir, features_dir, seed, Silent(), never)
    _check_before_caches(start, found, config, network)
    return _extract_settings(start, found, network)


def train(start: Start, config: TrainTailConfig, network: ExtractConfig) -> dict[str, Any]:
    """Train one run a block, each from the best of the one before.

    Args:
        start: this start.
        config: the settings.
        network: the settings of extract, which say whose blocks these are where no cache does.

    Returns:
        The summary of the last run, and of all in `runs`.

    Raises:
        ManifestError: a cache is missing, or the caches do not go together.
    """
    start.configure(config)
    found = chain.survey(start.features_dir, network.backbone, config.blocks, config.run)
    if found.lacking:
        _check_before_caches(start, found, config, network)
        flags = _flags(_extract_settings(start, found, network))
        raise ManifestError(
            f"{start.features_dir}: no whole cache of {', '.join(found.lacking)}; run "
            f"`bottleneck extract {flags}`, or give --extract here, too"
        )
    _check_links(start, found.links, config)
    summaries = []
    for link in found.links:
        here = config.model_copy(update={"node": link.node, "start_from": link.start_from})
        start.progress.say(f"block {link.block}, from the cache of {link.node}: run {link.run}")
        summaries += start.train([Ask(link.run, here)])
        gc.collect()
    return {**summaries[-1], "runs": summaries}


def _check_before_caches(
    start: Start, found: Survey, config: TrainTailConfig, network: ExtractConfig
) -> None:
    """Refuse what can be told before caches are made, which may take days."""
    if found.like is not None:
        like = FeatureCache(found.like)
        trainable.check_cache(like, config, 1)
        for link in found.links if not config.overwrite else ():
            described = start.describe(like, Ask(link.run, config))
            run_folder.check_name(
                start.workspace_dir, link.run, described, link.start_from, has_cache=False
            )
        return
    set_name = _place(start, network)["set"]
    for folder in (set_folders.stored(set_name), set_folders.listed(set_name)):
        with contextlib.suppress(ManifestError):  # not there: extract will say so
            images = variants.open_set(start.workspace_dir / folder, ("all",))
            classes = images.plan.details["classes"]
            trainable.check_images(images.folder, images.num_rows(), classes, config)
            return


def _check_links(start: Start, links: Sequence[Link], config: TrainTailConfig) -> None:
    """Refuse at once what a later run of a chain would refuse when those before are trained."""
    branches: dict[tuple[str, ...], str] = {}
    for link in links:
        cache = FeatureCache(find_folder(start.features_dir, link.node))
        trainable.check_cache(cache, config, 1)
        described = start.describe(cache, Ask(link.run, config))
        if not config.overwrite:
            run_folder.check_name(start.workspace_dir, link.run, described, link.start_from)
        branches.setdefault(described.branches, link.node)
    if len(branches) > 1:
        told = (f"{node} has {','.join(names)}" for names, node in branches.items())
        raise ManifestError(
            f"{start.features_dir}: the caches have other branches each: {'; '.join(told)}; "
            "give --branches with those that all of them have"
        )


def _extract_settings(start: Start, found: Survey, network: ExtractConfig) -> dict[str, Any]:
    """Return what `extract` has to be given, beside the workspace's file."""
    wanted: dict[str, Any] = {"node": tuple(found.lacking), "backbone": found.backbone}
    wanted |= _place(start, network)
    if found.like is not None:
        wanted["weights"] = str(FeatureCache(found.like).details["weights"])
    return {key: value for key, value in wanted.items() if value != getattr(network, key)}


def _place(start: Start, network: ExtractConfig) -> dict[str, str]:
    """Return the settings of extract that lead to the folder of the caches: it, and the set."""
    for name in set_folders.SETS:
        if start.features_dir == start.workspace_dir / set_folders.features(
            network.features_dir, name
        ):
            return {"features_dir": network.features_dir, "set": name}
    features_dir, name = set_folders.settings_of(str(start.features_dir))
    return {"features_dir": features_dir, "set": name}


def _flags(settings: Mapping[str, Any]) -> str:
    words: list[str] = []
    for key, value in settings.items():
        flag = f"--{key.replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            words += [flag, str(one)]
    return shlex.join(words)
