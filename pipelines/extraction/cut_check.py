"""The check that the cut changes nothing: the whole network against the tail behind the cache.

The first images run through the whole network, in batches of the shape that the cache was made
with, and their maps are read back from the shards and run through the rest. Both end in the
decision layer's scores; the difference is given relative to an image's largest score. For a cache
that was made from another one, both ways begin at that one's maps: what lies before has been
checked there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import FeatureError
from pipelines.execution.engine import Piece
from pipelines.execution.tasks import Output
from pipelines.extraction.extractor import Extractor
from pipelines.extraction.inputs import padded
from pipelines.storage.batches import FeatureReader, Group, Settings
from pipelines.storage.cache import shards_of
from pipelines.storage.layout import Layout
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan

# Largest accepted difference. float32: what rounding leaves between two orders of the same sums.
# float16 rounds to 2^-11, uint8 to half a step in 255, which deep tails spread; measured on
# real weights they stay ten times below.
BOUNDS: Mapping[str, float] = {"float32": 1e-5, "float16": 1e-2, "uint8": 1e-1}
_TINY = float(np.finfo(np.float32).tiny)  # in place of 0


@dataclass(frozen=True)
class Result:
    """What one cache's check found.

    Attributes:
        start: where both ways begin: "images", or the cached node that the cache was made from.
        num_images: that were compared, in all their branches.
        max_difference: of a score, over the largest score of its image.
        bound: what is accepted.
        same_top1: share of the images and branches whose best class is the same.
    """

    start: str
    num_images: int
    max_difference: float
    bound: float
    same_top1: float

    @property
    def is_passed(self) -> bool:
        """Tell whether the cache may be trained on; float32 must keep every best class."""
        keeps_top1 = self.same_top1 == 1 or self.bound > BOUNDS["float32"]
        return self.max_difference <= self.bound and keeps_top1


@dataclass(frozen=True)
class Compare:
    """What does the cut change? A question to a worker, when the first images' shards are there.

    Attributes:
        index: of the node.
        folder: of its cache.
        identity: of the cache's plan.
        num_images: to compare.
    """

    index: int
    folder: Path
    identity: str
    num_images: int

    def answer(self, extractor: Extractor, beat: Callable[[], None]) -> Result:
        """Run the images both ways."""
        plan = extractor.plan_of(self.folder, self.identity)
        source, network = extractor.source, extractor.network
        behind, batch_size = network.behind[self.index], network.batch_size
        layout = Layout.from_json(plan.details, plan.format_version)
        largest, num_same, num_scores, num_images = 0.0, 0, 0, 0
        for split, count in spans(source.num_rows(), self.num_images):
            cached = _reader(self.folder, plan, split, count).in_order(batch_size)
            inputs = source.inputs(split, 0, count, batch_size)
            for batch, maps in zip(inputs, cached, strict=True):
                size = len(batch.ids)
                expected = network.whole(batch.load())[:size]
                found = behind(padded(maps.features, batch_size))[:size]
                scale = np.maximum(np.abs(expected).max(axis=2, keepdims=True), _TINY)
                difference = np.abs(found - expected) / scale
                largest = float(np.maximum(largest, difference.max()))  # NaN stays
                num_same += int((found.argmax(axis=2) == expected.argmax(axis=2)).sum())
                num_scores += size * expected.shape[1]
                num_images += size
                beat()
        bound, same_top1 = BOUNDS[layout.dtype], num_same / num_scores
        return Result(source.name, num_images, largest, bound, same_top1)


def due(output: Output, index: int, num_rows: Mapping[str, int], num_wanted: int) -> Piece | None:
    """Return what is to be asked, once the first images' shards are there; None where nothing is.

    Args:
        output: the cache.
        index: of its node.
        num_rows: images of each split.
        num_wanted: images to compare; 0 for no check.
    """
    if is_checked(output.folder, num_wanted, sum(num_rows.values())):
        return None
    for split, count in spans(num_rows, num_wanted):
        for task in output.plan.tasks:
            is_first = task.split == split and task.start < count
            if is_first and task.shard not in output.receipts:
                return None
    folder = output.folder.path
    question = Compare(index, folder, output.plan.identity, num_wanted)
    return Piece(f"the check of {folder}", question)


def judge(output: Output, result: Result) -> None:
    """Keep what a check has found.

    Raises:
        FeatureError: the cache fails; nothing can be trained on it, since it has no manifest.
    """
    if not result.is_passed:
        output.folder.withdraw()
        raise FeatureError(_why_failed(output, result))
    output.folder.write_cut_check(dataclasses.asdict(result))


def spans(num_rows: Mapping[str, int], num_wanted: int) -> Iterator[tuple[str, int]]:
    """Give the splits that hold the first images, and how many of theirs."""
    left = num_wanted
    for split, count in num_rows.items():
        if left and count:
            yield split, min(left, count)
            left -= min(left, count)


def is_checked(folder: ShardFolder, num_wanted: int, num_images: int) -> bool:
    """Tell whether a cache of `num_images` has a check of as many images as are wanted."""
    found = folder.read_cut_check()
    return min(num_wanted, num_images) <= (int(found["num_images"]) if found else 0)


def _reader(folder: Path, plan: Plan, split: str, count: int) -> FeatureReader:
    tasks = [task for task in plan.tasks if task.split == split and task.start < count]
    held = (ShardFolder(folder).held_receipt(plan, task.shard) for task in tasks)
    shards = shards_of(folder, plan, [receipt for receipt in held if receipt])
    groups = []
    for task, shard in zip(tasks, shards, strict=True):
        for g in range(shard.num_groups):
            start = task.start + g * shard.layout.rows_per_group
            wanted = min(shard.group_rows(g), count - start)
            if wanted > 0:
                groups.append(Group(shard, g, np.arange(wanted)))
    layout = shards[0].layout
    return FeatureReader(layout, groups, Settings(layout.branches, 1, 1))


def _why_failed(output: Output, result: Result) -> str:
    return (
        f"{output.folder.path}: the tail behind the cache differs from the whole network by "
        f"{result.max_difference:.2g} of an image's largest score on {result.num_images} images, "
        f"{100 * result.same_top1:.1f}% with the same best class; accepted is {result.bound:g}; "
        "extract with --overwrite and a wider --dtype, or another --node"
    )
