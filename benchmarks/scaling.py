"""What workers bring: two against one, and what handing out the work costs.

Workers are started and have done some work before the clock runs, for in a real run that is a
matter of seconds once. One and two workers take turns at the same shards, which may be made twice;
those that wait cost nothing. Beside them stands what the machine itself gives: two processes that
share nothing against one, encoding in memory; the cores of a rented machine are seldom two whole
ones. The engine's own cost is that of the same shards in one worker's
process, against this process without an engine between.

`benchmarks.extract` holds a whole extract against what its halves allow.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import extract as benchmark_of_extract
from benchmarks import report
from pipelines import compress, extract
from pipelines.compression import encoding
from pipelines.config import CompressConfig, ExtractConfig
from pipelines.execution import inline, local, slots
from pipelines.execution.engine import Crew, CrewSettings, Engine, Job, Piece
from pipelines.extraction import network
from pipelines.extraction.inputs import Origin
from pipelines.extraction.writing import ShardWork
from pipelines.images import index, sources
from pipelines.images.encode import Encoder, Listed
from pipelines.images.jpeg import JpegCodec
from pipelines.progress import Silent
from pipelines.storage import set_folders, variants
from pipelines.storage.layout import FORMAT_VERSION
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, split_into_tasks

_BACKBONE, _NODE, _BATCH_SIZE = "efficientnet_lite0", "avg_pool", 8
_DEMO_ROWS = 30  # images in a shard of the demo's variants
_NUM_IN_MEMORY = 300  # images that a process encodes for the machine's own ratio
_SHAPE = (300, 300)  # of one, as a solar cell's


@dataclass(frozen=True)
class _Work:
    """A job and shards for it."""

    name: str
    job: Job
    pieces: Sequence[Piece]
    num_images: int


def main() -> None:
    """Measure and publish."""
    parts = {"compress": _compress, "engine": _engine, "extract": _extract}
    parser = report.parser("scaling", "Measure what workers bring.", repetitions=5)
    parser.add_argument("--images", type=report.positive, default=1500, help="that are compressed")
    parser.add_argument("--extracted", type=report.positive, default=128, help="that are extracted")
    parser.add_argument(
        "--parts", nargs="+", choices=parts, default=list(parts), help="what to measure"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        rows = [parts[name](Path(folder) / name, arguments) for name in arguments.parts]
    report.publish("scaling", arguments, rows)


def _compress(folder: Path, arguments: argparse.Namespace) -> report.Row:
    work = _compressing(folder, arguments.images, arguments.images // _DEMO_ROWS)
    return _two_against_one(work, arguments.repetitions)


def _extract(folder: Path, arguments: argparse.Namespace) -> report.Row:
    return _two_against_one(_extracting(folder, arguments.extracted), arguments.repetitions)


def _engine(folder: Path, arguments: argparse.Namespace) -> report.Row:
    """Compare one worker's process with none, at a hundred shards."""
    work = _compressing(folder, arguments.images, 100)
    with (
        _started(local.open_crew, work, 1) as one,
        _started(inline.open_crew, work, 1) as none,
    ):
        figures = report.take_turns(
            {"one": lambda: _rate(one, work), "none": lambda: _rate(none, work)},
            arguments.repetitions,
            warm_up=True,
        )
    return report.compare(
        f"{work.name} in a worker's process, {len(work.pieces)} shards",
        "images/s",
        figures["one"],
        figures["none"],
        "in this process, without an engine between",
        "at least 0.98",
    )


def _two_against_one(work: _Work, repetitions: int) -> report.Row:
    spawned = multiprocessing.get_context("spawn")
    with (
        _started(local.open_crew, work, 1) as one,
        _started(local.open_crew, work, 2) as two,
        ProcessPoolExecutor(2, spawned) as processes,
    ):
        _rate_in_memory(processes, 2)  # they start and import
        figures = report.take_turns(
            {
                "two": lambda: _rate(two, work),
                "one": lambda: _rate(one, work),
                "both": lambda: _rate_in_memory(processes, 2),
                "alone": lambda: _rate_in_memory(processes, 1),
            },
            repetitions,
        )
    allowed = map(float.__truediv__, figures["both"], figures["alone"])
    return report.compare(
        f"{work.name}, two workers",
        "images/s",
        figures["two"],
        figures["one"],
        "one worker",
        "at least 1.85, where the machine gives that",
        {"the machine's own ratio, two processes that share nothing": statistics.median(allowed)},
    )


