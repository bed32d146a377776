"""What is left to do becomes shards with receipts, and goes on where it stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ManifestError
from pipelines.execution.shares import Share
from pipelines.execution.tasks import Output, Terms, Work, left, run_tasks
from pipelines.storage import atomic
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task, split_into_tasks

TASKS = split_into_tasks({"train": 9, "val": 3}, 4, "bin")
PLAN = Plan("features", 1, {}, {}, TASKS)


def make_output(path: Path) -> Output:
    folder = ShardFolder(path)
    if folder.read_plan("features", 1) is None:
        folder.publish(PLAN)
    return Output(folder, PLAN)


class Worker:
    """Writes shards whose bytes follow from the task, in turn; stops when told to.

    Attributes:
        done: (task, folder) of each shard written.
    """

    def __init__(self, fails_at: Task | None = None) -> None:
        self.done: list[tuple[str, str]] = []
        self._fails_at = fails_at

    def __call__(self, todo: Sequence[Work]) -> Generator[tuple[Work, list[Receipt]], None, None]:
        for work in todo:
            yield work, self._make(work.task, work.outputs)

    def _make(self, task: Task, outputs: Sequence[Output]) -> list[Receipt]:
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
    assert run_tasks([output], Worker())
    assert output.missing() == []
    plan, receipts = ShardFolder(tmp_path / "a").read_manifest("features", 1, "x")
    assert plan == PLAN
    assert [receipt.num_rows for receipt in receipts] == [3, 3, 3, 3]


def test_run_tasks_stopped_and_started_again_does_only_what_is_missing(tmp_path):
    run_tasks([make_output(tmp_path / "whole")], Worker())
    with pytest.raises(ZeroDivisionError):
        run_tasks([make_output(tmp_path / "a")], Worker(fails_at=TASKS[2]))
    assert not (tmp_path / "a" / "manifest.json").exists()
    output, worker = make_output(tmp_path / "a"), Worker()
    assert output.missing() == list(TASKS[2:])
    run_tasks([output], worker)
    assert [shard for shard, _ in worker.done] == [task.shard for task in TASKS[2:]]
    assert tree(tmp_path / "a") == tree(tmp_path / "whole")


def test_run_tasks_all_there_writes_only_the_manifest(tmp_path):
    run_tasks([make_output(tmp_path / "a")], Worker())
    before = tree(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").unlink()
    worker = Worker()
    run_tasks([make_output(tmp_path / "a")], worker)
    assert worker.done == []
    assert tree(tmp_path / "a") == before


def test_run_tasks_several_outputs_each_gets_what_it_lacks(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_tasks([make_output(tmp_path / "a")], Worker(fails_at=TASKS[1]))
    run_tasks([make_output(tmp_path / "b")], Worker())
    (tmp_path / "b" / TASKS[3].shard).unlink()
    worker = Worker()
    run_tasks([make_output(tmp_path / "a"), make_output(tmp_path / "b")], worker)
    shards = [task.shard for task in TASKS]
    assert worker.done == [(s, "a") for s in shards[1:]] + [(shards[3], "b")]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_run_tasks_check_fails_stops_behind_a_receipt(tmp_path):
    output, worker = make_output(tmp_path / "a"), Worker()

    def check() -> None:
        if len(output.receipts) == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tasks([output], worker, check)
    assert len(worker.done) == 2
    assert make_output(tmp_path / "a").missing() == list(TASKS[2:])
    with pytest.raises(ZeroDivisionError):
        run_tasks([make_output(tmp_path / "a")], worker, check)  # before any work
    assert len(worker.done) == 2


def test_run_tasks_wrong_number_of_receipts_is_a_bug_that_shows(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        run_tasks([make_output(tmp_path / "a")], lambda todo: ((work, []) for work in todo))


def test_run_tasks_stopped_closes_what_does_the_work(tmp_path):
    closed = []

    def do(todo: Sequence[Work]) -> Generator[tuple[Work, list[Receipt]], None, None]:
        try:
            yield from Worker()(todo)
        finally:
            closed.append(True)

    output = make_output(tmp_path / "a")
    with pytest.raises(ZeroDivisionError):
        run_tasks([output], do, lambda: 1 // (1 - len(output.receipts)))
    assert closed == [True]


def test_run_tasks_results_in_any_order_give_the_same_bytes(tmp_path):
    assert run_tasks([make_output(tmp_path / "a")], Worker())
    assert run_tasks([make_output(tmp_path / "b")], lambda todo: Worker()(todo[::-1]))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_run_tasks_a_shard_done_twice_changes_nothing(tmp_path):
    run_tasks([make_output(tmp_path / "whole")], Worker())
    assert run_tasks([make_output(tmp_path / "a")], lambda todo: Worker()([*todo, *todo[:2]]))
    assert tree(tmp_path / "a") == tree(tmp_path / "whole")


def test_run_tasks_of_a_share_alone_is_not_whole_and_writes_no_manifest(tmp_path):
    output, worker = make_output(tmp_path / "a"), Worker()
    assert run_tasks([output], worker, terms=Terms(Share(1, 3))) is False
    assert worker.done == [(TASKS[1].shard, "a")]
    assert not (tmp_path / "a" / "manifest.json").exists()
    with pytest.raises(ManifestError, match="not finished"):
        output.folder.read_manifest("features", 1, "x")


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
def test_run_tasks_shares_in_any_order_and_again_end_whole_and_equal(num, tmp_path):
    run_tasks([make_output(tmp_path / "whole")], Worker())
    rng = np.random.default_rng(num)
    for attempt in range(5):
        folder, worker, seen = tmp_path / f"{attempt}", Worker(), set()
        starts = rng.permutation([*range(num), *rng.integers(0, num, 3)]).tolist()
        for index in starts:
            seen.add(index)
            is_whole = run_tasks([make_output(folder)], worker, terms=Terms(Share(index, num)))
            # A share beyond the number of shards has nothing to do.
            assert is_whole == ({*range(min(num, len(TASKS)))} <= seen), starts
            assert (folder / "manifest.json").exists() == is_whole
        assert sorted(worker.done) == sorted((task.shard, folder.name) for task in TASKS)
        assert tree(folder) == tree(tmp_path / "whole")


def test_run_tasks_shares_that_began_together_see_each_other_at_the_end(tmp_path):
    first, second = make_output(tmp_path / "a"), make_output(tmp_path / "a")
    assert not run_tasks([first], Worker(), terms=Terms(Share(0, 2)))
    assert len(second.missing()) == 4, "it knows of nothing yet"
    assert run_tasks([second], Worker(), terms=Terms(Share(1, 2)))
    run_tasks([make_output(tmp_path / "whole")], Worker())
    assert tree(tmp_path / "a") == tree(tmp_path / "whole")


def test_run_tasks_last_look_and_manifests_lie_within_finishing(tmp_path):
    other, late = Worker(), make_output(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    seen = []

    @contextlib.contextmanager
    def finishing() -> Iterator[None]:
        seen.append(path.exists())
        run_tasks([make_output(tmp_path / "a")], other, terms=Terms(Share(1, 2)))
        path.unlink()
        yield
        seen.append(path.exists())

    assert run_tasks([late], Worker(), terms=Terms(Share(0, 2), finishing=finishing))
    assert len(other.done) == 2
    assert seen == [False, True]


def test_left_of_a_share_goes_by_the_plan_and_not_by_what_is_missing(tmp_path):
    run_tasks([make_output(tmp_path / "a")], Worker())
    for task in (TASKS[0], TASKS[3]):
        (tmp_path / "a" / task.shard).unlink()
    found = {index: left([make_output(tmp_path / "a")], Share(index, 2)) for index in (0, 1)}
    assert {index: [work.task for work in works] for index, works in found.items()} == {
        0: [TASKS[0]],
        1: [TASKS[3]],
    }


def test_left_of_several_outputs_are_shares_of_the_same_shards(tmp_path):
    run_tasks([make_output(tmp_path / "a")], Worker(), terms=Terms(Share(0, 2)))
    outputs = [make_output(tmp_path / name) for name in "ab"]
    found = left(outputs, Share(0, 2))
    assert [(work.task, work.outputs) for work in found] == [
        (TASKS[0], [outputs[1]]),
        (TASKS[2], [outputs[1]]),
    ]
