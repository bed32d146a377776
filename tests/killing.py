"""Extracts and repairs that SIGKILL ends at a file operation of the test's choice.

Every kill has a child of its own, forked from a program (this file) that has imported everything
and started no thread, so that hundreds of them take seconds; what goes on behind it is one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from extracting import SHAPES, Extract, files, fill

from pipelines import verify
from pipelines.progress import Silent
from pipelines.storage import atomic, cells
from pipelines.storage.layout import DTYPES, ENCODINGS, Layout

REPAIR = "repair"
Act = Extract | str  # an extract, or REPAIR
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_NUM_DRIVERS = 2  # processes that fork
_NODE = re.compile(rf"/({'|'.join(SHAPES)})(?=[/ ]|$)")
_SPLIT = re.compile(r"(?<=[./])(train|val)-")
_NUMBER = re.compile(r"[0-9a-f]{8,}|[0-9]+")  # of a shard, a process, a file that is to be renamed


@dataclass(frozen=True)
class Outcome:
    """What came of one chain of kills.

    Attributes:
        num_kills: starts that were killed; those behind them were not.
        fault: how the end differs from the undisturbed one; empty where it does not.
    """

    num_kills: int
    fault: str


class Drivers:
    """Processes that fork others and kill them."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def operations(
        self, act: Act, folder: Path, start: Path | None = None
    ) -> list[tuple[str, str]]:
        """List the file operations of an undisturbed start: what, and on which path.

        Args:
            act: what to do.
            folder: where to work; made.
            start: a features folder to begin with.
        """
        (answer,) = self._ask([_job(act, folder, start)])
        return [(what, where) for what, where in answer]

    def kill_and_resume(
        self,
        act: Act,
        chains: Sequence[Sequence[int]],
        clean: Path,
        folder: Path,
        start: Path | None = None,
        then: Sequence[Act] = (),
    ) -> list[Outcome]:
        """Do something once a chain: its starts are killed in front of an operation.

        Args:
            act: what to do.
            chains: for each, where its starts are killed; one that ends before does so.
            clean: a features folder that nobody disturbed.
            folder: where to work; made.
            start: a features folder to begin with.
            then: what is done at the end of each chain by starts that nobody kills, if not `act`.
        """
        jobs = [
            {
                **_job(act, folder / str(i), start),
                "chains": [list(chain) for chain in chains[i::_NUM_DRIVERS]],
                "clean": str(clean),
                "then": [_to_json(one) for one in then or (act,)],
            }
            for i in range(_NUM_DRIVERS)
        ]
        found: list[Any] = [None] * len(chains)
        for i, answer in enumerate(self._ask(jobs)):
            found[i::_NUM_DRIVERS] = [Outcome(**outcome) for outcome in answer]
        return found

    def _ask(self, jobs: Sequence[dict[str, Any]]) -> list[Any]:
        asked = list(zip(self._processes, jobs, strict=False))
        for process, job in asked:
            print(json.dumps(job), file=process.stdin, flush=True)
        return [json.loads(process.stdout.readline()) for process, _ in asked]


def first_and_last_of_each_kind(seen: Sequence[tuple[str, str]]) -> list[int]:
    """Number the operations that are the first or the last of their kind, in their order.

    Of one kind are those that do the same to files that differ only in numbers, in the split and
    in the node whose they are. So every kind is there, and where it has to be done for both nodes,
    the moment before the first and the one between the two.
    """
    ends: dict[tuple[str, str], tuple[int, int]] = {}
    for number, (what, where) in enumerate(seen):
        kind = what, _NUMBER.sub("#", _SPLIT.sub("split-", _NODE.sub("/node", where)))
        ends[kind] = ends.get(kind, (number,))[0], number
    return sorted({number for pair in ends.values() for number in pair})


@contextlib.contextmanager
def drivers() -> Iterator[Drivers]:
    """Start the processes; end them, and fail where an extract has loaded TensorFlow."""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                )
            )
            for _ in range(_NUM_DRIVERS)
        ]
        yield Drivers(processes)
        for process in processes:
            process.stdin.close()
            assert process.wait(60) == 0


def _job(act: Act, folder: Path, start: Path | None) -> dict[str, Any]:
    folder.mkdir(parents=True)
    return {"act": _to_json(act), "folder": str(folder), "start": start and str(start)}


def _to_json(act: Act) -> Any:
    return act if act == REPAIR else asdict(act)


def _from_json(value: Any) -> Act:
    return value if value == REPAIR else Extract(**value)


def main() -> None:
    load_kernels()
    with _undisturbed() as finish:
        for line in sys.stdin:
            job = json.loads(line)
            answer = _kill(job, finish) if "chains" in job else _list_operations(job)
            print(json.dumps(answer), flush=True)


