"""Repair: bad files lie in bad/ afterwards, and the stages make exactly those again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import invoke, the_error
from conftest import BATCH_SIZE
from editing import edit, receipt_of
from extracting import Extract, files, fill
from killing import REPAIR, Outcome, drivers
from lockers import HOLDER
from processes import ask, running, tree
from verifying import (
    NUM_FEATURES,
    NUM_VARIANTS,
    PATTERNS,
    VARIANTS,
    content,
    first,
    flip_middle,
    run_stage,
    verified,
)


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])


def exchange(shard: Path) -> None:
    other = first(shard.parent, "val-*" if shard.parent.name == "jpeg" else "train-00001-*")
    data = shard.read_bytes()
    shard.write_bytes(other.read_bytes())
    other.write_bytes(data)


def empty_receipt(shard: Path) -> None:
    receipt_of(shard).write_bytes(b"")


def edit_receipt(shard: Path) -> None:
    edit(receipt_of(shard), lambda value: value.update(num_rows=1))


def exchange_receipts(shard: Path) -> None:
    one, *_, other = sorted((shard.parent / "receipts").iterdir())
    other.write_bytes(one.read_bytes())


def forget_receipt(shard: Path) -> None:
    receipt_of(shard).unlink()


# What is done to a shard, and how many shards are made again.
DAMAGE: dict[str, tuple[Callable[[Path], object], int]] = {
    "flipped": (flip_middle, 1),
    "cut": (cut, 1),
    "missing": (Path.unlink, 1),
    "exchanged": (exchange, 2),
    "receipt empty": (empty_receipt, 0),
    "receipt edited": (edit_receipt, 0),
    "receipt missing": (forget_receipt, 0),
    "receipt of another": (exchange_receipts, 0),
}


@pytest.fixture
def workspace(stored: Path) -> Path:
    return stored


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", PATTERNS)
def test_repair_damaged_shard_is_made_again_with_the_same_bytes(kind, damage, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    do_damage, num_made = DAMAGE[damage]
    do_damage(first(workspace, pattern))
    bad = verified(workspace, features=features, status=1)["bad"]
    summary = verified(workspace, "--repair", features=features, status=0)
    assert [{key: entry[key] for key in ("file", "reason")} for entry in summary["bad"]] == bad
    assert summary["num_moved"] == summary["num_bad"] == len(bad) == max(1, num_made)
    assert verified(workspace, features=features, status=0)["bad"] == []
    num_shards = NUM_VARIANTS if kind == "variants" else NUM_FEATURES
    assert run_stage(workspace, kind) == num_shards - num_made
    assert content(workspace) == before
    after = verified(workspace, features=features, status=0)
    assert after["num_shards"] == NUM_VARIANTS + NUM_FEATURES


@pytest.mark.parametrize("kind", PATTERNS)
def test_repair_bad_shard_lies_as_it_was_in_bad(kind, workspace):
    pattern, features = PATTERNS[kind]
    shard = first(workspace, pattern)
    flip_middle(shard)
    damaged = shard.read_bytes()
    verified(workspace, "--repair", features=features, status=0)
    assert files(shard.parent / "bad") == {shard.name: damaged}
    assert not shard.exists() and not receipt_of(shard).exists()
    assert not shard.with_name("manifest.json").exists()


def test_repair_same_shard_twice_keeps_both(workspace):
    shard, kept = first(workspace, PATTERNS["parquet"][0]), []
    for size_bytes in (10, 20):
        shard.write_bytes(bytes(size_bytes))
        kept.append(shard.read_bytes())
        verified(workspace, "--repair", status=0)
        run_stage(workspace, "parquet")
    expected = dict(zip([shard.name, f"{shard.name}.2"], kept, strict=True))
    assert files(shard.parent / "bad") == expected


def test_repair_shard_of_no_plan_goes_and_the_cache_stays_whole(workspace):
    before = content(workspace)
    shard = first(workspace, PATTERNS["parquet"][0])
    stranger = shard.with_name("train-00008-of-00009.parquet")
    shutil.copy(shard, stranger)
    assert verified(workspace, "--repair", status=0)["num_moved"] == 1
    assert content(workspace) == before
    assert (shard.parent / "bad" / stranger.name).read_bytes() == shard.read_bytes()


def test_repair_whole_workspace_moves_nothing(workspace):
    before = tree(workspace)
    summary = verified(workspace, "--repair", "--deep", status=0)
    assert (summary["num_bad"], summary["num_moved"]) == (0, 0)
    assert tree(workspace) == before


def test_repair_unfinished_cache_goes_on_behind_it(workspace):
    before = content(workspace)
    front = workspace / "features" / "front"
    last = first(front, "val-*")
    for path in (last, receipt_of(last), front / "manifest.json"):
        path.unlink()
    flip_middle(first(front, "train-*"))
    assert verified(workspace, "--repair", status=0)["num_moved"] == 1
    assert run_stage(workspace, "parquet") == NUM_FEATURES - 2
    assert content(workspace) == before


def test_repair_says_where_each_file_went(workspace):
    shard = first(workspace, PATTERNS["parquet"][0])
    flip_middle(shard)
    forget_receipt(first(workspace, f"{VARIANTS}/train-*"))
    result = invoke("verify", "--repair", "-C", workspace)
    name = shard.relative_to(workspace)
    assert f"{name}: its SHA-256 is not its receipt's; moved to bad/\n" in result.stdout
    assert "is missing, though the manifest lists its shard; written again\n" in result.stdout
    assert ", 2 bad files (2 repaired), " in result.stdout


@pytest.mark.parametrize("kind", PATTERNS)
def test_repair_folder_held_by_another_process_says_by_whom(kind, workspace):
    pattern, features = PATTERNS[kind]
    shard = first(workspace, pattern)
    flip_middle(shard)
    before = content(workspace)
    flags = ["--features-dir", workspace / features] if features else []
    with running(HOLDER, shard.parent) as holder:
        assert ask(holder, "hold") == "held"
        error = the_error(invoke("verify", "--repair", *flags, "-C", workspace))
        assert error.startswith(f"{shard.parent}: another command is at work here (.lock: pid ")
        assert f"pid {holder.pid} on " in error
        assert ask(holder, "check") == "mine"
    assert content(workspace) == before
    assert not (shard.parent / "bad").exists()


@pytest.mark.parametrize("extract", [Extract("parquet"), Extract("tfrecord", "uint8")])
def test_repair_killed_at_any_operation_and_run_again_ends_with_the_same_bytes(extract, tmp_path):
    fill(tmp_path / "clean", extract)
    damaged = Path(shutil.copytree(tmp_path / "clean", tmp_path / "damaged"))
    flip_middle(first(damaged, "front/train-00000-*"))
    first(damaged, "front/train-00001-*").unlink()
    edit_receipt(first(damaged, "pool/train-00000-*"))
    # An extract behind the kill must not hide from the next repair what is still damaged.
    then = [extract, REPAIR, extract] if extract.format == "parquet" else [REPAIR, extract]
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    with drivers() as killers:
        seen = killers.operations(REPAIR, tmp_path / "seen", damaged)
        assert {"os.rename", "os.remove", "os.mkdir"} <= {what for what, _ in seen}
        points = [[number] for number in range(len(seen))]
        outcomes = killers.kill_and_resume(REPAIR, points, clean, killed, damaged, then)
    assert outcomes == [Outcome(1, "")] * len(points)


@pytest.mark.slow
@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_repair_real_caches_are_made_again_by_the_commands(extracted, tmp_path, deep):
    workspace = Path(shutil.copytree(extracted.path, tmp_path / "workspace"))
    before = content(workspace)
    shards = [first(workspace, f"features/{node}/train-*") for node in extracted.config.node]
    for shard in shards:
        flip_middle(shard)
    config = extracted.config
    flags = [
        *("--backbone", config.backbone, "--dtype", config.dtype, "--shards", config.shards),
        *("--batch-size", BATCH_SIZE),
        *(flag for node in config.node for flag in ("--node", node)),
    ]
    assert verified(workspace, *deep, "--repair", status=0)["num_moved"] == len(shards)
    result = invoke("extract", *flags, "--json", "-C", workspace)
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["num_resumed_shards"] == summary["num_shards"] - len(shards)
    assert content(workspace) == before
