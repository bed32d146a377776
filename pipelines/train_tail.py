"""Stage 3: train the layers behind a node from its cache, and the default model beside it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from pipelines import runs, train_chain
from pipelines.config import ExtractConfig, TrainTailConfig
from pipelines.errors import ConfigError, SavedInterrupt, TrainingError
from pipelines.execution import replicas
from pipelines.progress import Progress
from pipelines.storage.cache import find_folder
from pipelines.train_runs import Ask, Start
from pipelines.training import sweep
from pipelines.training.loop import StoppedError, Watch, never


def run(
    workspace_dir: Path,
    features_dir: Path,
    config: TrainTailConfig,
    seed: int,
    progress: Progress,
    watch: Watch = never,
    network: ExtractConfig | None = None,
) -> dict[str, Any]:
    """Train a run, a chain of blocks or a sweep of heads, going on where an earlier start stopped.

    Args:
        workspace_dir: the workspace; runs go to runs/<name>/ in it.
        features_dir: the folder of the caches.
        config: the settings.
        seed: of the order and the head's start.
        progress: told about the steps.
        watch: asked behind each step whether to stop; what was done is saved before this raises.
        network: the settings of extract, which say whose blocks to train where no cache does.

    Returns:
        The summary: stage, run, node, num_steps, best_val_top1, default_best_val_top1,
        images_per_s and data_wait (of the topology's steps in this start, None where there were
        none), seconds. With blocks and sweeps also `runs`: these for each run, and what each was
        swept with; the others are the last block's, or the best head's by validation.

    Raises:
        ConfigError: an unknown branch, or settings that do not go together.
        ManifestError: no whole cache, or a run of this name has other settings.
        TrainingError: the settings do not go together, or the loss is no number.
        ShardError: a shard is damaged, or the disk refuses.
        SavedInterrupt: it was asked to stop.
    """
    started = time.monotonic()
    check_settings(config)
    start = Start(workspace_dir, features_dir, seed, progress, watch)
    try:
        if config.blocks:
            summary = train_chain.train(start, config, network or ExtractConfig())
        elif config.sweep:
            summary = _train_sweep(start, config)
        else:
            (summary,) = start.train([Ask(config.run, config)])
    except StoppedError as error:
        raise SavedInterrupt(
            f"stopped and saved: {error}; the same command goes on from there"
        ) from error
    summary["seconds"] = round(time.monotonic() - started, 3)
    return summary


def _train_sweep(start: Start, config: TrainTailConfig) -> dict[str, Any]:
    """Train the heads of a sweep side by side."""
    chosen = sweep.combinations(config.sweep)
    base = config.run or find_folder(start.features_dir, config.node).name
    width = len(str(len(chosen)))
    asks = [
        Ask(f"{base}-{number:0{width}d}", _with(config, values))
        for number, values in enumerate(chosen, 1)
    ]
    for one, other in itertools.combinations(asks, 2):
        if one.config == other.config:
            raise ConfigError(
                f"sweep: {one.run} and {other.run} are the same; leave out one of them",
                is_usage=True,
            )
    summaries: list[dict[str, Any]] = []
    for ask, summary in zip(asks, start.train(asks), strict=True):
        swept = {name: getattr(ask.config, name) for name in chosen[0]}
        summaries.append({**swept, "diverged_step": None, **summary})
    good = [summary for summary in summaries if summary["diverged_step"] is None]
    if not good:
        raise TrainingError(
            f"run {base}-...: every head has diverged; sweep lower learning rates, under "
            "another --run or with --overwrite"
        )
    best = max(good, key=lambda summary: summary["best_val_top1"])  # the first of equals
    if replicas.hosts().index == 0:
        runs.point_latest(start.workspace_dir, best["run"])
    own = {"diverged_step", *chosen[0]}
    head = {name: value for name, value in best.items() if name not in own}
    return {**head, "runs": summaries}


def check_settings(config: TrainTailConfig) -> None:
    """Refuse settings that exclude each other.

    Raises:
        ConfigError: they do.
    """
    for one, other in (
        ("blocks", "node"),
        ("blocks", "sweep"),
        ("blocks", "start_from"),
        ("sweep", "start_from"),
    ):
        if getattr(config, one) and getattr(config, other):
            flags = (f"--{name.replace('_', '-')}" for name in (one, other))
            raise ConfigError(f"{' and '.join(flags)}: leave out one of them", is_usage=True)
    if config.extract and not config.blocks:
        raise ConfigError("--extract: goes with --blocks alone", is_usage=True)


def _with(config: TrainTailConfig, values: dict[str, str]) -> TrainTailConfig:
    """Return the settings of one head of a sweep.

    Raises:
        ConfigError: a value is not allowed.
    """
    try:
        return TrainTailConfig.model_validate({**config.model_dump(), **values})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        extra = cast(dict[str, str], TrainTailConfig.model_fields[name].json_schema_extra)
        raise ConfigError(
            f"sweep: {name} = {values.get(name)} is not allowed; allowed: {extra['allowed']}",
            is_usage=True,
        ) from None
