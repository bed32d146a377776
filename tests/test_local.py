"""Workers in processes: bugs and words come through, nobody is left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from pathlib import Path

import pytest
import work
from crews import crew_of, done_by, environment_for_programs, pieces_of
from processes import wait_until
from work import is_alive

from pipelines.errors import WorkerError
from pipelines.execution import local, spawning
from pipelines.execution.engine import CrewSettings, Piece, Slot


def has_words(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


def run_program(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has imported `work` and what helps to have crews."""
    script = folder / "script.py"
    head = ["import work", "from crews import crew_of, pieces_of"]
    script.write_text("\n".join([*head, *lines]) + "\n")
    return subprocess.run(
        [sys.executable, script],
        env=environment_for_programs(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_run_starts_no_more_workers_than_slots_or_pieces(monkeypatch):
    started = []

    class Noted(spawning.Spawned):
        def __init__(self, job, slot) -> None:
            started.append(slot.name)
            super().__init__(job, slot)

    monkeypatch.setattr(local, "Spawned", Noted)
    assert len(done_by(work.square, pieces_of(range(9)), 2)) == 9
    assert started == ["worker 1", "worker 2"]
    started.clear()
    done_by(work.square, pieces_of([1]), 3)
    done_by(work.square, deque(), 3)
    assert started == ["worker 1"]


def test_run_works_at_several_at_once(tmp_path):
    pieces = pieces_of(tmp_path / name for name in "ab")
    assert done_by(work.wait_for, pieces) == {"a": 1, "b": 1}


def test_run_gathers_counts_in_few_messages():
    counts: list[int] = []
    done_by(work.square, pieces_of((5, 0, 700, 3)), 2, counts.append)
    assert sum(counts) == 708
    assert len(counts) < 50, "a message for every count"


def test_run_a_bug_is_raised_with_the_workers_traceback():
    with pytest.raises(ZeroDivisionError) as caught:
        done_by(work.fail, deque([Piece("a", "bug"), Piece("b", "bug")]))
    text = "".join(traceback.format_exception(caught.value))
    assert "work.py" in text
    assert "in fail" in text


def test_run_an_error_that_does_not_pickle_keeps_its_words():
    with pytest.raises(RuntimeError, match="only one argument"):
        done_by(work.fail, deque([Piece("a", "unpicklable")]))


def test_run_a_result_that_does_not_pickle_is_a_bug_that_shows():
    with pytest.raises(TypeError, match="pickle"):
        done_by(work.give_a_lock, pieces_of([1, 2]))


def test_run_what_workers_print_and_log_goes_to_the_log_alone(capfd, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pipelines"), "handlers", [])  # of no command before
    caplog.set_level(logging.INFO, "pipelines")
    done_by(work.say, deque([Piece("a", "hello")]), 1)
    said = {record.getMessage() for record in caplog.records if "hello" in record.getMessage()}
    assert said >= {
        "worker 1: hello by print",
        "worker 1: hello on stderr",
        "worker 1: hello past Python",
        "worker 1: hello through the log",
    }
    assert not [text for text in said if "for nobody" in text or "warning" in text]
    assert capfd.readouterr() == ("", "")


def test_run_what_workers_log_keeps_its_logger_and_level(caplog):
    done_by(work.say, deque([Piece("a", "hello")]), 1)
    (record,) = [found for found in caplog.records if "through the log" in found.getMessage()]
    assert (record.name, record.levelno) == ("pipelines.work", logging.WARNING)


def test_run_a_worker_is_told_of_when_it_is_ready(caplog):
    caplog.set_level(logging.INFO, "pipelines")
    ((_, pid),) = done_by(work.square, pieces_of([1]), 1).values()
    assert f"worker 1: ready, pid {pid}" in caplog.messages


def test_run_workers_start_with_the_environment_of_their_slots(monkeypatch):
    monkeypatch.delenv("PLACE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    slots = [Slot("a", {"PLACE": "left", "OMP_NUM_THREADS": "1"}), Slot("b", {"PLACE": "right"})]
    names = ("PLACE", "OMP_NUM_THREADS")
    for slot, expected in zip(slots, (("left", "1"), ("right", "7")), strict=True):
        with local.open_crew(work.Doing(work.environment), CrewSettings([slot])) as crew:
            assert tuple(crew.call(Piece("a", names)).values()) == expected
    assert "PLACE" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_move_ends_workers_and_starts_others_elsewhere():
    with crew_of(work.Doing(work.environment), 1) as crew:
        crew.move([Slot("a", {"PLACE": "left"})])
        assert crew.call(Piece("a", ("PLACE",))) == {"PLACE": "left"}
        crew.move([Slot("b", {"PLACE": "right"})])
        assert crew.call(Piece("a", ("PLACE",))) == {"PLACE": "right"}
    with crew_of(work.square, 1) as crew:
        pid = crew.call(Piece("a", 1))[1]
        crew.move([Slot("b")])
        assert not is_alive(pid)
        crew.renew(work.Doing(work.negative))
        assert crew.call(Piece("a", 3))[0] == -3, "the job of those that start from now on"


def test_close_while_workers_are_busy_leaves_no_process(tmp_path):
    (tmp_path / "a").write_text("0")
    busy = tmp_path / "busy"
    with crew_of(work.die_or_sleep) as crew:
        results = crew.run(pieces_of([busy, tmp_path / "a"]))
        assert next(results) == (Piece("a", tmp_path / "a"), "done")
        wait_until(lambda: has_words(busy))
    assert not is_alive(int(busy.read_text()))


def test_run_stopped_while_it_counts_leaves_no_process(tmp_path):
    paths = [tmp_path / name for name in "ab"]

    def stop(count: int) -> None:
        if all(map(has_words, paths)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done_by(work.sleep, pieces_of(paths), 2, stop)
    assert not any(is_alive(int(path.read_text())) for path in paths)


def test_run_ended_by_an_error_leaves_no_process(tmp_path):
    (tmp_path / "a").write_text("0")
    busy = tmp_path / "busy"
    todo = pieces_of([busy, tmp_path / "a"])
    with crew_of(work.die_or_sleep) as crew:
        results = crew.run(todo)
        next(results)
        wait_until(lambda: has_words(busy))
        todo.append(Piece("missing", tmp_path / "missing"))
        with pytest.raises(FileNotFoundError, match="missing"):
            next(results)
    assert not is_alive(int(busy.read_text()))


@pytest.mark.parametrize("job", ["Doing(work.sleep)", "Opening(work.sleep, 0, work.hold_on)"])
def test_workers_of_a_killed_parent_end_with_it(job, tmp_path):
    # The second kind shows what watches where the system does not end them itself.
    program = (
        "import sys, work\n"
        "from pathlib import Path\n"
        "from crews import done_by, pieces_of\n"
        "if __name__ == '__main__':\n"
        f"    done_by(work.{job}, pieces_of(map(Path, sys.argv[1:])))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    paths = [tmp_path / name for name in "ab"]
    command = [sys.executable, script, *paths]
    with subprocess.Popen(command, env=environment_for_programs()) as process:
        try:
            wait_until(lambda: all(map(has_words, paths)))
        finally:
            process.kill()
    pids = [int(path.read_text()) for path in paths]
    wait_until(lambda: not any(map(is_alive, pids)))


def test_workers_leave_ctrl_c_to_their_parent(tmp_path):
    # The first one of a program, too, with which a helper of Python's starts.
    result = run_program(
        tmp_path,
        "if __name__ == '__main__':",
        "    with crew_of(work.is_interrupt_blocked) as crew:",
        "        print(sorted(found for _, found in crew.run(pieces_of('ab'))))",
    )
    assert (result.stdout, result.stderr) == ("[True, True]\n", "")


def test_ctrl_c_is_the_parents_again_when_workers_have_started():
    def handler(number: int, frame: object) -> None:
        pass

    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    kept = signal.signal(signal.SIGINT, handler)
    try:
        with crew_of(work.square) as crew:
            crew.call(Piece("a", 1))
            assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
            assert signal.getsignal(signal.SIGINT) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, kept)


def test_run_in_an_unguarded_program_says_what_is_missing(tmp_path):
    result = run_program(
        tmp_path,
        "with crew_of(work.square) as crew:",
        "    list(crew.run(pieces_of('ab')))",
    )
    assert result.returncode == 1
    assert "WorkerError: a worker process ended with exit status 1 before it" in result.stderr
    assert '`if __name__ == "__main__":`' in result.stderr


def test_run_no_process_can_be_started_says_so_in_one_line(monkeypatch):
    def refuse(self) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    with pytest.raises(WorkerError, match=r"no worker .* be started: Resource .*; run with fewer"):
        done_by(work.square, pieces_of([1]))
