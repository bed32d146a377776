"""The head on photographs of solar cells: from the cache, from text files, and without any."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import fits, report
from benchmarks.fits import STREAMED, Bench, ReadyStep
from benchmarks.training_baselines import TextFiles, WholeNetwork
from pipelines import compress, extract
from pipelines.config import CompressConfig, ExtractConfig
from pipelines.execution import inline, replicas
from pipelines.networks import backbones
from pipelines.progress import Silent
from pipelines.storage import set_folders
from pipelines.storage.cache import find_cache

_BACKBONE, _NODE = "efficientnet_lite0", "avg_pool"
_BATCH_SIZE = 100
_EPOCHS = 21  # the first is not counted
_TEXT_STEPS = 3
_LEARNING_RATE = 0.003  # the demonstration's

Read = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Demo:
    """The demonstration's variants, and a head on its cache.

    Attributes:
        variants_dir: of the stored variants.
        bench: the head.
    """

    variants_dir: Path
    bench: Bench


def open_demo(folder: Path, workspace_dir: Path | None, num_cells: int) -> Demo:
    """Open a workspace of `bottleneck demo`, or make what is needed of one.

    Args:
        folder: where it is made.
        workspace_dir: one that is there; None for none.
        num_cells: images of the one that is made.
    """
    fits.configure()
    if workspace_dir is None:
        workspace_dir = folder
        folder.mkdir()
        images = CompressConfig(images="elpv", limit=num_cells)
        compress.run(folder, images, 0, Silent(), inline.open_crew)
        config = ExtractConfig(backbone=_BACKBONE, node=(_NODE,), check_images=0)
        extract.run(folder, config, 0, Silent(), inline.open_crew)
    cache = find_cache(workspace_dir / "features", _NODE)
    bench = Bench(cache, backbones.load(_BACKBONE), replicas.open_replicas())
    return Demo(workspace_dir / set_folders.stored(), bench)


def compare(demo: Demo, folder: Path, num_uncached: int, repetitions: int) -> list[report.Row]:
    """Measure images/s of training the head.

    Args:
        demo: variants and cache.
        folder: for the text files.
        num_uncached: images that are run through the whole network a repetition.
        repetitions: rounds.
    """
    bench = demo.bench
    num_images = bench.cache.num_rows("train")
    settings: dict[str, Any] = {
        "batch_size": min(_BATCH_SIZE, num_images),
        "epochs": _EPOCHS,
        "learning_rate": _LEARNING_RATE,
    }
    step = ReadyStep(bench, fits.config_of(**settings))
    texts = TextFiles(folder / "text")
    texts.write(bench.cache.reader("train"))
    network = WholeNetwork(demo.variants_dir, _BACKBONE, _NODE)
    num_uncached = min(num_uncached, num_images)
    draw = partial(texts.draw, settings["batch_size"])
    figures = report.take_turns(
        {
            "cache": lambda: num_images / fits.epoch_s(bench, fits.config_of(**settings)),
            "streamed": lambda: (
                num_images / fits.epoch_s(bench, fits.config_of(**settings, cache_memory=STREAMED))
            ),
            "text": lambda: _rate(step, draw, _TEXT_STEPS),
            "network": lambda: _rate(step, partial(network.read, num_uncached), 1),
        },
        repetitions,
        warm_up=True,
    )
    what = f"train the head, {bench.what}, {num_images} solar cells"
    text = "retrain.py of 2015: a text file an image and branch, parsed every step"
    uncached = f"the whole network every step, measured on {num_uncached} cells"
    return [
        report.compare(f"{what}, {how}", "images/s", figures[name], figures[other], beside, target)
        for name, how, other, beside, target in (
            ("cache", "the cache in memory, as by default", "text", text, "at least 30"),
            ("streamed", "the cache streamed", "text", text, "none"),
            ("cache", "the cache in memory, as by default", "network", uncached, "at least 50"),
        )
    ]


def _rate(step: ReadyStep, read: Read, num_steps: int) -> float:
    """Read batches and take a step on each; images/s."""
    num_images, started = 0, time.perf_counter()
    for _ in range(num_steps):
        features, labels = read()
        step.take(fits.batch_of(features, labels)).numpy()
        num_images += len(labels)
    return num_images / (time.perf_counter() - started)
