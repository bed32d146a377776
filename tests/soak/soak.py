"""Kill extracts at random times, resume them, compare what they come to, for as long as asked.

Run as `python tests/soak/soak.py --seconds 600 --seed 1 --format tfrecord`. Each round draws a
dtype, an encoding and images, extracts once undisturbed, then starts the same again and again and
kills it at random until one start comes to its end. Prints a line a round, and a summary in JSON;
exit status 1 when a tree of files differed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extracting import Extract, files, fill
from killing import load_kernels

from pipelines.storage.formats import FORMATS
from pipelines.storage.layout import DTYPES, ENCODINGS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="stop behind the round at hand")
    parser.add_argument("--seed", type=int, default=0, help="of every choice but the clock's")
    parser.add_argument("--format", choices=[*FORMATS], help="of the shards; any, if not given")
    asked = parser.parse_args()
    rng, end_s = random.Random(asked.seed), time.monotonic() + asked.seconds
    load_kernels()
    summary = {"rounds": 0, "kills": 0, "finished": 0, "faults": []}
    while time.monotonic() < end_s or not summary["rounds"]:
        extract = draw(rng, asked.format)
        with tempfile.TemporaryDirectory() as name:
            num_kills, fault = run_round(rng, extract, Path(name))
        summary["rounds"] += 1
        summary["kills"] += num_kills
        summary["finished"] += not fault
        if fault:
            summary["faults"].append({"extract": repr(extract), "fault": fault})
        print(f"{extract.format} {extract.dtype} {extract.encoding}: {num_kills} kills", flush=True)
    print(json.dumps(summary))
    return 1 if summary["faults"] else 0


def draw(rng: random.Random, format: str | None) -> Extract:
    """Choose what a round extracts."""
    return Extract(
        format or rng.choice([*FORMATS]),
        rng.choice(DTYPES),
        rng.choice(["auto", *ENCODINGS]),
        shards=rng.randint(4, 24),
        batch_size=rng.randint(3, 16),
        group_bytes=rng.choice([500, 5000, 50000]),
        seed=rng.randrange(1000),
        rows={"train": rng.randint(200, 900), "val": rng.randint(1, 200), "test": 1},
    )


def run_round(rng: random.Random, extract: Extract, folder: Path) -> tuple[int, str]:
    """Extract undisturbed and disturbed; returns the number of kills and how the ends differ."""
    started_s = time.monotonic()
    if wait(start(folder / "clean", extract)):
        return 0, "the undisturbed extract failed"
    whole_s, num_kills = time.monotonic() - started_s, 0
    while True:
        child = start(folder / "features", extract)
        # Ever later: what a start does before its first shard may take longer than that by itself.
        time.sleep(rng.uniform(0, whole_s / 3 * (1 + num_kills / 20)))
        os.kill(child, signal.SIGKILL)  # one that has ended waits for us as a zombie
        status = wait(child)
        if status != -signal.SIGKILL:
            break
        num_kills += 1
    if status:
        return num_kills, f"a start ended with {status}"
    clean, found = files(folder / "clean"), files(folder / "features")
    other = [name for name in sorted({*clean, *found}) if clean.get(name) != found.get(name)]
    if other:
        kept = shutil.copytree(folder, tempfile.mkdtemp(prefix="soak-"), dirs_exist_ok=True)
        return num_kills, f"{len(other)} files differ, first {other[0]}; kept in {kept}"
    return num_kills, ""


def start(features_dir: Path, extract: Extract) -> int:
    """Extract in a fork of this process, which itself never starts a thread."""
    child = os.fork()
    if not child:
        try:
            fill(features_dir, extract)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
