"""A worker of extract: it runs inputs forward and fills shards; knows no framework.

Pieces are shards, and questions that need the network: a probe of the first images, the check of
the cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipelines.errors import FeatureError
from pipelines.execution.engine import Piece, Report
from pipelines.extraction import feeding
from pipelines.extraction.device import Device, Network
from pipelines.extraction.feeding import Ahead
from pipelines.extraction.inputs import Source
from pipelines.extraction.times import Clock, Times
from pipelines.extraction.writing import End, Maps, ShardWork, Writing
from pipelines.storage.layout import FORMAT_VERSION
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan


class Question(Protocol):
    """A piece that is no shard; pickled."""

    def answer(self, extractor: Extractor, beat: Callable[[], None]) -> Any:
        """Return what is asked for; `beat` is called as a sign of life."""


@dataclass(frozen=True)
class Extractor:
    """What works, once the network is there.

    Attributes:
        source: of the inputs.
        network: that they run through.
        ahead: how far inputs are made ready ahead.
        description: what the parent wants to know of the network.
    """

    source: Source
    network: Network
    ahead: Ahead
    description: Any = None
    _plans: dict[Path, Plan] = field(default_factory=dict)

    def work(self, pieces: Iterator[Piece], report: Report) -> None:
        """Do pieces until there are no more; inputs of the next one are read before one is done.

        Raises:
            FeatureError: an activation cannot be stored.
            ShardError: a shard is damaged, or the disk refuses.
        """
        times = Times()
        clock = Clock(times, lambda: getattr(self.source, "variants_s", 0.0))
        sink = Writing(self.network.names, self.plan_of, report)
        with contextlib.ExitStack() as stack:
            feed = stack.enter_context(feeding.fed(self._items(pieces), self.ahead, times))
            is_threaded = bool(self.ahead.threads)
            hand_on = stack.enter_context(feeding.behind(sink, is_threaded, times, feed.fail))
            device = stack.enter_context(Device(self.network))
            for item in device.through(feed.items, _is_question):
                if _is_question(item):
                    beat = partial(report.advance, item, 0)
                    report.done(item, item.body.answer(self, beat))
                    clock.forget()
                else:
                    hand_on(_timed(item, clock))

    def _items(self, pieces: Iterator[Piece]) -> Iterator[Any]:
        for piece in pieces:
            yield piece
            if isinstance(piece.body, ShardWork):
                task, size = piece.body.task, self.network.batch_size
                yield from self.source.inputs(task.split, task.start, task.stop, size)
                yield End()

    def plan_of(self, folder: Path, identity: str) -> Plan:
        """Read a plan that the parent has published, once.

        Raises:
            FeatureError: there is another one by now.
        """
        if folder not in self._plans or self._plans[folder].identity != identity:
            plan = ShardFolder(folder).read_plan("features", FORMAT_VERSION)
            if plan is None or plan.identity != identity:
                raise FeatureError(f"{folder}: the plan has been replaced meanwhile; run again")
            self._plans[folder] = plan
        return self._plans[folder]


def _is_question(item: object) -> bool:
    return isinstance(item, Piece) and not isinstance(item.body, ShardWork)


def _timed(item: Piece | Maps | End, clock: Clock) -> Piece | Maps | End:
    """Start the clock with a shard, and put its times into the shard's end."""
    if isinstance(item, Piece):
        clock.start()
    return End(clock.lap()) if isinstance(item, End) else item
