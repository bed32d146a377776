"""Holders of a lock, known to be dead or not; from what another process left."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import pytest
from lockers import (
    ELSEWHERE,
    HOLDER,
    NEARLY_S,
    make_old,
    names,
    number_of_the_dead,
    write_lock,
)
from processes import ask, running

from pipelines.errors import ManifestError
from pipelines.storage import holders
from pipelines.storage.locks import hold

DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"\xff",
    b'{"pid": 1}',
    b'{"pid": Infinity}',
    *(
        dataclasses.replace(holders.this_process(), **changes).to_bytes()
        for changes in ({"pid": "one"}, {"since": "noon"}, {"token": "../0a"}, {"token": 10})
    ),
    json.dumps({**dataclasses.asdict(holders.this_process()), "since": float("inf")}).encode(),
]


def test_this_process_says_since_when():
    before = time.time()
    found = holders.this_process()
    assert before - 0.001 <= found.since <= time.time() + 0.001
    assert holders.parse(found.to_bytes()) == found


def test_parse_lock_of_an_older_or_newer_program_is_read():
    value = dataclasses.asdict(holders.this_process())
    del value["since"]
    assert holders.parse(json.dumps(value).encode()) == holders.Holder(**value, since=None)
    assert holders.parse(json.dumps({**value, "more": 1}).encode()) == holders.Holder(**value)


def test_is_same_process_goes_by_the_process_and_not_by_the_attempt():
    mine = holders.this_process()
    assert mine.is_same_process(holders.this_process())
    for change in ({"machine": "node-7 another-boot 1"}, {"pid": mine.pid + 1}, {"started": "1"}):
        assert not mine.is_same_process(dataclasses.replace(mine, **change))


def test_hold_holder_killed_is_taken_over_at_once(tmp_path):
    with running(HOLDER, tmp_path) as process:
        assert ask(process, "hold") == "held"
        process.kill()
        process.wait()
        assert names(tmp_path) == [".lock", ".lock.guard"]
        with hold(tmp_path) as lock:
            lock.check()


def test_hold_holder_killed_but_not_waited_for_is_taken_over_at_once(tmp_path):
    with running(HOLDER, tmp_path) as process:
        assert ask(process, "hold") == "held"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with hold(tmp_path) as lock:
            lock.check()


def test_hold_process_number_used_again_is_taken_over_at_once(tmp_path):
    write_lock(tmp_path / ".lock", started="1")
    with hold(tmp_path) as lock:
        lock.check()


@pytest.mark.parametrize(
    "changes", [{}, {"started": ""}, {"pid": 10**30}, {**ELSEWHERE, "started": "1"}]
)
def test_hold_holder_not_known_to_be_dead_is_refused(changes, tmp_path):
    write_lock(tmp_path / ".lock", NEARLY_S, **changes)
    with pytest.raises(ManifestError, match="another command is at work here"), hold(tmp_path):
        pass


def test_hold_holder_of_another_host_is_refused_until_it_is_silent(tmp_path):
    pid = number_of_the_dead()
    write_lock(tmp_path / ".lock", NEARLY_S, pid=pid, **ELSEWHERE)
    with pytest.raises(ManifestError, match=rf"\.lock: pid {pid} on node-7, last"), hold(tmp_path):
        pass
    make_old(tmp_path / ".lock")
    with hold(tmp_path) as lock:
        lock.check()


@pytest.mark.parametrize("content", DAMAGED)
def test_hold_damaged_lock_is_refused_until_it_is_old(content, tmp_path):
    (tmp_path / ".lock").write_bytes(content)
    with pytest.raises(ManifestError, match=r"\.lock: cannot be read, last heart"), hold(tmp_path):
        pass
    make_old(tmp_path / ".lock")
    with hold(tmp_path) as lock:
        lock.check()
