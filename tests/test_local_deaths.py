"""Workers that die, hang or lose their device: their pieces go to others, or the run says why."""

from __future__ import annotations

import itertools
import re
from collections import deque
from pathlib import Path

import pytest
import work
from crews import crew_of, done_by, files_of, pieces_of
from work import is_alive

from pipelines.errors import WorkerError
from pipelines.execution import local
from pipelines.execution.engine import CrewSettings, Piece, Slot

PLACES = [Slot(name, {"PLACE": name}) for name in ("good", "bad")]


class Crashed:
    """Keeps at which pieces it was called, and puts others in their place.

    Attributes:
        pieces: so far.
        tried: how what was tried has ended.
    """

    def __init__(self, instead: Piece | None = None, to_try: Piece | None = None) -> None:
        self.pieces: list[Piece] = []
        self.tried: list[str | None] = []
        self._instead, self._to_try = instead, to_try

    def __call__(self, piece: Piece, ending_of) -> Piece:
        self.pieces.append(piece)
        if self._to_try:
            self.tried.append(ending_of(self._to_try, True))
        return self._instead or piece


def test_run_a_worker_that_dies_is_replaced_and_its_counts_taken_back(tmp_path):
    counts: list[int] = []
    todo = files_of(tmp_path, a=2, b=0, c=1)
    assert done_by(work.die, todo, 2, counts.append) == dict.fromkeys("abc", "done")
    assert sum(counts) == 3, "what a dead worker had counted is counted again"
    assert min(counts) < 0


def test_run_deaths_at_other_pieces_are_no_deaths_at_this_one(tmp_path):
    # While one worker sleeps, the other one's place does all the rest: two deaths, one, one.
    files_of(tmp_path, a=2, b=1, c=1)
    with crew_of(work.die_or_sleep) as crew:
        results = crew.run(pieces_of(tmp_path / name for name in ("busy", "a", "b", "c")))
        assert sorted(next(results)[0].name for _ in "abc") == ["a", "b", "c"]


def test_run_three_deaths_at_one_piece_stop_with_its_name(tmp_path):
    words = r"^bad: 3 worker processes died at it, the last one by SIGKILL; run again with fewer"
    with pytest.raises(WorkerError, match=words):
        done_by(work.die, files_of(tmp_path, good=0, bad=3))
    assert (tmp_path / "bad").read_text() == "0"


def test_run_three_deaths_stop_with_the_last_words(tmp_path):
    words = r"the last one with exit status 3 \(its last words: no more of this\); run again"
    with pytest.raises(WorkerError, match=words):
        done_by(work.leave, files_of(tmp_path, bad=3), 1)
    words = r"by SIGSEGV \(its last words: Fatal Python error: Segmentation fault\); run again"
    with pytest.raises(WorkerError, match=words):
        done_by(work.crash, files_of(tmp_path, bad=3), 1)


def test_run_a_death_is_logged_with_how_and_where(tmp_path, caplog):
    done_by(work.die, files_of(tmp_path, a=1), 1)
    assert "worker 1: ended by SIGKILL at a" in caplog.messages


def test_run_a_piece_at_which_a_worker_died_is_given_alone(tmp_path):
    notes = tmp_path / "notes"
    todo = files_of(tmp_path, a=1, b=0, c=0, d=0, e=0)
    done_by(work.Ahead(work.linger, notes), todo, 1)
    first, second = (
        [line.split(" ", 1)[1] for line in lines]
        for _, lines in itertools.groupby(notes.read_text().splitlines(), lambda s: s.split()[0])
    )
    assert first == ["took a", "took b"], "a worker has the next piece in hand"
    assert second[:4] == ["took a", "did a", "took b", "did b"], "both were in hand at a death"
    assert second[4:6] == ["took c", "took d"], "these were not"


def test_run_that_a_worker_has_others_in_hand_lays_no_three_deaths_at_them(tmp_path):
    todo = files_of(tmp_path, a=2, b=0, c=0)
    found = done_by(work.Ahead(work.linger, tmp_path / "notes"), todo, 1)
    assert found == dict.fromkeys("abc", "done")


def test_run_a_worker_that_hangs_is_ended_and_its_piece_given_to_another(tmp_path, caplog):
    todo = files_of(tmp_path, a=1, b=0)
    assert done_by(work.hang, todo, 1, hang_s=1) == dict.fromkeys("ab", "done")
    assert not is_alive(int((tmp_path / "a.pid").read_text()))
    assert "worker 1: no sign of life for 1 s" in caplog.messages
    assert "worker 1: ended by its long silence at a" in caplog.messages


def test_run_a_worker_that_counts_does_not_hang(tmp_path, caplog):
    # It works for longer than the limit, and counts every twentieth of a second.
    counts: list[int] = []

    def stop(count: int) -> None:
        counts.append(count)
        if sum(counts) > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done_by(work.sleep, pieces_of([tmp_path / "a"]), 1, stop, hang_s=2)
    assert not [text for text in caplog.messages if "no sign of life" in text]


def test_run_a_killed_worker_is_nobodys_crash(tmp_path):
    crashed = Crashed()
    assert done_by(work.die, files_of(tmp_path, a=2), 1, on_crash=crashed) == {"a": "done"}
    assert crashed.pieces == []


