"""The device: order kept, several batches at once, and none held back while there is a wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from pipelines.extraction.device import Device, Network
from pipelines.extraction.feeding import NotYet, Ready
from pipelines.extraction.writing import Maps


def ready(number: int) -> Ready:
    return Ready([str(number)], [0], np.array([number]))


def network(run, in_flight: int) -> Network:
    return Network(["node"], run, np.asarray, [np.asarray], 1, in_flight)


def double(array: np.ndarray) -> list[np.ndarray]:
    return [2 * array]


def numbers(items: Iterator[object]) -> list[object]:
    return [int(x.maps[0][0]) if isinstance(x, Maps) else x for x in items]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_through_keeps_the_order_of_batches_and_all_else(in_flight):
    items = ["begin", ready(1), ready(2), "end", "begin", ready(3), "end", "question", ready(4)]
    expected = ["begin", 2, 4, "end", "begin", 6, "end", "question", 8]
    with Device(network(double, in_flight)) as device:
        assert numbers(device.through(iter(items), lambda x: x == "question")) == expected


def test_through_runs_as_many_at_once_as_may_be_on_the_device():
    both = threading.Barrier(2)

    def meet(array: np.ndarray) -> list[np.ndarray]:
        both.wait(30)  # nobody passes alone
        return [array]

    with Device(network(meet, 2)) as device:
        found = device.through(iter([ready(i) for i in range(6)]), lambda x: False)
        assert numbers(found) == list(range(6))


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_through_gives_everything_before_it_waits(in_flight):
    given: list[object] = []

    def items() -> Iterator[object]:
        yield from (ready(1), ready(2), "end", NotYet())
        assert numbers(given) == [2, 4, "end"]
        yield from (ready(3), "end", NotYet())
        assert numbers(given) == [2, 4, "end", 6, "end"]

    with Device(network(double, in_flight)) as device:
        for item in device.through(items(), lambda x: False):
            given.append(item)


def test_through_a_question_is_asked_when_nothing_is_on_the_device():
    started, flying, seen = set(), set(), []

    def run(array: np.ndarray) -> list[np.ndarray]:
        number = int(array[0])
        started.add(number)
        flying.add(number)
        time.sleep(0.05)
        flying.remove(number)
        return [array]

    items = [ready(1), ready(2), "question", ready(3)]
    with Device(network(run, 2)) as device:
        for item in device.through(iter(items), lambda x: x == "question"):
            if item == "question":
                seen.append((set(started), set(flying)))
    assert seen == [({1, 2}, set())]


@pytest.mark.parametrize("in_flight", [1, 2])
def test_through_what_the_network_raises_is_raised_at_its_batch(in_flight):
    def fail_at_two(array: np.ndarray) -> list[np.ndarray]:
        if array[0] == 2:
            raise ZeroDivisionError
        return [array]

    found = []
    with Device(network(fail_at_two, in_flight)) as device, pytest.raises(ZeroDivisionError):
        for item in device.through(iter([ready(1), ready(2), ready(3)]), lambda x: False):
            found.append(item)
    assert numbers(found) == [1]
