"""The check that the cut changes nothing: the whole network against the tail behind the cache.

The first images run through the whole network, in batches of the shape that the cache was made
with, and their maps are read back from the shards and run through the rest. Both end in the
decision layer's scores; the difference is given relative to an image's largest score. For a cache
that was made from another one, both ways begin at that one's maps: what lies before has been
checked there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import FeatureError
from pipelines.execution.tasks import Output
from pipelines.extraction.inputs import Source
from pipelines.storage.batches import FeatureReader, Group, Settings
from pipelines.storage.cache import shards_of
from pipelines.storage.layout import Layout
from pipelines.storage.manifest import ShardFolder

# Largest accepted difference. float32: what rounding leaves between two orders of the same sums.
# float16 rounds to 2^-11, uint8 to half a step in 255, which deep tails spread; measured on
# real weights they stay ten times below.
BOUNDS: Mapping[str, float] = {"float32": 1e-5, "float16": 1e-2, "uint8": 1e-1}
_TINY = float(np.finfo(np.float32).tiny)  # in place of 0
Scores = Callable[[np.ndarray], np.ndarray]


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
class CutCheck:
    """Compares once, as soon as the first images' shards are there.

    Attributes:
        source: of the inputs.
        whole: inputs of one batch to scores (images, branches, classes).
        behind: for each output, maps of one batch to scores.
        num_images: how many; 0 for no check.
        batch_size: of both.
    """

    source: Source
    whole: Scores
    behind: Sequence[Scores]
    num_images: int
    batch_size: int

    def __call__(self, outputs: Sequence[Output]) -> None:
        """Check the outputs that have not been checked and have the images' shards.

        Raises:
            FeatureError: a cache fails; nothing can be trained on it, since it has no manifest.
        """
        for output, behind in zip(outputs, self.behind, strict=True):
            if not self.is_done(output) and self._are_there(output):
                result = self._compare(output, behind)
                if not result.is_passed:
                    output.folder.withdraw()
                    raise FeatureError(_why_failed(output, result))
                output.folder.write_cut_check(dataclasses.asdict(result))

    def is_done(self, output: Output) -> bool:
        """Tell whether a check of as many images is there."""
        return is_checked(output.folder, self.num_images, sum(self.source.num_rows().values()))

    def _spans(self) -> Iterator[tuple[str, int]]:
        """Give the splits that hold the first images, and how many of theirs."""
        left = self.num_images
        for split, num_rows in self.source.num_rows().items():
            if left and num_rows:
                yield split, min(left, num_rows)
                left -= min(left, num_rows)

    def _are_there(self, output: Output) -> bool:
        return all(
            task.shard in output.receipts
            for split, count in self._spans()
            for task in output.plan.tasks
            if task.split == split and task.start < count
        )

    def _compare(self, output: Output, behind: Scores) -> Result:
        layout = Layout.from_json(output.plan.details, output.plan.format_version)
        largest, num_same, num_scores, num_images = 0.0, 0, 0, 0
        for split, count in self._spans():
            cached = _reader(output, split, count).in_order(self.batch_size)
            inputs = self.source.inputs(split, 0, count, self.batch_size)
            for batch, maps in zip(inputs, cached, strict=True):
                size = len(batch.ids)
                expected = self.whole(batch.load())[:size]
                found = behind(_padded(maps.features, self.batch_size))[:size]
                scale = np.maximum(np.abs(expected).max(axis=2, keepdims=True), _TINY)
                difference = np.abs(found - expected) / scale
                largest = float(np.maximum(largest, difference.max()))  # NaN stays
                num_same += int((found.argmax(axis=2) == expected.argmax(axis=2)).sum())
                num_scores += size * expected.shape[1]
                num_images += size
        bound, same_top1 = BOUNDS[layout.dtype], num_same / num_scores
        return Result(self.source.name, num_images, largest, bound, same_top1)


def is_checked(folder: ShardFolder, num_wanted: int, num_images: int) -> bool:
    """Tell whether a cache of `num_images` has a check of as many images as are wanted."""
    found = folder.read_cut_check()
    return min(num_wanted, num_images) <= (int(found["num_images"]) if found else 0)


def _reader(output: Output, split: str, count: int) -> FeatureReader:
    tasks = [task for task in output.plan.tasks if task.split == split and task.start < count]
    shards = shards_of(
        output.folder.path, output.plan, [output.receipts[task.shard] for task in tasks]
    )
    groups = []
    for task, shard in zip(tasks, shards, strict=True):
        for g in range(shard.num_groups):
            start = task.start + g * shard.layout.rows_per_group
            wanted = min(shard.group_rows(g), count - start)
            if wanted > 0:
                groups.append(Group(shard, g, np.arange(wanted)))
    layout = shards[0].layout
    return FeatureReader(layout, groups, Settings(layout.branches, 1, 1))


def _padded(maps: np.ndarray, batch_size: int) -> np.ndarray:
    missing = np.zeros((batch_size - len(maps), *maps.shape[1:]), maps.dtype)
    return np.concatenate([maps, missing])


def _why_failed(output: Output, result: Result) -> str:
    return (
        f"{output.folder.path}: the tail behind the cache differs from the whole network by "
        f"{result.max_difference:.2g} of an image's largest score on {result.num_images} images, "
        f"{100 * result.same_top1:.1f}% with the same best class; accepted is {result.bound:g}; "
        "extract with --overwrite and a wider --dtype, or another --node"
    )