@pytest.mark.parametrize(("num_crashes", "num_calls"), [(1, 0), (2, 1)])
def test_run_a_piece_at_which_workers_crash_is_looked_at_at_the_second_death(
    num_crashes, num_calls, tmp_path
):
    crashed = Crashed()
    todo = files_of(tmp_path, a=num_crashes, b=0)
    found = done_by(work.crash, todo, 2, on_crash=crashed)
    assert found == dict.fromkeys("ab", "done")
    assert [piece.name for piece in crashed.pieces] == ["a"] * num_calls


@pytest.mark.parametrize("ends", ["11 9 11", "9 11 11", "11 11 9"])
def test_run_crashes_are_counted_past_deaths_by_somebody_elses_hand(ends, tmp_path):
    (tmp_path / "a").write_text(ends)
    (tmp_path / "mended").write_text("")
    crashed = Crashed(Piece("a", tmp_path / "mended"))
    todo = pieces_of([tmp_path / "a"])
    assert done_by(work.end_by, todo, 1, on_crash=crashed) == {"a": "done"}
    assert [piece.body.name for piece in crashed.pieces] == ["a"]


def test_run_what_is_put_in_the_place_of_a_piece_that_crashes_is_done(tmp_path):
    todo, (other,) = files_of(tmp_path, a=99), files_of(tmp_path, mended=0)
    crashed = Crashed(Piece("a", other.body))
    assert done_by(work.crash, todo, 1, on_crash=crashed) == {"a": "done"}
    assert (tmp_path / "a").read_text() == "97"


def test_run_a_crash_can_be_tried_in_a_process_of_its_own(tmp_path):
    todo = files_of(tmp_path, a=2)
    (to_try,) = files_of(tmp_path, part=99)
    crashed = Crashed(to_try=to_try)
    assert done_by(work.crash, todo, 1, on_crash=crashed) == {"a": "done"}
    assert crashed.tried == ["by SIGSEGV"]
    assert (tmp_path / "part").read_text() == "98"


def test_run_a_hang_is_a_crash(tmp_path):
    crashed = Crashed()
    todo = files_of(tmp_path, a=2)
    assert done_by(work.hang, todo, 1, on_crash=crashed, hang_s=1) == {"a": "done"}
    assert [piece.name for piece in crashed.pieces] == ["a"]


def test_run_a_lost_device_is_no_crash_and_another_worker_goes_on(tmp_path, caplog):
    crashed = Crashed()
    todo = files_of(tmp_path, a=2, b=0)
    assert done_by(work.lose, todo, 1, on_crash=crashed) == dict.fromkeys("ab", "done")
    assert crashed.pieces == []
    assert caplog.messages.count("worker 1: ended with its device at a") == 2


def test_run_a_device_that_is_lost_three_times_stops_with_its_words(tmp_path):
    words = r"a: 3 worker .* with its device \(its last words: the GPU has fallen off the bus\)"
    with pytest.raises(WorkerError, match=words):
        done_by(work.lose, files_of(tmp_path, a=3), 1)


def test_run_workers_that_crash_as_they_begin_stop_with_their_words(tmp_path):
    (always,) = files_of(tmp_path, always=99)
    words = (
        "worker 1: workers end by SIGSEGV as they begin (its last words: Fatal Python error: "
        "Segmentation fault); run with fewer workers if memory is short"
    )
    with pytest.raises(WorkerError, match=f"^{re.escape(words)}$"):
        done_by(work.Opening(work.square, always.body, work.crash), pieces_of([1]), 1)
    assert always.body.read_text() == "96", "three times"


def test_run_workers_that_are_killed_as_they_begin_are_started_again_for_longer(tmp_path):
    (few, many) = files_of(tmp_path, few=4, many=99)
    job = work.Opening(work.square, few.body, work.die)
    assert done_by(job, pieces_of([3]), 1)["3"][0] == 9
    with pytest.raises(WorkerError, match="workers end by SIGKILL as they begin; run with fewer"):
        done_by(work.Opening(work.square, many.body, work.die), pieces_of([3]), 1)
    assert many.body.read_text() == "89", "ten times"


def test_run_a_slot_where_workers_cannot_begin_is_given_up_and_others_go_on(tmp_path, caplog):
    job = work.Opening(work.linger, "bad", work.crash_in_place)
    todo = files_of(tmp_path, **{f"piece{i}": 0 for i in range(300)})
    given_up = "bad: given up, it ended by SIGSEGV as it began"
    with local.open_crew(job, CrewSettings(PLACES)) as crew:
        for _ in crew.run(todo):
            while given_up in caplog.messages and len(todo) > 3:  # so many more are done
                todo.pop()
    assert given_up in caplog.messages
    assert not todo
    assert caplog.messages.count("bad: ended by SIGSEGV as it began") == 3


def test_run_an_opening_that_succeeds_forgets_those_that_did_not(tmp_path):
    # Twice an opening fails and the next worker does a piece, and then again: four in one slot,
    # but never three behind one another.
    at_open, at_work = files_of(tmp_path, open=2, work=1)
    job = work.Opening(work.crash, at_open.body, work.crash)
    with crew_of(job, 1) as crew:
        (ok,) = files_of(tmp_path, ok=0)
        assert crew.call(ok) == "done"
        at_open.body.write_text("2")
        assert [result for _, result in crew.run(deque([at_work]))] == ["done"]


def test_run_dead_workers_leave_no_zombie_and_no_descriptor(tmp_path):
    def num_descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    done_by(work.square, pieces_of([1]), 1)  # what Python starts with the first stays
    before = num_descriptors()
    with crew_of(work.die, 1) as crew:
        assert len([*crew.run(files_of(tmp_path, a=2, b=2, c=2))]) == 3
    assert num_descriptors() == before
