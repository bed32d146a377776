"""How far a start is: counted for its bar, and in the notes of its locks for others."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from processes import wait_until

from pipelines.execution import pace
from pipelines.execution.pace import Pace
from pipelines.progress import Silent
from pipelines.storage import locks


class Counted(Silent):
    def __init__(self) -> None:
        self.counts: list[int] = []

    def advance(self, count: int) -> None:
        self.counts.append(count)


class Noted:
    """Takes notes, as a lock does."""

    def __init__(self) -> None:
        self.facts: list[dict] = []

    def note(self, facts) -> None:
        self.facts.append(dict(facts))


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns, in the place of time's."""
    found = SimpleNamespace(now_s=50.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: found.now_s))
    return found


def test_pace_tells_progress_every_count_and_nothing_at_the_start(clock):
    progress = Counted()
    found = Pace(progress, [], "image", 10)
    assert progress.counts == []
    for count in (3, 4, -2):
        found.advance(count)
    assert progress.counts == [3, 4, -2]


def test_pace_notes_what_is_done_of_how_much_and_how_fast(clock):
    locks_held = [Noted(), Noted()]
    found = Pace(Silent(), locks_held, "image", 10)
    clock.now_s += 4
    found.advance(6)
    clock.now_s += 1
    found.advance(-1)
    facts = {"unit": "image", "num_total": 10}
    assert locks_held[0].facts == locks_held[1].facts
    assert locks_held[0].facts == [
        {**facts, "num_done": 0, "rate": 0.0},
        {**facts, "num_done": 6, "rate": 1.5},
        {**facts, "num_done": 5, "rate": 1.0},
    ]


def test_pace_count_in_no_time_has_a_rate_that_json_holds(clock):
    held = Noted()
    Pace(Silent(), [held], "image", 10).advance(3)
    assert held.facts[-1]["rate"] == 3000.0
    assert "Infinity" not in json.dumps(held.facts)


def test_pace_is_read_by_who_looks_at_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with locks.hold(tmp_path) as lock:
        found = Pace(Silent(), [lock], "image", 10)
        found.advance(4)

        def told() -> dict:
            (standing,) = locks.standing(tmp_path)
            return dict(standing.note or {})

        wait_until(lambda: told().get("num_done") == 4)
        assert (told()["num_total"], told()["unit"]) == (10, "image")
