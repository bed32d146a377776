"""What ends a process: found by halving with few tries, each in a process of its own."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence

import pytest
import work
from crews import crew_of, files_of

from pipelines.errors import ShardError
from pipelines.execution import spawning, trial
from pipelines.execution.engine import Piece, Slot

SLOT = Slot("worker 1")


class Ending:
    """A process that some items end.

    Attributes:
        tried: how many items each try had.
    """

    def __init__(self, *killers: int, num_alone: int = 1000, at_least: int = 1) -> None:
        """Choose what ends it.

        Args:
            killers: the items.
            num_alone: so often one of them alone ends it.
            at_least: so many of them together do.
        """
        self.tried: list[int] = []
        self._killers, self._num_alone, self._at_least = {*killers}, num_alone, at_least

    def __call__(self, items: Sequence[int]) -> str | None:
        self.tried.append(len(items))
        is_end = len(self._killers & {*items}) >= self._at_least
        if is_end and len(items) == 1:
            self._num_alone -= 1
            is_end = self._num_alone >= 0
        return "by SIGSEGV" if is_end else None


@pytest.mark.parametrize("num", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_find_the_one_with_few_tries(num, place):
    killer = int(place * num)
    ends = Ending(killer)
    assert trial.find(range(num), ends) == {killer: "by SIGSEGV"}
    assert len(ends.tried) <= 2 * math.ceil(math.log2(num)) + 2
    assert sum(ends.tried) <= 4 * num + 2, "items that are tried again"


@pytest.mark.parametrize("killers", [(0, 1), (3, 40), (0, 31, 32, 63), range(64)])
def test_find_several_with_how_in_their_order(killers):
    ends = Ending(*killers)
    assert list(trial.find(range(64), ends).items()) == [(k, "by SIGSEGV") for k in killers]
    assert len(ends.tried) <= len(killers) * (2 * 6 + 2)


def test_find_gives_positions_and_not_items():
    assert trial.find([50, 60, 70], Ending(60)) == {1: "by SIGSEGV"}


def test_find_none_takes_one_try():
    ends = Ending()
    assert trial.find(range(500), ends) == {}
    assert ends.tried == [500]


def test_find_nothing_to_look_through_takes_no_try():
    ends = Ending(at_least=0)
    assert trial.find([], ends) == {}
    assert ends.tried == []


def test_find_one_that_ends_it_only_once_is_none():
    assert trial.find(range(8), Ending(5, num_alone=1)) == {}


def test_find_those_that_end_it_only_together_are_none():
    assert trial.find(range(8), Ending(2, 5, at_least=2)) == {}


def ending(function, piece: Piece, hang_s: float = 60.0, is_alone: bool = True) -> str | None:
    return trial.ending_of(work.Doing(function), SLOT, hang_s, piece, is_alone)


def test_ending_of_a_piece_that_crashes_says_how(tmp_path):
    crash, leave = files_of(tmp_path, crash=99, leave=99)
    assert ending(work.crash, crash) == "by SIGSEGV"
    assert ending(work.leave, leave) == "with exit status 3"
    assert [p.body.read_text() for p in (crash, leave)] == ["98", "98"], "one try tells"


def test_ending_of_a_piece_that_hangs_says_so(tmp_path):
    (piece,) = files_of(tmp_path, hang=99)
    assert ending(work.hang, piece, hang_s=1) == "by its long silence"
    assert not work.is_alive(int((tmp_path / "hang.pid").read_text()))


@pytest.mark.parametrize("function", [work.crash, work.lose, work.fail])
def test_ending_of_a_piece_that_is_fine_or_raises_is_none(function, tmp_path):
    (piece,) = files_of(tmp_path, a=int(function is not work.crash))
    assert ending(function, piece) is None


def test_ending_of_what_somebody_else_ends_is_tried_again(tmp_path):
    once, always = files_of(tmp_path, once=1, always=99)
    assert ending(work.die, once) is None
    assert ending(work.die, always) is None
    assert (once.body.read_text(), always.body.read_text()) == ("0", "96")


def test_ending_of_a_piece_that_counts_is_none_however_long_it_takes():
    assert ending(work.last, Piece("a", 2.5), hang_s=2) is None


def test_ending_of_one_item_may_take_as_long_as_a_piece_and_a_part_may_not(monkeypatch):
    monkeypatch.setattr(trial, "_HANG_S", 1.0)
    piece = Piece("a", 3.0)
    assert ending(work.be_silent, piece, hang_s=30.0, is_alone=True) is None
    assert ending(work.be_silent, piece, hang_s=30.0, is_alone=False) == "by its long silence"


def test_ending_of_a_process_that_never_has_the_piece_is_none(tmp_path):
    always, fine = files_of(tmp_path, always=99, fine=0)
    job = work.Opening(work.crash, always.body, work.crash)
    assert trial.ending_of(job, SLOT, 60.0, fine, True) is None
    assert always.body.read_text() == "96", "tried again, for it may have been the machine's fault"


def test_ending_of_ctrl_c_as_the_process_ends_is_acted_on(tmp_path, monkeypatch):
    bury = spawning.Spawned.bury

    def pressed(self) -> str:
        signal.raise_signal(signal.SIGINT)
        return bury(self)

    monkeypatch.setattr(spawning.Spawned, "bury", pressed)
    (piece,) = files_of(tmp_path, fine=0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            ending(work.crash, piece)
        with pytest.raises(ShardError, match="full"), crew_of(work.square) as crew:
            crew.call(Piece("a", 1))
            raise ShardError("the disk is full")  # whoever presses meanwhile is told that
    finally:
        signal.signal(signal.SIGINT, before)
