"""Starts of stages as processes of their own, whose workers can be found, killed and counted.

Run as a program it is one start of an extract through the made-up network, in workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from extracting import BEHIND, WAY, Extract, MadeUpNetwork, fill

from pipelines.errors import PipelineError
from pipelines.execution import local, shares
from pipelines.execution.engine import Crew, CrewSettings, Engine, Job
from pipelines.execution.slots import cpu_slots
from pipelines.extraction import job
from pipelines.extraction.extractor import Extractor
from pipelines.progress import Progress, Silent
from pipelines.storage import probe

_TOKEN = "BOTTLENECK_TEST_TOKEN"
_DEADLINE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Network(MadeUpNetwork):
    """The made-up network in any process, as slow as it is told.

    Attributes:
        pause_s: that a batch takes.
    """

    pause_s: float = 0.0

    def open(self) -> Extractor:
        if multiprocessing.parent_process() is not None:  # a worker, which asks no `fill_with`
            probe._GROUP_BYTES = self.extract.group_bytes
        opened = super().open()
        run = functools.partial(_slowly, opened.network.run_forward, self.pause_s)
        return dataclasses.replace(
            opened, network=dataclasses.replace(opened.network, run_forward=run)
        )


def _slowly(run: Callable[[Any], Any], pause_s: float, images: np.ndarray) -> list[np.ndarray]:
    time.sleep(pause_s)
    return run(images)


def network(extract: Extract, **settings: Any) -> Network:
    return Network(extract, behind=BEHIND, **settings)


def fill_with(
    features_dir: Path,
    work: MadeUpNetwork,
    engine: Engine = local.open_crew,
    crew_settings: CrewSettings | None = None,
    way: job.Way = WAY,
    progress: Progress | None = None,
) -> job.Done:
    """Make the caches of both made-up nodes below `features_dir`, whoever does the work.

    Args:
        features_dir: where.
        work: the network.
        engine: has the workers.
        crew_settings: of theirs; two workers if not given.
        way: how the work is done.
        progress: told about the images.
    """

    def open_crew(job: Job, nothing: CrewSettings) -> AbstractContextManager[Crew]:
        return engine(work, crew_settings or CrewSettings(cpu_slots(2)))

    return fill(features_dir, work.extract, progress, way=way, engine=open_crew)


def extract_command(
    features_dir: Path,
    extract: Extract,
    num_workers: int = 2,
    share: shares.Share = shares.ALL,
    **settings: Any,
) -> list[str | Path]:
    """Return the command of a start that extracts through the made-up network.

    Args:
        features_dir: where.
        extract: what.
        num_workers: processes that work.
        share: of the shards.
        settings: of the `Network`.
    """
    asked = {
        "features_dir": str(features_dir),
        "extract": dataclasses.asdict(extract),
        "num_workers": num_workers,
        "share": [share.index, share.num],
        "settings": settings,
    }
    return [sys.executable, __file__, json.dumps(asked)]


def main() -> int:
    """Do what `extract_command` says; like the command line, end with 1 and the error's words."""
    asked = json.loads(sys.argv[1])
    way = dataclasses.replace(WAY, share=shares.Share(*asked["share"]))
    try:
        done = fill_with(
            Path(asked["features_dir"]),
            network(Extract(**asked["extract"]), **asked["settings"]),
            crew_settings=CrewSettings(cpu_slots(asked["num_workers"])),
            way=way,
            progress=_Speaking(),
        )
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("whole" if done.is_whole else "not whole")
    return 0


class _Speaking(Silent):
    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Start:
    """A command that runs in its own group of processes.

    Attributes:
        process: the parent.
    """

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._token = secrets.token_hex(8)
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, _TOKEN: self._token},
            start_new_session=True,
        )

    def workers(self) -> list[int]:
        """Return the process numbers of the workers that live, the oldest first."""
        return [pid for pid in self.left() if b"spawn_main" in _read(pid, "cmdline")]

    def left(self) -> list[int]:
        """Return the process numbers of all that live, the parent among them."""
        sought = f"{_TOKEN}={self._token}".encode()
        pids = sorted(int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return [pid for pid in pids if sought in _read(pid, "environ").split(b"\0")]

    def kill(self, pid: int, sent: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal; tells whether there was somebody to send it to."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
            return True
        return False

    def says(self, words: str) -> None:
        """Read stderr up to a line with these words; fails when it ends without them."""
        lines: list[str] = []
        while words not in "".join(lines[-1:]):
            lines.append(self.process.stderr.readline())
            assert lines[-1], f"ended without {words!r}: {''.join(lines)}"

    def ended(self) -> tuple[int, str, str]:
        """Wait for the parent's end; returns its status, stdout and stderr."""
        output, errors = self.process.communicate(timeout=_DEADLINE_S)
        return self.process.returncode, output, errors

    def leaves_nobody(self) -> bool:
        """Tell whether, now that the parent has ended, all others end soon, too."""
        deadline = time.monotonic() + _DEADLINE_S
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.left()


@contextlib.contextmanager
def started(command: Sequence[str | Path]) -> Iterator[Start]:
    """Start a command; whatever is left of it when the block ends is killed."""
    start = Start(command)
    try:
        yield start
    finally:
        start.process.kill()
        for pid in start.left():
            start.kill(pid)
        start.process.communicate()


def _read(pid: int, name: str) -> bytes:
    """Return a file of proc(5); empty for one that has ended, as a zombie has, too."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main())