def _rate_in_memory(processes: Executor, num_at_once: int) -> float:
    """Let processes encode the same number of images each; images/s of all together."""
    started = time.perf_counter()
    for _ in processes.map(_encode_in_memory, [_NUM_IN_MEMORY] * num_at_once):
        pass
    return num_at_once * _NUM_IN_MEMORY / (time.perf_counter() - started)


def _encode_in_memory(num_images: int) -> None:
    pixels = np.random.default_rng(0).normal(128, 30, _SHAPE).clip(0, 255).astype(np.uint8)
    codec = JpegCodec()
    for _ in range(num_images):
        codec.encode(pixels)


@contextlib.contextmanager
def _started(engine: Engine, work: _Work, num_workers: int) -> Iterator[Crew]:
    """Open workers and let each do a shard or more."""
    with engine(work.job, CrewSettings(slots.cpu_slots(num_workers))) as crew:
        for _ in crew.run(deque(work.pieces[: 4 * num_workers])):
            pass
        yield crew


def _rate(crew: Crew, work: _Work) -> float:
    """Make all shards; images/s."""
    started = time.perf_counter()
    for _ in crew.run(deque(work.pieces)):
        pass
    return work.num_images / (time.perf_counter() - started)


def _compressing(workspace_dir: Path, num_images: int, num_shards: int) -> _Work:
    """List solar cells, and cut them into shards of variants."""
    config = CompressConfig(images="elpv", limit=num_images)
    workspace_dir.mkdir()
    source = sources.open_source(config.images, base_dir=workspace_dir)
    images = index.open_index(
        workspace_dir / "index",
        source,
        limit=num_images,
        seed=0,
        map_files=lambda function, items: map(function, items),
        progress=Silent(),
    )
    tasks = split_into_tasks(images.num_rows(), num_shards, variants.SUFFIX)
    encoder = Encoder(source.root, JpegCodec(), config.max_megapixels)
    pieces = [
        Piece(task.shard, Listed(task, images.rows(task.split, task.start, task.stop)))
        for task in tasks
    ]
    job = encoding.Job(workspace_dir, encoder)
    return _Work("compress elpv", job, pieces, images.table.num_rows)


def _extracting(workspace_dir: Path, num_images: int) -> _Work:
    """Extract once in whole batches, so that the plan is there, and take its shards."""
    workspace_dir.mkdir()
    path = benchmark_of_extract.write_list(workspace_dir, num_images, _BATCH_SIZE)
    compress.run(workspace_dir, CompressConfig(images=str(path)), 0, Silent())
    config = ExtractConfig(
        backbone=_BACKBONE,
        node=(_NODE,),
        batch_size=_BATCH_SIZE,
        shards=num_images // _BATCH_SIZE,
        check_images=0,
        threads=1,
    )
    extract.run(workspace_dir, config, 0, Silent(), inline.open_crew)
    folder = workspace_dir / config.features_dir / _NODE
    plan = ShardFolder(folder).read_plan("features", FORMAT_VERSION)
    assert isinstance(plan, Plan)
    found = variants.open_set(workspace_dir / set_folders.stored(), ("all",))
    job = network.Job(
        backbone=_BACKBONE,
        weights=config.weights,
        weights_seed=0,
        nodes=config.node,
        origin=Origin(found.folder, found.names),
        batch_size=_BATCH_SIZE,
        precision=config.precision,
        threads=config.threads,
    )
    pieces = [
        Piece(task.shard, ShardWork(task, {0: folder}, {0: plan.identity})) for task in plan.tasks
    ]
    name = f"extract {_BACKBONE}, {_NODE}, one thread a worker"
    return _Work(name, job, pieces, sum(map(len, plan.tasks)))


if __name__ == "__main__":
    main()
