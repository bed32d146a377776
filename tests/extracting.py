"""Extracts of made-up images with NumPy in the network's place; nothing here loads TensorFlow.

Two nodes in one pass: `front`, whose maps are mostly zeros, and `pool` behind it.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipelines.errors import DeviceLostError
from pipelines.execution.engine import CrewSettings, Engine
from pipelines.execution.inline import open_crew
from pipelines.extraction import job
from pipelines.extraction.device import Network, Scores
from pipelines.extraction.extractor import Extractor
from pipelines.extraction.feeding import Ahead
from pipelines.extraction.inputs import Inputs
from pipelines.extraction.plans import Settings, Target
from pipelines.progress import Progress, Silent
from pipelines.storage import probe
from pipelines.storage.cache import FeatureCache
from pipelines.storage.manifest import ShardFolder

BRANCHES = ("original", "q050")
SHAPES = {"front": (2, 3, 8), "pool": (8,)}
ROWS = {"train": 5, "val": 2}
_NUM_CLASSES = 3
_SIDE = int(np.prod(SHAPES["front"]))


@dataclass(frozen=True)
class Extract:
    """What is extracted.

    Attributes:
        group_bytes: that are read together, about.
        seed: another one means other images.
        period: of the images: so many behind one another differ.
    """

    format: str = "parquet"
    dtype: str = "float16"
    encoding: str = "auto"
    shards: int = 3
    batch_size: int = 2
    group_bytes: int = 400
    seed: int = 0
    period: int = 1000
    overwrite: bool = False
    rows: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(ROWS))


class MadeUp:
    """A source of images that are drawn from their row number.

    Attributes:
        spoiled: activations that an image has in its second branch, by its name.
    """

    branches = BRANCHES
    name = "images"

    def __init__(self, extract: Extract, spoiled: Mapping[str, float] | None = None) -> None:
        self._extract = extract
        self._spoiled = dict(spoiled or {})

    def num_rows(self) -> Mapping[str, int]:
        return self._extract.rows

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        for first in range(start, stop, batch_size):
            numbers = range(first, min(first + batch_size, stop))
            load = partial(self._load, split, numbers, batch_size)
            yield Inputs(
                [f"{split}/{n:03d}" for n in numbers], [n % _NUM_CLASSES for n in numbers], load
            )

    def _load(self, split: str, numbers: range, batch_size: int) -> np.ndarray:
        images = np.zeros((batch_size, len(BRANCHES), _SIDE), np.float32)
        for image, number in zip(images, numbers, strict=False):
            split_number = list(self._extract.rows).index(split)
            seed = [self._extract.seed, split_number, number % self._extract.period]
            image[:] = np.random.default_rng(seed).normal(-1, 1.5, image.shape)
            image[1, 0] = self._spoiled.get(f"{split}/{number:03d}", image[1, 0])
        return images


def run_forward(images: np.ndarray) -> list[np.ndarray]:
    """Give the maps of both nodes for float32 (images, branches, values)."""
    front = np.maximum(images, 0).reshape(*images.shape[:2], *SHAPES["front"])
    return [front, front.mean(axis=(2, 3))]


def scores_of_pool(pool: np.ndarray) -> np.ndarray:
    """Give (images, branches, classes); einsum, since a thread of BLAS survives no fork."""
    weights = np.random.default_rng(9).normal(0, 1, (SHAPES["pool"][0], _NUM_CLASSES))
    return np.einsum("nbc,ck->nbk", pool.astype(np.float64), weights)


def scores_of_front(front: np.ndarray) -> np.ndarray:
    return scores_of_pool(front.mean(axis=(2, 3)))


def scores_of_images(images: np.ndarray) -> np.ndarray:
    return scores_of_pool(run_forward(images)[1])


@dataclass(frozen=True)
class MadeUpNetwork:
    """A job for an engine: the made-up images through the made-up network.

    Attributes:
        extract: the settings.
        spoiled: see `MadeUp`.
        threads: that make inputs ready; 0 for none, nor any that writes: they survive no fork.
        in_flight: batches on the made-up device at once.
    """

    extract: Extract
    spoiled: Mapping[str, float] = dataclasses.field(default_factory=dict)
    threads: int = 0
    in_flight: int = 1
    whole: Scores = dataclasses.field(default_factory=lambda: scores_of_images)
    behind: Sequence[Scores] = dataclasses.field(default_factory=lambda: BEHIND)

    def open(self) -> Extractor:
        network = Network(
            list(SHAPES),
            run_forward,
            self.whole,
            self.behind,
            self.extract.batch_size,
            self.in_flight,
        )
        source = MadeUp(self.extract, self.spoiled)
        return Extractor(source, network, Ahead(self.threads, 1000))


@dataclass(frozen=True)
class InProcess:
    """The same job in a process of its own, where nothing is patched.

    Attributes:
        network: the job.
        deaths: a file that says how often a process dies in the middle of a batch, and by what:
            "2 kill" or "1 lose", for instance.
    """

    network: MadeUpNetwork
    deaths: Path | None = None

    def open(self) -> Extractor:
        probe._GROUP_BYTES = self.network.extract.group_bytes
        found = self.network.open()
        return dataclasses.replace(
            found, network=dataclasses.replace(found.network, run_forward=self._run_forward)
        )

    def _run_forward(self, images: np.ndarray) -> list[np.ndarray]:
        if self.deaths:
            left, how = self.deaths.read_text().split()
            if int(left) and np.any(images):  # nothing but zeros only warms up
                self.deaths.write_text(f"{int(left) - 1} {how}")
                if how == "lose":
                    raise DeviceLostError("the device fell off")
                os.kill(os.getpid(), signal.SIGKILL)
        return run_forward(images)


BEHIND = (scores_of_front, scores_of_pool)
PUBLISHED = {"classes": list("abc"), "split_note": ""}
WAY = job.Way(check_images=4)


def fill(
    features_dir: Path,
    extract: Extract,
    progress: Progress | None = None,
    spoiled: Mapping[str, float] | None = None,
    made_with: Mapping[str, Any] | None = None,
    way: job.Way = WAY,
    engine: Engine = open_crew,
) -> job.Done:
    """Make the caches of both nodes below `features_dir`, or go on with them.

    Args:
        features_dir: where.
        extract: the settings.
        progress: told about the images.
        spoiled: activations of some images.
        made_with: what the fingerprint says instead.
        way: how the work is done.
        engine: does it; gets no slots.
    """
    work = MadeUpNetwork(extract, spoiled or {})
    made_from = {**dataclasses.asdict(extract), "backbone": "made_up", **(made_with or {})}
    del made_from["overwrite"]
    targets = [
        Target(
            ShardFolder(features_dir / node),
            shape,
            {**made_from, "node": node},
            {"node": node, "feeds_decision": node == "pool", **PUBLISHED},
        )
        for node, shape in SHAPES.items()
    ]
    settings = Settings(
        dtype=extract.dtype,
        encoding=extract.encoding,
        format=extract.format,
        shards=extract.shards,
        shard_bytes=1 << 20,
        overwrite=extract.overwrite,
    )
    source = MadeUp(extract)
    with (
        mock.patch.object(probe, "_GROUP_BYTES", extract.group_bytes),
        engine(work, CrewSettings(())) as crew,
    ):
        return job.fill(source, targets, crew, settings, way, progress or Silent())


@dataclass(frozen=True)
class Content:
    """All that a cache gives: float32 maps (images, branches, *shape), labels, names."""

    maps: np.ndarray
    labels: np.ndarray
    ids: list[str]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Content)
            and self.ids == other.ids
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.maps, other.maps)
        )


def read_all(folder: Path) -> Content:
    """Open a cache and read every image of it."""
    cache = FeatureCache(folder)
    batches = list(cache.reader(cache.splits, num_threads=1).in_order(5))
    return Content(
        np.concatenate([batch.features for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        [name for batch in batches for name in batch.ids or ()],
    )


def files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder, but not of locks.

    Nor those that a killed check of the disk has left, which stay for a minute.
    """
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.name.startswith(".lock")
        and not path.parent.name.startswith(".disk.")
    }
