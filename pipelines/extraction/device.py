"""The device: batches run forward, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.extraction.feeding import NotYet, Ready
from pipelines.extraction.writing import Maps

Forward = Callable[[np.ndarray], list[np.ndarray]]
Scores = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Network:
    """What runs forward, at one batch size.

    Attributes:
        names: of the nodes.
        run_forward: inputs to maps, float32 (images, branches, *shape), one array a node.
        whole: inputs to scores, float32 (images, branches, classes).
        behind: for each node, its maps to scores.
        batch_size: images at once.
        in_flight: how many batches may be on the device at once.
    """

    names: Sequence[str]
    run_forward: Forward
    whole: Scores
    behind: Sequence[Scores]
    batch_size: int
    in_flight: int = 1


class Device:
    """Runs batches, several at once where copies are to overlap with the work; all else passes."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._waiting: deque[Any] = deque()  # in order: what passes, and batches on their way
        self._num_flying = 0
        self._pool = (
            ThreadPoolExecutor(network.in_flight, "device") if network.in_flight > 1 else None
        )

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def through(self, items: Iterator[Any], is_alone: Callable[[Any], bool]) -> Iterator[Any]:
        """Give items in their order, `Maps` in the place of what was `Ready`.

        Args:
            items: what is to run, and what passes.
            is_alone: tells what passes only when nothing is on its way, nor comes behind it.
        """
        for item in items:
            if isinstance(item, Ready):
                yield from self._run(item)
            elif not isinstance(item, NotYet):
                self._waiting.append(item)
            is_last = isinstance(item, NotYet) or is_alone(item)
            yield from self._passed(0 if is_last else self._network.in_flight - 1)
        yield from self._passed(0)

    def _run(self, ready: Ready) -> Iterator[Maps]:
        if self._pool is None:
            yield Maps(ready.ids, ready.labels, self._network.run_forward(ready.array))
            return
        self._num_flying += 1
        future = self._pool.submit(self._network.run_forward, ready.array)
        self._waiting.append(_Flying(ready.ids, ready.labels, future))

    def _passed(self, num_flying: int) -> Iterator[Any]:
        """Give what is at the front, until no more batches than that are on their way."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, _Flying):
                if self._num_flying <= num_flying:
                    return
                self._num_flying -= 1
                first = Maps(first.ids, first.labels, first.maps.result())
            self._waiting.popleft()
            yield first


@dataclass(frozen=True)
class _Flying:
    """A batch on the device."""

    ids: list[str]
    labels: list[int]
    maps: Future[list[np.ndarray]]