def load_kernels() -> None:
    """Have the compiled loops loaded once, not in each child."""
    for dtype in DTYPES:
        scaled = {"scales": (1.0,) * 8, "zero_points": (0,) * 8} if dtype == "uint8" else {}
        for encoding in ENCODINGS:
            layout = Layout((1, 1, 8), ("original",), dtype, encoding, "parquet", 1, **scaled)
            found = cells.encode(np.ones((1, 1, 1, 1, 8), np.float32), layout).cells
            cells.decode(found, layout, layout.branches, np.arange(1), "float32")


def _list_operations(job: dict[str, Any]) -> Any:
    folder = Path(job["folder"])
    _lay_out(folder / "features", job["start"])
    status, error = _in_child(folder / "features", job["act"], None, folder / "seen.json")
    if status:
        raise RuntimeError(error)
    return json.loads((folder / "seen.json").read_text())


def _kill(job: dict[str, Any], finish: Callable[[Path, Any], str]) -> list[dict[str, Any]]:
    features_dir, clean = Path(job["folder"]) / "features", _content(Path(job["clean"]))
    outcomes = []
    for chain in job["chains"]:
        _lay_out(features_dir, job["start"])
        ended = [_in_child(features_dir, job["act"], last) for last in chain]
        faults = [error for status, error in ended if status not in (0, -signal.SIGKILL)]
        faults.append(finish(features_dir, job["then"]))
        found = _content(features_dir)
        other = [n for n in sorted({*found, *clean}) if found.get(n) != clean.get(n)]
        if other and not any(faults):
            faults.append(f"other files: {other}")
        num_kills = sum(status == -signal.SIGKILL for status, _ in ended)
        outcomes.append(asdict(Outcome(num_kills, "".join(faults))))
    return outcomes


def _content(features_dir: Path) -> dict[str, bytes]:
    found = files(features_dir)
    return {name: data for name, data in found.items() if "/bad/" not in name}


def _lay_out(folder: Path, start: str | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if start:
        shutil.copytree(start, folder)


def _do(features_dir: Path, act: Any) -> None:
    if act == REPAIR:
        verify.run(features_dir, features_dir, False, True, Silent())
    else:
        fill(features_dir, Extract(**act))


def _in_child(
    features_dir: Path, act: Any, last: int | None, seen_path: Path | None = None
) -> tuple[int, str]:
    """Do something in a fork of this process; returns its status and what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            watched = _Operations(last)
            watched.watch()
            _do(features_dir, act)
            assert "tensorflow" not in sys.modules
            if seen_path:
                seen_path.write_text(json.dumps([*watched.seen]))
            os._exit(0)
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        error = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), error


@contextlib.contextmanager
def _undisturbed() -> Iterator[Callable[[Path, Any], str]]:
    """Fork a process that does what nobody kills; gives what asks it and returns its traceback."""
    (asked, asking), (answered, answering) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(asking)
        with os.fdopen(asked) as questions, os.fdopen(answering, "w") as answers:
            for line in questions:
                print(json.dumps(_try(*json.loads(line))), file=answers, flush=True)
        os._exit("tensorflow" in sys.modules)
    os.close(asked)
    os.close(answering)
    with os.fdopen(asking, "w") as questions, os.fdopen(answered) as answers:

        def finish(features_dir: Path, acts: Any) -> str:
            print(json.dumps([str(features_dir), acts]), file=questions, flush=True)
            return json.loads(answers.readline())

        yield finish
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "TensorFlow was loaded"


def _try(features_dir: str, acts: Sequence[Any]) -> str:
    try:
        for act in acts:
            _do(Path(features_dir), act)
    except Exception:
        return traceback.format_exc()
    return ""


class _Operations:
    """Counts this process's file operations and ends it in front of one, a write in its middle."""

    def __init__(self, last: int | None) -> None:
        self.seen: list[tuple[str, str]] = []
        self._last = last

    def watch(self) -> None:
        sys.addaudithook(self._on_event)
        write = atomic.HashingFile.write

        def counting_fsync(descriptor: int) -> None:  # SIGKILL takes nothing that was written
            self._count("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))

        def counting_write(file: atomic.HashingFile, data: Any) -> int:
            half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
            name = str(getattr(file._file, "name", ""))
            self._count("write", name, lambda: (write(file, half), file.flush()))
            return write(file, data)

        os.fsync = counting_fsync
        atomic.HashingFile.write = counting_write

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and arguments[2] & _WRITING):
            self._count(event, " ".join(str(path) for path in arguments[:2]))

    def _count(self, what: str, where: str, at_last: Callable[[], object] = lambda: None) -> None:
        if len(self.seen) == self._last:
            at_last()
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append((what, where))


if __name__ == "__main__":
    main()
