"""What is left to do becomes shards with receipts, and goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from pipelines.execution.tasks import Output, in_turn, run_tasks
from pipelines.storage import atomic
from pipelines.storage.manifest import Plan, Receipt, ShardFolder, Task, split_into_tasks

TASKS = split_into_tasks({"train": 9, "val": 3}, 4, "bin")
PLAN = Plan("features", 1, {}, {}, TASKS)


def make_output(path: Path) -> Output:
    folder = ShardFolder(path)
    if folder.read_plan("features", 1) is None:
        folder.publish(PLAN)
    return Output(folder, PLAN)


class Worker:
    """Writes shards whose bytes follow from the task; stops when told to.

    Attributes:
        done: (task, folder) of each shard written.
    """

    def __init__(self, fails_at: Task | None = None) -> None:
        self.done: list[tuple[str, str]] = []
        self._fails_at = fails_at

    def __call__(self, task: Task, outputs: Sequence[Output]) -> list[Receipt]:
        if task == self._fails_at:
            raise ZeroDivisionError
        receipts = []
        for output in outputs:
            with atomic.atomic_file(output.folder.path / task.shard) as file:
                file.write(f"{task.split} {task.start} {task.stop}".encode())
            self.done.append((task.shard, output.folder.path.name))
            sha256 = file.sha256.hexdigest()
            receipts.append(Receipt(task.shard, len(task), file.size_bytes, sha256))
        return receipts


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_run_tasks_all_done_gives_a_whole_set(tmp_path):
    output = make_output(tmp_path / "a")
    assert output.missing() == list(TASKS)
    run_tasks([output], partial(in_turn, Worker()))
    assert output.missing() == []
    plan, receipts = ShardFolder(tmp_path / "a").read_manifest("features", 1, "x")
    assert plan == PLAN
    assert [receipt.num_rows for receipt in receipts] == [3, 3, 3, 3]


def test_run_tasks_stopped_and_started_again_does_only_what_is_missing(tmp_path):
    run_tasks([make_output(tmp_path / "whole")], partial(in_turn, Worker()))
    with pytest.raises(ZeroDivisionError):
        run_tasks([make_output(tmp_path / "a")], partial(in_turn, Worker(fails_at=TASKS[2])))
    assert not (tmp_path / "a" / "manifest.json").exists()
    output, worker = make_output(tmp_path / "a"), Worker()
    assert output.missing() == list(TASKS[2:])
    run_tasks([output], partial(in_turn, worker))
    assert [shard for shard, _ in worker.done] == [task.shard for task in TASKS[2:]]
    assert tree(tmp_path / "a") == tree(tmp_path / "whole")


def test_run_tasks_all_there_writes_only_the_manifest(tmp_path):
    run_tasks([make_output(tmp_path / "a")], partial(in_turn, Worker()))
    before = tree(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").unlink()
    worker = Worker()
    run_tasks([make_output(tmp_path / "a")], partial(in_turn, worker))
    assert worker.done == []
    assert tree(tmp_path / "a") == before


def test_run_tasks_several_outputs_each_gets_what_it_lacks(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_tasks([make_output(tmp_path / "a")], partial(in_turn, Worker(fails_at=TASKS[1])))
    run_tasks([make_output(tmp_path / "b")], partial(in_turn, Worker()))
    (tmp_path / "b" / TASKS[3].shard).unlink()
    worker = Worker()
    run_tasks([make_output(tmp_path / "a"), make_output(tmp_path / "b")], partial(in_turn, worker))
    shards = [task.shard for task in TASKS]
    assert worker.done == [(s, "a") for s in shards[1:]] + [(shards[3], "b")]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_run_tasks_check_fails_stops_behind_a_receipt(tmp_path):
    output, worker = make_output(tmp_path / "a"), Worker()

    def check() -> None:
        if len(output.receipts) == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tasks([output], partial(in_turn, worker), check)
    assert len(worker.done) == 2
    assert make_output(tmp_path / "a").missing() == list(TASKS[2:])
    with pytest.raises(ZeroDivisionError):
        run_tasks([make_output(tmp_path / "a")], partial(in_turn, worker), check)  # before any work
    assert len(worker.done) == 2


def test_run_tasks_wrong_number_of_receipts_is_a_bug_that_shows(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        run_tasks([make_output(tmp_path / "a")], partial(in_turn, lambda task, outputs: []))
