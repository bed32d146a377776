"""Filling caches: inputs forward, maps encoded, shards written; knows no framework."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipelines.execution.tasks import Output, in_turn, left, run_tasks
from pipelines.execution.threads import num_cores, ordered_map
from pipelines.extraction import plans
from pipelines.extraction.inputs import Inputs, Source
from pipelines.extraction.plans import Forward, Settings, Target
from pipelines.progress import Progress
from pipelines.storage import cells, feature_writer
from pipelines.storage.cache import shard_of
from pipelines.storage.cells import EncodedRows
from pipelines.storage.layout import Layout
from pipelines.storage.locks import Lock
from pipelines.storage.manifest import Receipt, Task


@dataclass(frozen=True)
class Done:
    """What one start did.

    Attributes:
        outputs: the caches, whole.
        num_resumed_shards: shards that earlier starts had made.
        num_images: that this start ran forward.
    """

    outputs: list[Output]
    num_resumed_shards: int
    num_images: int


def fill(
    source: Source,
    targets: Sequence[Target],
    run_forward: Forward,
    settings: Settings,
    progress: Progress,
    check: Callable[[Sequence[Output]], None] = lambda outputs: None,
    reading: Sequence[Lock] = (),
) -> Done:
    """Make the caches of one or more nodes in one pass, going on where an earlier start stopped.

    Args:
        source: of the inputs.
        targets: the caches.
        run_forward: inputs to maps, float32 (images, branches, *shape), one array a target.
        settings: how they are written.
        progress: told about the images.
        check: called with the outputs after each shard and before the manifests; may raise.
        reading: marks of the folders that the source reads.

    Raises:
        ManifestError: a cache is there with other settings, or another command is at work.
        FeatureError: an activation cannot be stored.
        ShardError: a shard is damaged, or the disk refuses.
    """
    with contextlib.ExitStack() as holding:
        outputs, held = plans.open_outputs(
            source, targets, run_forward, settings, holding, progress
        )
        num_resumed = sum(len(output.receipts) for output in outputs)
        job = _Job(source, outputs, run_forward, settings.batch_size, progress)
        num_images, num_done = sum(source.num_rows().values()), job.num_images_done()
        progress.start("extract", num_images, "image", num_done)
        run_tasks(outputs, partial(in_turn, job.run), lambda: check(outputs), [*held, *reading])
    return Done(outputs, num_resumed, num_images - num_done)


@dataclass(frozen=True)
class _Job:
    """What a shard's task needs."""

    source: Source
    outputs: list[Output]
    run_forward: Forward
    batch_size: int
    progress: Progress

    def num_images_done(self) -> int:
        num_left = sum(len(work.task) for work in left(self.outputs))
        return sum(self.source.num_rows().values()) - num_left

    def run(self, task: Task, todo: Sequence[Output]) -> list[Receipt]:
        """Write one shard of every output in `todo`."""
        chosen = [self.outputs.index(output) for output in todo]
        shards = [shard_of(output.folder.path, output.plan, task.shard) for output in todo]
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(feature_writer.open_shard(shard)) for shard in shards]
            layouts = [shard.layout for shard in shards]
            for batch, encoded in self._encoded(task, chosen, layouts):
                for writer, rows in zip(writers, encoded, strict=True):
                    writer.add(batch.ids, batch.labels, rows)
                self.progress.advance(len(batch.ids))
        return [writer.receipt() for writer in writers]

    def _encoded(
        self, task: Task, chosen: Sequence[int], layouts: Sequence[Layout]
    ) -> Iterator[tuple[Inputs, list[EncodedRows]]]:
        """Load, run forward and encode side by side, batch by batch, a few batches ahead."""
        workers = num_cores()
        batches = self.source.inputs(task.split, task.start, task.stop, self.batch_size)
        loaded = ordered_map(lambda b: (b, b.load()), batches, workers, workers + 1)
        forwarded = ((batch, self.run_forward(arrays)) for batch, arrays in loaded)

        def encode(item: tuple[Inputs, list[np.ndarray]]) -> tuple[Inputs, list[EncodedRows]]:
            batch, maps = item
            return batch, [
                self._encode(maps[i][: len(batch.ids)], i, layout, batch.ids)
                for i, layout in zip(chosen, layouts, strict=True)
            ]

        return ordered_map(encode, forwarded, 1, 2)

    def _encode(
        self, maps: np.ndarray, index: int, layout: Layout, ids: Sequence[str]
    ) -> EncodedRows:
        with plans.naming(str(self.outputs[index].plan.details["node"])):
            return cells.encode(maps, layout, ids)
