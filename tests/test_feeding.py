"""Between disk and device: order, bounds, errors in their place, and what is waited for."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from processes import wait_until

from pipelines.errors import ShardError
from pipelines.extraction import feeding
from pipelines.extraction.feeding import Ahead, Feed, NotYet, Ready
from pipelines.extraction.inputs import Inputs
from pipelines.extraction.times import Times

NUM_IMAGES = 3


def inputs_of(number: int, pause_s: float = 0.0) -> Inputs:
    """Make a batch of three images whose pixels say which batch and which image they are."""

    def put(image: int, array: np.ndarray) -> None:
        time.sleep(pause_s)
        array[image] = 10 * number + image

    parts = [lambda array, i=i: put(i, array) for i in range(NUM_IMAGES)]
    return Inputs(
        [f"{number}/{i}" for i in range(NUM_IMAGES)],
        [0] * NUM_IMAGES,
        lambda: np.zeros((NUM_IMAGES, 2), np.uint8),
        parts,
    )


def taken(items: Iterator[object], ahead: Ahead) -> list[object]:
    """Return all that comes out: numbers as they are, batches as the values of their images."""
    with feeding.fed(items, ahead, Times()) as feed:
        found = [item for item in feed.items if not isinstance(item, NotYet)]
        return [x.array[:, 0].tolist() if isinstance(x, Ready) else x for x in found]


def following(feed: Feed) -> object:
    """Take the next item, however long it takes."""
    return next(item for item in feed.items if not isinstance(item, NotYet))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_fed_gives_batches_and_all_else_in_order(threads):
    items = ["begin", inputs_of(1), inputs_of(2), "end", "begin", inputs_of(3), "end"]
    expected = ["begin", [10, 11, 12], [20, 21, 22], "end", "begin", [30, 31, 32], "end"]
    assert taken(iter(items), Ahead(threads, 6)) == expected


@pytest.mark.parametrize(
    ("batch_bytes", "limit_bytes", "num_ahead"), [(6, 6, 1), (6, 13, 2), (6, 1000, 4), (6, 1, 1)]
)
def test_fed_no_more_batches_are_ahead_than_fit_the_limit(batch_bytes, limit_bytes, num_ahead):
    read: list[int] = []

    def items() -> Iterator[Inputs]:
        for number in range(20):
            read.append(number)
            yield inputs_of(number)

    ahead = Ahead(2, batch_bytes, limit_bytes)
    assert ahead.num_batches == num_ahead
    with feeding.fed(items(), ahead, Times()) as feed:
        for number in range(10):
            following(feed)
            # One more is read and has no array yet; the reader may not have come that far.
            wait_until(lambda number=number: len(read) >= min(20, number + 1 + num_ahead))
            time.sleep(0.01)
            assert len(read) <= number + 2 + num_ahead


@pytest.mark.parametrize("threads", [0, 3])
def test_fed_what_reading_raises_is_raised_behind_what_was_read(threads):
    def items() -> Iterator[Inputs]:
        yield inputs_of(1)
        raise ShardError("a shard is damaged")

    found = []
    with (
        pytest.raises(ShardError, match="a shard is damaged"),
        feeding.fed(items(), Ahead(threads, 6), Times()) as feed,
    ):
        while True:
            found.append(following(feed).ids)
    assert found == [["1/0", "1/1", "1/2"]]


@pytest.mark.parametrize("threads", [0, 3])
def test_fed_what_a_part_raises_is_raised_at_its_batch(threads):
    def fail(array: np.ndarray) -> None:
        raise ShardError("1/2 cannot be decoded")

    bad = Inputs(["2/0"], [0], lambda: np.zeros(1), [fail])
    with (
        pytest.raises(ShardError, match="1/2 cannot be decoded"),
        feeding.fed(iter([inputs_of(1), bad]), Ahead(threads, 6), Times()) as feed,
    ):
        assert following(feed).array[0, 0] == 10
        following(feed)


def test_fed_left_early_ends_its_threads():
    before = threading.active_count()
    with feeding.fed((inputs_of(i) for i in range(1000)), Ahead(2, 6), Times()) as feed:
        following(feed)
    wait_until(lambda: threading.active_count() == before)


@pytest.mark.parametrize("threads", [0, 1])
def test_fed_tells_waits_for_the_disk_from_waits_for_decoding(threads):
    def slowly() -> Iterator[Inputs]:
        for number in range(3):
            time.sleep(0.1)
            yield inputs_of(number)

    slow_disk, slow_decode = Times(), Times()
    with feeding.fed(slowly(), Ahead(threads, 6), slow_disk) as feed:
        assert sum(isinstance(item, Ready) for item in feed.items) == 3
    slow_parts = (inputs_of(i, 0.03) for i in range(3))
    with feeding.fed(slow_parts, Ahead(threads, 6), slow_decode) as feed:
        assert sum(isinstance(item, Ready) for item in feed.items) == 3
    assert slow_disk.disk_s > slow_disk.decode_s
    assert slow_decode.decode_s > slow_decode.disk_s


def test_fed_failure_is_raised_to_one_who_waits_behind_what_has_been_read():
    come = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        assert come.wait(30)

    with feeding.fed(items(), Ahead(1, 6), Times()) as feed:
        assert following(feed) == "first"
        threading.Timer(0.1, feed.fail, [ShardError("the disk is full")]).start()
        with pytest.raises(ShardError, match="the disk is full"):
            following(feed)
        come.set()


@pytest.mark.parametrize("threads", [0, 2])
def test_fed_says_so_before_it_waits_for_the_next_item(threads):
    come = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        assert come.wait(30)
        yield "second"

    with feeding.fed(items(), Ahead(threads, 6), Times()) as feed:
        assert following(feed) == "first"
        assert isinstance(next(feed.items), NotYet)
        come.set()
        assert following(feed) == "second"


class Sink:
    """Keeps what it takes; fails at one item.

    Attributes:
        found: all that was taken, and "abandoned".
        threads: that took something.
    """

    def __init__(self, fails_at: object = None, pause_s: float = 0.0) -> None:
        self.found: list[object] = []
        self.threads: set[int] = set()
        self._fails_at, self._pause_s = fails_at, pause_s

    def take(self, item: object) -> None:
        time.sleep(self._pause_s)
        if item == self._fails_at:
            raise ShardError("the disk is full")
        self.found.append(item)
        self.threads.add(threading.get_ident())

    def abandon(self) -> None:
        self.found.append("abandoned")


@pytest.mark.parametrize("is_threaded", [False, True])
def test_behind_takes_everything_in_order(is_threaded):
    sink = Sink()
    with feeding.behind(sink, is_threaded, Times()) as hand_on:
        for number in range(20):
            hand_on(number)
    assert sink.found == list(range(20))
    assert (threading.get_ident() in sink.threads) == (not is_threaded)


@pytest.mark.parametrize("is_threaded", [False, True])
@pytest.mark.parametrize("number", [0, 5, 9])
def test_behind_what_the_sink_raises_is_raised_and_the_rest_abandoned(is_threaded, number):
    sink = Sink(fails_at=number)
    with (
        pytest.raises(ShardError, match="the disk is full"),
        feeding.behind(sink, is_threaded, Times()) as hand_on,
    ):
        for i in range(10):
            hand_on(i)
    assert sink.found == [*range(number), "abandoned"]


@pytest.mark.parametrize("is_threaded", [False, True])
def test_behind_an_error_of_the_caller_abandons_what_is_begun(is_threaded):
    sink = Sink()
    with (
        contextlib.suppress(ZeroDivisionError),
        feeding.behind(sink, is_threaded, Times()) as hand_on,
    ):
        hand_on(1)
        raise ZeroDivisionError
    assert sink.found[-1] == "abandoned"
    assert sink.found[:-1] in ([], [1])


@pytest.mark.parametrize("is_threaded", [False, True])
def test_behind_a_slow_sink_is_waited_for_and_counted(is_threaded):
    sink, times = Sink(pause_s=0.05), Times()
    with feeding.behind(sink, is_threaded, times) as hand_on:
        for number in range(8):
            hand_on(number)
    assert times.write_s >= 0.05, "for one of them at least"


def test_behind_tells_at_once_what_the_sink_raises():
    told: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    with (
        pytest.raises(ShardError, match="the disk is full"),
        feeding.behind(Sink(fails_at=1), True, Times(), told.put) as hand_on,
    ):
        hand_on(1)
        assert str(told.get(timeout=30)) == "the disk is full"
