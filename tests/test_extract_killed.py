"""Extract ended by SIGKILL: started again, it ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from extracting import Extract, files, fill
from killing import Drivers, Outcome, drivers, first_and_last_of_each_kind

EXTRACTS = {"parquet": Extract("parquet", "float16"), "tfrecord": Extract("tfrecord", "uint8")}
SOAK = Path(__file__).parent / "soak" / "soak.py"
OTHER = {"dtype": "float32", "encoding": "dense", "seed": 1}


@pytest.fixture(scope="module")
def killers() -> Iterator[Drivers]:
    with drivers() as found:
        yield found


@pytest.fixture(params=EXTRACTS)
def extract(request: pytest.FixtureRequest) -> Extract:
    return EXTRACTS[request.param]


@pytest.fixture
def clean(extract: Extract, tmp_path: Path) -> Path:
    """What an extract comes to when nothing goes wrong."""
    fill(tmp_path / "clean", extract)
    return tmp_path / "clean"


def kept(seen: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out the check of the disk, which tries what nobody is to keep."""
    return [(what, where) for what, where in seen if "/.disk." not in where]


def number_of_last_plan(seen: list[tuple[str, str]]) -> int:
    """Count the operations before the last plan is published."""
    renames = [n for n, (what, where) in enumerate(seen) if what == "os.rename"]
    return max(n for n in renames if seen[n][1].endswith("/plan.json"))


def test_extract_killed_at_every_kind_of_operation_ends_with_the_same_bytes(
    extract, clean, killers, tmp_path
):
    seen = killers.operations(extract, tmp_path / "seen")
    counts = Counter(what for what, _ in kept(seen))
    assert counts["os.rename"] >= 18, "two nodes: 3 shards with receipts, plan, check, manifest"
    assert min(counts[what] for what in ("open", "fsync", "write")) >= counts["os.rename"]
    points = [[number] for number in first_and_last_of_each_kind(seen)]
    assert {seen[number][0] for (number,) in points} == {what for what, _ in seen}
    outcomes = killers.kill_and_resume(extract, points, clean, tmp_path / "killed")
    assert outcomes == [Outcome(1, "")] * len(points)


def test_extract_killed_again_and_again_ends_with_the_same_bytes(extract, clean, killers, tmp_path):
    chains = np.random.default_rng(4).integers(10, 100, (12, 3)).tolist()
    outcomes = killers.kill_and_resume(extract, chains, clean, tmp_path / "killed")
    assert [outcome.fault for outcome in outcomes] == [""] * len(chains)
    assert sum(outcome.num_kills >= 2 for outcome in outcomes) >= 9


# What is cleared and planned anew does so in one way for all formats: here from one to another.
@pytest.mark.parametrize("extract", ["tfrecord"], indirect=True)
def test_extract_overwrite_killed_at_every_kind_of_operation_ends_as_a_fresh_one(
    extract, clean, killers, tmp_path
):
    other = tmp_path / "other"
    fill(other, dataclasses.replace(extract, **OTHER, format="parquet"))
    anew = dataclasses.replace(extract, overwrite=True)
    seen = killers.operations(anew, tmp_path / "seen", other)
    removed = [number for number, (what, _) in enumerate(seen) if what == "os.remove"]
    last_plan = number_of_last_plan(seen)
    assert len([n for n in removed if n < last_plan]) >= 18, "all of both caches"
    # Behind the new plans all goes on as it does without --overwrite.
    points = [[number] for number in first_and_last_of_each_kind(seen[: last_plan + 10])]
    points += [[number] for number in range(last_plan + 10, len(seen), 24)]
    outcomes = killers.kill_and_resume(anew, points, clean, tmp_path / "killed", other)
    assert outcomes == [Outcome(1, "")] * len(points)


@pytest.mark.parametrize("extract", ["parquet"], indirect=True)
def test_extract_overwrite_killed_and_started_without_it_mixes_nothing(
    extract, clean, killers, tmp_path
):
    other = tmp_path / "other"  # its shards have the same names
    fill(other, dataclasses.replace(extract, **OTHER))
    anew = dataclasses.replace(extract, overwrite=True)
    seen = killers.operations(anew, tmp_path / "seen", other)
    last_plan = number_of_last_plan(seen)
    points = [[number] for number in first_and_last_of_each_kind(seen[: last_plan + 4])]
    folder = tmp_path / "killed"
    outcomes = killers.kill_and_resume(anew, points, clean, folder, other, then=[extract])
    says_so = [f"dtype float32, now {extract.dtype}" in outcome.fault for outcome in outcomes]
    ends_well = [outcome == Outcome(1, "") for outcome in outcomes]
    neither_or_both = [
        outcome
        for outcome, one, another in zip(outcomes, says_so, ends_well, strict=True)
        if one == another
    ]
    assert neither_or_both == []
    assert says_so[0] and ends_well[-1]


def test_extract_operations_every_rename_stands_between_two_syncs(extract, killers, tmp_path):
    seen = kept(killers.operations(extract, tmp_path / "seen"))
    renames = [n for n, (what, where) in enumerate(seen) if what == "os.rename"]
    assert len(renames) >= 18
    for number in renames:
        source, target = map(Path, seen[number][1].split())
        assert seen[number - 1] == ("fsync", str(source)), "written, then synced, then renamed"
        assert seen[number + 1] == ("fsync", str(target.parent))


def test_extract_operations_a_receipt_follows_its_shard(extract, killers, tmp_path):
    seen = kept(killers.operations(extract, tmp_path / "seen"))
    targets = [Path(where.split()[1]) for what, where in seen if what == "os.rename"]
    receipts = [path for path in targets if path.parent.name == "receipts"]
    assert len(receipts) == 6
    for receipt in receipts:
        shard = receipt.parent.parent / receipt.name.removesuffix(".json")
        assert targets.index(shard) < targets.index(receipt)
        assert targets.index(receipt) < targets.index(shard.parent / "manifest.json")


def test_kill_and_resume_other_images_are_told(extract, clean, killers, tmp_path):
    changed = dataclasses.replace(extract, seed=2)
    (outcome,) = killers.kill_and_resume(changed, [[60]], clean, tmp_path / "killed")
    shards = [name for name in files(clean) if name.endswith(extract.format)]
    assert outcome.num_kills == 1
    assert all(shard in outcome.fault for shard in shards)


@pytest.mark.parametrize("format", EXTRACTS)
def test_soak_few_seconds_kills_at_random_and_finds_no_difference(format):
    command = [sys.executable, SOAK, "--seconds", "2", "--seed", "1", "--format", format]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["faults"] == []
    assert summary["finished"] == summary["rounds"] >= 1
    assert summary["kills"] >= 1
