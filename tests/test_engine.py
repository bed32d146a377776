"""What every engine does: all results, what was counted, exceptions as they were."""

from __future__ import annotations

import os
from collections import deque

import pytest
import work
from crews import crew_of, pieces_of

from pipelines.errors import DeviceLostError, ShardError
from pipelines.execution import inline, local
from pipelines.execution.engine import Piece

ENGINES = {"inline": inline.open_crew, "local": local.open_crew}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest):
    return ENGINES[request.param]


def test_run_gives_every_result_with_its_piece_and_empties_todo(engine):
    todo = pieces_of(range(7))
    with crew_of(work.square, engine=engine) as crew:
        found = {piece: result for piece, (result, _) in crew.run(todo)}
    assert found == {Piece(str(i), i): i * i for i in range(7)}
    assert not todo


def test_run_counts_all_that_is_counted(engine):
    counts: list[int] = []
    with crew_of(work.square, engine=engine) as crew:
        assert len([*crew.run(pieces_of((5, 0, 700, 3)), counts.append)]) == 4
    assert sum(counts) == 708


def test_run_nothing_to_do_opens_nothing(engine):
    with crew_of(work.Opening(work.square, "bug", work.fail), engine=engine) as crew:
        assert [*crew.run(deque())] == []


def test_run_opens_the_job_and_what_that_raises_is_raised(engine):
    with (
        crew_of(work.Opening(work.square, "user", work.fail), engine=engine) as crew,
        pytest.raises(ShardError, match="damaged"),
    ):
        list(crew.run(pieces_of([1])))


def test_run_a_piece_put_into_todo_meanwhile_is_done(engine):
    todo, order = pieces_of([1]), []
    with crew_of(work.square, engine=engine) as crew:
        for piece, _ in crew.run(todo):
            order.append(piece.body)
            if piece.body < 4:  # behind the last result, too
                todo.append(Piece(f"more {piece.body}", piece.body + 1))
    assert order == [1, 2, 3, 4]


def test_run_a_piece_put_in_front_comes_before_those_that_wait(engine):
    todo, order = pieces_of(range(9)), []
    with crew_of(work.square, 1, engine) as crew:
        for piece, _ in crew.run(todo):
            order.append(piece.body)
            if piece.body == 2:
                todo.appendleft(Piece("urgent", 99))
    assert sorted(order) == [*range(9), 99]
    assert order.index(99) < order.index(5)


def test_run_takes_pieces_as_it_comes_to_them(engine):
    todo = pieces_of(range(20))
    with crew_of(work.square, engine=engine) as crew:
        results = crew.run(todo)
        assert len(todo) == 20
        for num_taken in range(1, 6):
            next(results)
            assert 20 - len(todo) <= num_taken + 2


def test_run_twice_goes_on_with_the_same_workers(engine):
    with crew_of(work.square, 1, engine) as crew:
        first = {pid for _, (_, pid) in crew.run(pieces_of([1, 2]))}
        assert {pid for _, (_, pid) in crew.run(pieces_of([3]))} == first
        assert len(first) == 1


def test_call_returns_the_result_of_one_piece(engine):
    with crew_of(work.square, engine=engine) as crew:
        assert [crew.call(Piece("a", i))[0] for i in (3, 4)] == [9, 16]


def test_run_a_users_error_is_raised_as_it_was(engine):
    with (
        crew_of(work.fail, engine=engine) as crew,
        pytest.raises(ShardError, match=r"^a\.parquet: damaged; delete it$"),
    ):
        list(crew.run(deque([Piece("a", "user"), Piece("b", "user")])))


def test_renew_is_for_workers_that_open_from_now_on(engine):
    with crew_of(work.square, 1, engine) as crew:
        assert crew.call(Piece("a", 3))[0] == 9
        crew.renew(work.Doing(work.negative))
        assert crew.call(Piece("b", 3))[0] == 9
    with crew_of(work.square, 1, engine) as crew:
        crew.renew(work.Doing(work.negative))
        assert crew.call(Piece("a", 3))[0] == -3


def test_inline_works_in_this_process_and_local_in_others():
    for name, engine in ENGINES.items():
        with crew_of(work.square, engine=engine) as crew:
            assert (crew.call(Piece("a", 1))[1] == os.getpid()) == (name == "inline")


def test_inline_a_lost_device_is_raised_for_there_is_no_other(tmp_path):
    (tmp_path / "a").write_text("1")
    with (
        crew_of(work.lose, engine=inline.open_crew) as crew,
        pytest.raises(DeviceLostError, match="fallen off the bus"),
    ):
        crew.call(Piece("a", tmp_path / "a"))
