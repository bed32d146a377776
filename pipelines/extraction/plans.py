"""The plan of each cache, read or made: what it is asked to be, what a probe says, its shards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.errors import ManifestError
from pipelines.execution.engine import Piece
from pipelines.execution.tasks import Output
from pipelines.extraction.questions import ProbeMaps
from pipelines.progress import Progress
from pipelines.storage import existing, formats, locks, probe
from pipelines.storage.fingerprint import check_same
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Task, split_into_tasks
from pipelines.storage.probe import Choice

MEND = "ask for that again, or start over with --overwrite"
_SHARD_ROWS = 1024  # at most: what a kill can cost, and work for many workers
Ask = Callable[[Piece], Any]


class Rows(Protocol):
    """What is to be extracted, as far as a plan goes."""

    @property
    def branches(self) -> tuple[str, ...]:
        """The versions of each image that are run."""

    def num_rows(self) -> Mapping[str, int]:
        """Return the images of each split, in the plan's order."""


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
        shards: wanted number of files; 0 for files of `shard_bytes`.
        shard_bytes: of one file on disk, about.
        overwrite: caches made with other settings go.
    """

    dtype: str
    encoding: str
    format: str
    shards: int
    shard_bytes: int
    overwrite: bool


def open_outputs(
    rows: Rows, targets: Sequence[Target], ask: Ask, settings: Settings, progress: Progress
) -> list[Output]:
    """Read the plans of all targets, or probe and publish them; call it where nobody else plans.

    Args:
        rows: the images.
        targets: caches that one pass fills, in the order of the network's nodes.
        ask: has a worker answer a question.
        settings: how they are written.
        progress: told about the probe.

    Raises:
        ManifestError: a cache is there with other settings or other shards than the others.
        FeatureError: a map cannot be stored.
    """
    plans = [_read_plan(target, settings.overwrite) for target in targets]
    missing = [i for i, plan in enumerate(plans) if plan is None]
    begun = _common_tasks(targets, plans)
    if missing:
        _check_alone(targets, missing)  # now, and when the probe is over
        progress.say(f"probing {probe.NUM_IMAGES} images for the encoding")
        question = ProbeMaps({i: _asked_layout(targets[i], rows, settings) for i in missing})
        choices: list[Choice] = ask(Piece("the probe", question))
        tasks = _cut(rows, choices, settings, begun)
        _check_alone(targets, missing)
        for i, choice in zip(missing, choices, strict=True):
            if settings.overwrite:  # not before it is sure what comes instead
                targets[i].folder.clear()
            plans[i] = _publish(targets[i], choice, tasks)
    return [
        Output(target.folder, plan)
        for target, plan in zip(targets, plans, strict=True)
        if plan is not None
    ]


def _read_plan(target: Target, overwrite: bool) -> Plan | None:
    """Return the plan that is there for the same cache; None where it is to be made."""
    folder = target.folder
    folder.sweep_common()
    plan = existing.read_plan(folder, overwrite)
    if plan is not None:
        try:
            check_same(plan.fingerprint, target.fingerprint, folder.path, MEND)
        except ManifestError:
            if not overwrite:
                raise
            return None
    return plan


def _check_alone(targets: Sequence[Target], missing: Sequence[int]) -> None:
    for i in missing:
        locks.check_alone(targets[i].folder.path)


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


def _asked_layout(target: Target, rows: Rows, settings: Settings) -> Layout:
    return Layout(
        target.shape, rows.branches, settings.dtype, settings.encoding, settings.format, 1
    )


def _cut(
    rows: Rows, choices: Sequence[Choice], settings: Settings, begun: tuple[Task, ...]
) -> tuple[Task, ...]:
    """Cut the images into shards, of about the wanted size for the largest of the caches.

    Raises:
        ManifestError: a cache that is begun, whose pass this is, too, has larger ones.
    """
    num_rows = dict(rows.num_rows())
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
