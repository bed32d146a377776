"""The plan of each cache, read or made: what it is asked to be, what a probe says, its shards."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import FeatureError, ManifestError
from pipelines.execution.tasks import Output
from pipelines.extraction.inputs import Source
from pipelines.progress import Progress
from pipelines.storage import existing, formats, locks, probe
from pipelines.storage.fingerprint import check_same
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.manifest import Plan, ShardFolder, Task, split_into_tasks
from pipelines.storage.probe import Choice, Probe

MEND = "ask for that again, or start over with --overwrite"
_SHARD_ROWS = 1024  # at most: what a kill can cost, and work for many workers
Forward = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Target:
    """A cache that is wanted.

    Attributes:
        folder: where.
        shape: of one map, (height, width, channels) or (channels,).
        fingerprint: what it is made from.
        details: what its plan publishes, beside layout and probe.
    """

    folder: ShardFolder
    shape: tuple[int, ...]
    fingerprint: Mapping[str, Any]
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """How caches are written.

    Attributes:
        dtype: "float32", "float16" or "uint8".
        encoding: "auto", "sparse" or "dense".
        format: "parquet" or "tfrecord".
        batch_size: images in one forward pass.
        shards: wanted number of files; 0 for files of `shard_bytes`.
        shard_bytes: of one file on disk, about.
        overwrite: caches made with other settings go.
    """

    dtype: str
    encoding: str
    format: str
    batch_size: int
    shards: int
    shard_bytes: int
    overwrite: bool


def open_outputs(
    source: Source,
    targets: Sequence[Target],
    run_forward: Forward,
    settings: Settings,
    holding: contextlib.ExitStack,
    progress: Progress,
) -> tuple[list[Output], list[locks.Lock]]:
    """Lock the folders of all targets; read their plans, or probe and publish them.

    Args:
        source: of the inputs.
        targets: caches that one pass fills.
        run_forward: inputs to maps, float32 (images, branches, *shape), one array a target.
        settings: how they are written.
        holding: keeps the locks.
        progress: told about the probe.

    Returns:
        Outputs and locks, one a target.

    Raises:
        ManifestError: a cache is there with other settings or other shards than the others.
        FeatureError: a map cannot be stored.
    """
    held = [holding.enter_context(locks.hold(target.folder.path)) for target in targets]
    plans = [_read_plan(target, settings.overwrite) for target in targets]
    missing = [i for i, plan in enumerate(plans) if plan is None]
    begun = _common_tasks(targets, plans)
    if missing:
        _check_unread(targets[i] for i in missing)  # now, and when the probe is over
        progress.say(f"probing {probe.NUM_IMAGES} images for the encoding")
        probes = [_begin(targets[i], source, settings) for i in missing]
        chosen = [(found, i, targets[i]) for found, i in zip(probes, missing, strict=True)]
        _show(chosen, source, run_forward, settings.batch_size)
        choices = [found.choice() for found in probes]
        tasks = _cut(source, choices, settings, begun)
        _check_unread(targets[i] for i in missing)
        for i, choice in zip(missing, choices, strict=True):
            if settings.overwrite:  # not before it is sure what comes instead
                targets[i].folder.clear()
            plans[i] = _publish(targets[i], choice, tasks)
    outputs = [
        Output(target.folder, plan)
        for target, plan in zip(targets, plans, strict=True)
        if plan is not None
    ]
    return outputs, held


def _read_plan(target: Target, overwrite: bool) -> Plan | None:
    """Return the plan that is there for the same cache; None where it is to be made."""
    folder = target.folder
    folder.sweep()
    plan = existing.read_plan(folder, overwrite)
    if plan is not None:
        try:
            check_same(plan.fingerprint, target.fingerprint, folder.path, MEND)
        except ManifestError:
            if not overwrite:
                raise
            return None
    return plan


def _check_unread(targets: Iterable[Target]) -> None:
    for target in targets:
        locks.check_unread(target.folder.path)


def _common_tasks(targets: Sequence[Target], plans: Sequence[Plan | None]) -> tuple[Task, ...]:
    """Return the shards of the caches that are begun and not whole; of those alone any are made."""
    there = [Output(t.folder, p) for t, p in zip(targets, plans, strict=True) if p is not None]
    begun = [output for output in there if output.missing()]
    for first, second in itertools.pairwise(begun):
        if first.plan.tasks != second.plan.tasks:
            raise ManifestError(
                f"{second.folder.path}: has other shards than {first.folder.path}, so one pass "
                "cannot make both; extract one after the other"
            )
    return begun[0].plan.tasks if begun else ()


def _begin(target: Target, source: Source, settings: Settings) -> Probe:
    return Probe(
        Layout(target.shape, source.branches, settings.dtype, settings.encoding, settings.format, 1)
    )


def _show(
    chosen: Sequence[tuple[Probe, int, Target]],
    source: Source,
    run_forward: Forward,
    batch_size: int,
) -> None:
    """Run the first images through the network, twice where scales must be found first."""
    passes = [Probe.see, Probe.measure] if chosen[0][0].needs_ranges else [Probe.measure]
    for take in passes:
        for maps, names in _first_maps(source, run_forward, batch_size):
            for found, i, target in chosen:
                with naming(str(target.details["node"])):
                    take(found, maps[i], names)


def _first_maps(
    source: Source, run_forward: Forward, batch_size: int
) -> Iterator[tuple[list[np.ndarray], list[str]]]:
    left = probe.NUM_IMAGES
    for split, num_rows in source.num_rows().items():
        for batch in source.inputs(split, 0, min(left, num_rows), batch_size):
            maps = run_forward(batch.load())
            yield [found[: len(batch.ids)] for found in maps], batch.ids
            left -= len(batch.ids)
        if not left:
            return


@contextlib.contextmanager
def naming(node: str) -> Iterator[None]:
    """Say in an error about a map at which node it was.

    Raises:
        FeatureError: the block raised one.
    """
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"node {node}, image {error}") from error


def _cut(
    source: Source, choices: Sequence[Choice], settings: Settings, begun: tuple[Task, ...]
) -> tuple[Task, ...]:
    """Cut the images into shards, of about the wanted size for the largest of the caches.

    Raises:
        ManifestError: a cache that is begun, whose pass this is, too, has larger ones.
    """
    num_rows = dict(source.num_rows())
    suffix = formats.FORMATS[settings.format].SUFFIX
    largest = max(choice.row_bytes for choice in choices)
    shard_rows = max(1, min(_SHARD_ROWS, int(settings.shard_bytes / largest)))
    by_size = sum(-(-count // shard_rows) for count in num_rows.values())
    asked = split_into_tasks(num_rows, settings.shards or by_size, suffix)
    found, wanted = (max(map(len, tasks), default=0) for tasks in (begun, asked))
    if found > wanted and not settings.shards:
        raise ManifestError(
            f"an unfinished cache of this pass has {found} images a shard, --shard-size asks for "
            f"{wanted} in the others; extract one node after the other"
        )
    return begun or asked


def _publish(target: Target, choice: Choice, tasks: tuple[Task, ...]) -> Plan:
    details = {**target.details, **choice.layout.to_json(), "probe": choice.details}
    plan = Plan("features", FORMAT_VERSION, target.fingerprint, details, tasks)
    target.folder.publish(plan)
    return plan
