"""Work in processes: all results, exceptions as they were, deaths survived, nobody left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import work

from pipelines.errors import ShardError, WorkerError
from pipelines.execution import processes
from pipelines.execution.processes import run_pieces


def ignore(count: int) -> None:
    pass


def is_alive(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def wait_until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_run_pieces_gives_every_result_under_its_name(workers):
    pieces = [(f"piece {i}", i) for i in range(7)]
    found = dict(run_pieces(work.square, pieces, workers, ignore))
    assert {name: result for name, (result, _) in found.items()} == {
        f"piece {i}": i * i for i in range(7)
    }
    assert (os.getpid() in {pid for _, pid in found.values()}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_run_pieces_counts_all_that_the_workers_count(workers):
    counts: list[int] = []
    pieces = [(str(i), i) for i in (5, 0, 700, 3)]
    assert len(list(run_pieces(work.square, pieces, workers, counts.append))) == 4
    assert sum(counts) == 708
    assert workers == 1 or len(counts) < 50, "a message for every count"


def test_run_pieces_no_pieces_starts_nothing(monkeypatch):
    monkeypatch.setattr(processes, "_Worker", None)  # to start one would fail
    assert list(processes.run_pieces(work.square, [], 3, ignore)) == []


def test_run_pieces_works_at_several_at_once(tmp_path):
    pieces = [(name, tmp_path / name) for name in "ab"]
    assert dict(run_pieces(work.wait_for, pieces, 2, ignore)) == {"a": 1, "b": 1}


def test_run_pieces_reads_a_piece_when_a_worker_is_free_for_it():
    read = []

    def pieces():
        for i in range(20):
            read.append(i)
            yield str(i), i

    results = run_pieces(work.square, pieces(), 2, ignore)
    assert read == []
    for taken in range(1, 6):
        next(results)
        assert len(read) <= taken + 2
    results.close()


def test_run_pieces_a_users_error_is_raised_as_it_was():
    with pytest.raises(ShardError, match=r"^a\.parquet: damaged; delete it$"):
        list(run_pieces(work.fail, [("a", "user"), ("b", "user")], 2, ignore))


def test_run_pieces_a_bug_is_raised_with_the_workers_traceback():
    with pytest.raises(ZeroDivisionError) as caught:
        list(run_pieces(work.fail, [("a", "bug"), ("b", "bug")], 2, ignore))
    text = "".join(traceback.format_exception(caught.value))
    assert "work.py" in text
    assert "in fail" in text


def test_run_pieces_an_error_that_does_not_pickle_keeps_its_words():
    with pytest.raises(RuntimeError, match="only one argument"):
        list(run_pieces(work.fail, [("a", "unpicklable"), ("b", "unpicklable")], 2, ignore))


def test_run_pieces_a_worker_that_dies_is_replaced(tmp_path):
    counts: list[int] = []
    for name, deaths in (("a", 2), ("b", 0), ("c", 1)):
        (tmp_path / name).write_text(str(deaths))
    pieces = [(name, tmp_path / name) for name in "abc"]
    assert dict(run_pieces(work.die, pieces, 2, counts.append)) == dict.fromkeys("abc", "done")
    assert sum(counts) == 3, "what a dead worker had counted is counted again"
    assert min(counts) < 0


def test_run_pieces_deaths_at_other_pieces_are_no_deaths_at_this_one(tmp_path):
    # While one worker sleeps, the other one's place does all the rest: two deaths, one, one.
    for name, deaths in (("a", 2), ("b", 1), ("c", 1)):
        (tmp_path / name).write_text(str(deaths))
    pieces = [("busy", tmp_path / "busy"), *((name, tmp_path / name) for name in "abc")]
    results = run_pieces(work.die_or_sleep, pieces, 2, ignore)
    assert sorted(next(results)[0] for _ in "abc") == ["a", "b", "c"]
    results.close()


def test_run_pieces_three_deaths_at_one_piece_stop_with_its_name(tmp_path):
    (tmp_path / "bad").write_text("3")
    (tmp_path / "good").write_text("0")
    pieces = [(name, tmp_path / name) for name in ("good", "bad")]
    with pytest.raises(WorkerError, match=r"^bad: 3 worker processes died at it.*by SIGKILL"):
        list(run_pieces(work.die, pieces, 2, ignore))
    assert (tmp_path / "bad").read_text() == "0"


def test_run_pieces_closed_while_workers_are_busy_leaves_no_process(tmp_path):
    (tmp_path / "a").write_text("0")
    pieces = [(name, tmp_path / name) for name in ("busy", "a")]
    results = run_pieces(work.die_or_sleep, pieces, 2, ignore)
    assert next(results) == ("a", "done")
    assert wait_until(lambda: (tmp_path / "busy").exists() and (tmp_path / "busy").read_text())
    results.close()
    assert not is_alive(int((tmp_path / "busy").read_text()))


def test_run_pieces_stopped_while_it_counts_leaves_no_process(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    # A worker that counts makes `next` come back to the loop; the exception ends both.
    seen = []

    def stop(count: int) -> None:
        seen.append(count)
        if all(path.exists() and path.read_text() for path in paths):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_pieces(work.sleep, [(path.name, path) for path in paths], 2, stop))
    assert not any(is_alive(int(path.read_text())) for path in paths)


def test_run_pieces_workers_end_with_their_parent(tmp_path):
    program = (
        "import sys, work\n"
        "from pathlib import Path\n"
        "from pipelines.execution.processes import run_pieces\n"
        "if __name__ == '__main__':\n"
        "    paths = [Path(name) for name in sys.argv[1:]]\n"
        "    pieces = [(path.name, path) for path in paths]\n"
        "    list(run_pieces(work.sleep, pieces, 2, lambda count: None))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    paths = [tmp_path / name for name in "ab"]
    environment = {**os.environ, "PYTHONPATH": str(Path(work.__file__).parent)}
    with subprocess.Popen([sys.executable, script, *paths], env=environment) as process:
        try:
            assert wait_until(lambda: all(p.exists() and p.read_text() for p in paths))
        finally:
            process.kill()
    pids = [int(path.read_text()) for path in paths]
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids), 10)


def test_run_pieces_first_worker_of_a_program_leaves_ctrl_c_to_its_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import work\n"
        "from pipelines.execution.processes import run_pieces\n"
        "if __name__ == '__main__':\n"
        "    found = run_pieces(work.warn, [('a', 1), ('b', 2)], 2, lambda count: None)\n"
        "    print(sorted((name, blocked) for name, (_, blocked) in found))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(work.__file__).parent)}
    result = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("[('a', True), ('b', True)]\n", "")


def test_run_pieces_in_an_unguarded_program_says_what_is_missing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import work\n"
        "from pipelines.execution.processes import run_pieces\n"
        "list(run_pieces(work.square, [('a', 1), ('b', 2)], 2, print))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(work.__file__).parent)}
    result = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "WorkerError: a worker process ended with exit status 1 before it" in result.stderr
    assert '`if __name__ == "__main__":`' in result.stderr


def test_run_pieces_result_that_does_not_pickle_is_a_bug_that_shows():
    with pytest.raises(TypeError, match="pickle"):
        list(run_pieces(work.give_a_lock, [("a", 1), ("b", 2)], 2, ignore))


def test_run_pieces_workers_are_quiet_and_have_one_thread_for_numpy(capfd, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = dict(run_pieces(work.warn, [("a", 1), ("b", 2)], 2, ignore))
    assert found == {"a": ("1", True), "b": ("1", True)}, "(threads, Ctrl-C is the parent's)"
    assert capfd.readouterr().err == ""
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "7"
