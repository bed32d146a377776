"""Kill workers and their parents at random, start again, compare what it comes to.

Run as `python tests/soak/workers.py --seconds 600 --seed 1 --stage compress`. Each round draws what
is made, makes it once undisturbed in this process, then in workers of one start, or of two that
share the work, while any of them are killed at random; who was killed, or gives up on its workers,
is started again. Prints a line a round, and a summary in JSON; exit status 1 when the files
differed, something was left behind, or a start ended in another way.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extracting import Extract
from images import make_class_folders
from processes import PROGRAM, tree
from working import Start, extract_command, fill_with, network

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.execution import inline
from pipelines.execution.engine import CrewSettings
from pipelines.execution.shares import Share
from pipelines.progress import Silent
from pipelines.storage.formats import FORMATS
from pipelines.storage.layout import DTYPES

_GAP_S = 0.5  # between two kills at first, about: a worker is to come as far as its work
_GAP_GROWS = 1.1  # from kill to kill, so that a round ends on the busiest machine
_MAX_STARTS = 300  # of a round
_POLL_S = 0.01
# So many kills may end a start; what another says is a fault.
_GIVEN_UP = re.compile(r"3 worker processes died at it|workers end by SIG\w+ as they begin")
_KILLS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Made:
    """What a round makes.

    Attributes:
        words: what it is.
        undisturbed: its folder, made in this process.
        disturbed: the folder that the commands work in.
        commands: that make it, once all have ended well.
        seconds: that it took undisturbed.
    """

    words: str
    undisturbed: Path
    disturbed: Path
    commands: Sequence[Sequence[str | Path]]
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="stop behind the round at hand")
    parser.add_argument("--seed", type=int, default=0, help="of every choice but the clock's")
    parser.add_argument("--stage", choices=[*_STAGES], required=True, help="what is disturbed")
    asked = parser.parse_args()
    rng, end_s = random.Random(asked.seed), time.monotonic() + asked.seconds
    summary = {"stage": asked.stage, "rounds": 0, "starts": 0, "killed_workers": 0}
    summary |= {"killed_parents": 0, "given_up": 0, "faults": []}
    while time.monotonic() < end_s or not summary["rounds"]:
        with tempfile.TemporaryDirectory() as name:
            made = _STAGES[asked.stage](rng, Path(name))
            found = Round(rng, made)
            fault = found.run()
            if fault:
                kept = shutil.copytree(name, tempfile.mkdtemp(prefix="soak-"), dirs_exist_ok=True)
                summary["faults"].append(f"{made.words}: {fault}; kept in {kept}")
        summary["rounds"] += 1
        for key, value in found.counts.items():
            summary[key] += value
        print(f"{made.words}: {found.counts} {fault}", flush=True)
    print(json.dumps(summary))
    return 1 if summary["faults"] else 0


def make_variants(rng: random.Random, folder: Path) -> Made:
    """Draw images and settings, and compress them."""
    num_per_class, side = rng.randint(15, 60), rng.choice([60, 120, 200])
    paths = make_class_folders(folder / "images", "ab", num_per_class, (side, side + 20))
    for path in rng.sample(paths, rng.randint(0, 3)):
        path.write_bytes(path.read_bytes()[:200])
    qualities = sorted(rng.sample(range(1, 101), rng.randint(1, 8)))
    num_shards, num_shares = rng.randint(4, 16), rng.choice([1, 1, 2])
    settings = {"shards": num_shards, "max_bad_share": 0.5}
    started_s = time.monotonic()
    config = CompressConfig(images=str(folder / "images"), qualities=tuple(qualities), **settings)
    compress.run(folder / "undisturbed", config, 0, Silent(), inline.open_crew)
    seconds = time.monotonic() - started_s
    (folder / "disturbed").mkdir()
    (folder / "disturbed" / "bottleneck.toml").write_text(
        f"[compress]\nimages = '{folder / 'images'}'\nqualities = {qualities}\n"
        + "".join(f"{key} = {value}\n" for key, value in settings.items())
    )
    program = [PROGRAM, "compress", "-C", folder / "disturbed", "--workers", str(rng.randint(2, 3))]
    commands = [
        [*program, "--num-tasks", str(num_shares), "--task-index", str(i)]
        for i in range(num_shares)
    ]
    words = f"{len(paths)} images of {side}, {num_shards} shards, {num_shares} starts"
    return Made(words, folder / "undisturbed", folder / "disturbed", commands, seconds)


def make_features(rng: random.Random, folder: Path) -> Made:
    """Draw images and settings, and extract through the made-up network."""
    extract = Extract(
        rng.choice([*FORMATS]),
        rng.choice(DTYPES),
        shards=rng.randint(4, 16),
        batch_size=rng.randint(3, 16),
        group_bytes=rng.choice([500, 5000, 50000]),
        seed=rng.randrange(1000),
        rows={"train": rng.randint(100, 400), "val": rng.randint(1, 100), "test": 1},
    )
    settings = {"threads": rng.choice([0, 2]), "in_flight": rng.choice([1, 2]), "pause_s": 0.02}
    num_workers, num_shares = rng.randint(2, 3), rng.choice([1, 1, 2])
    started_s = time.monotonic()
    work = network(extract, **settings)
    fill_with(folder / "undisturbed", work, inline.open_crew, CrewSettings(()))
    seconds = time.monotonic() - started_s
    commands = [
        extract_command(
            folder / "disturbed", extract, num_workers, Share(i, num_shares), **settings
        )
        for i in range(num_shares)
    ]
    num_images = sum(extract.rows.values())
    words = f"{num_images} images, {extract.format}, {extract.shards} shards, {num_shares} starts"
    return Made(words, folder / "undisturbed", folder / "disturbed", commands, seconds)


_STAGES = {"compress": make_variants, "extract": make_features}


class Round:
    """The kills of one round.

    Attributes:
        counts: starts, killed_workers, killed_parents, given_up.
    """

    def __init__(self, rng: random.Random, made: Made) -> None:
        self.counts = dict.fromkeys(("starts", "killed_workers", "killed_parents", "given_up"), 0)
        self._rng, self._made = rng, made
        self._gap_s = max(_GAP_S, made.seconds / 4)
        self._at_work: dict[int, Start] = {}  # by the place of their command
        self._ended: list[Start] = []
        self._killed: set[int] = set()  # parents' process numbers

    def run(self) -> str:
        """Disturb the starts until all have ended well; returns what is wrong then."""
        left = set(range(len(self._made.commands)))
        try:
            while left:
                if self.counts["starts"] > _MAX_STARTS:
                    return "comes to no end"
                for place in left - set(self._at_work):
                    self._at_work[place] = Start(self._made.commands[place])
                    self.counts["starts"] += 1
                self._wait()
                for place in [p for p in self._at_work if self._has_ended(p)]:
                    is_done, fault = self._end(self._at_work.pop(place))
                    if fault:
                        return fault
                    left -= {place} if is_done else set()
                if self._at_work:
                    self._kill()
            return self._difference()
        finally:
            for start in self._at_work.values():
                start.process.kill()
                start.ended()

    def _has_ended(self, place: int) -> bool:
        return self._at_work[place].process.poll() is not None

    def _wait(self) -> None:
        """Wait a while, or until a start ends."""
        end_s = time.monotonic() + self._rng.uniform(0, 2 * self._gap_s)
        while time.monotonic() < end_s and not any(map(self._has_ended, self._at_work)):
            time.sleep(_POLL_S)

    def _kill(self) -> None:
        """Kill a worker, now and then a parent."""
        start = self._rng.choice([*self._at_work.values()])
        sent, is_parent = self._rng.choice(_KILLS), self._rng.random() < 0.15
        pids = [start.process.pid] if is_parent else start.workers()
        if pids and start.process.poll() is None:
            pid = self._rng.choice(pids)
            self.counts["killed_parents" if is_parent else "killed_workers"] += start.kill(
                pid, sent
            )
            self._killed |= {pid} if is_parent else set()
            self._gap_s *= _GAP_GROWS

    def _end(self, start: Start) -> tuple[bool, str]:
        """Look how a start has ended: whether it is done, and what is wrong."""
        status, _, errors = start.ended()
        self._ended.append(start)
        if status == 0:
            return True, ""
        was_killed = start.process.pid in self._killed
        if was_killed and (status < 0 or "interrupted; what is whole is kept" in errors):
            return False, ""
        if status == 1 and _GIVEN_UP.search(errors):
            self.counts["given_up"] += 1
            return False, ""
        return False, f"a start ended with {status}: {errors}"

    def _difference(self) -> str:
        """Compare the files, and look for what was left behind."""
        made = self._made
        clean, found = (_files(folder) for folder in (made.undisturbed, made.disturbed))
        other = [name for name in sorted({*clean, *found}) if clean.get(name) != found.get(name)]
        if other:
            return f"{len(other)} files differ, first {other[0]}"
        alive = [pid for start in self._ended if not start.leaves_nobody() for pid in start.left()]
        return f"processes are left: {alive}" if alive else ""


def _files(folder: Path) -> dict[str, bytes]:
    """Return every file, leftovers among them, but for the workspace's own."""
    found = tree(folder, ("bottleneck.toml",))
    return {name: content for name, content in found.items() if not name.startswith("logs/")}


if __name__ == "__main__":
    sys.exit(main())
