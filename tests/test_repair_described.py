"""Repair: manifest, plan, receipts and check are written again, and no whole shard is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from editing import edit, receipt_of
from verifying import (
    NUM_FEATURES,
    NUM_VARIANTS,
    PATTERNS,
    content,
    first,
    flip_middle,
    run_stage,
    verified,
)


@pytest.fixture
def workspace(stored: Path) -> Path:
    return stored


@pytest.mark.parametrize("kind", PATTERNS)
def test_repair_damaged_manifest_alone_lets_no_shard_be_made_again(kind, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    manifest = first(workspace, pattern).with_name("manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-20])
    summary = verified(workspace, "--repair", features=features, status=0)
    assert [bad["file"] for bad in summary["bad"]] == [manifest.relative_to(workspace).as_posix()]
    assert run_stage(workspace, kind) == (NUM_VARIANTS if kind == "variants" else NUM_FEATURES)
    assert content(workspace) == before


@pytest.mark.parametrize("kind", ["parquet", "tfrecord"])
def test_repair_damaged_plan_is_written_again_from_the_manifest(kind, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    plan = first(workspace, pattern).with_name("plan.json")
    plan.write_bytes(plan.read_bytes()[:-20])
    verified(workspace, "--repair", features=features, status=0)
    assert content(workspace) == before
    assert (plan.parent / "bad" / "plan.json").exists()
    assert run_stage(workspace, kind) == NUM_FEATURES, "nothing is made again"


@pytest.mark.parametrize("kind", ["parquet", "tfrecord"])
def test_repair_plan_edited_by_hand_is_as_it_was(kind, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    plan = first(workspace, pattern).with_name("plan.json")
    edit(plan, lambda value: value["details"].update(classes=["x", "y"]), is_sealed=False)
    summary = verified(workspace, "--repair", features=features, status=0)
    assert [Path(bad["file"]).name for bad in summary["bad"]] == ["plan.json"]
    assert content(workspace) == before


@pytest.mark.parametrize("kind", ["parquet", "tfrecord"])
def test_repair_damaged_plan_and_shard_both_are_found_at_once(kind, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    shard = first(workspace, pattern)
    flip_middle(shard)
    shard.with_name("plan.json").write_text("{")
    summary = verified(workspace, "--repair", features=features, status=0)
    assert [Path(bad["file"]).name for bad in summary["bad"]] == ["plan.json", shard.name]
    assert run_stage(workspace, kind) == NUM_FEATURES - 1, "that shard alone is made again"
    assert content(workspace) == before


@pytest.mark.parametrize("kind", ["parquet", "tfrecord"])
def test_repair_damaged_plan_without_a_manifest_lets_its_cache_be_made_again(kind, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    plan = first(workspace, pattern).with_name("plan.json")
    plan.write_bytes(plan.read_bytes()[:-20])
    plan.with_name("manifest.json").unlink()
    verified(workspace, "--repair", features=features, status=0)
    assert run_stage(workspace, kind) == NUM_FEATURES / 2, "the other node's"
    assert content(workspace) == before


@pytest.mark.parametrize("kind", PATTERNS)
def test_repair_plan_missing_is_written_again_from_the_manifest(kind, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    plan = first(workspace, pattern).with_name("plan.json")
    plan.unlink()
    summary = verified(workspace, "--repair", features=features, status=0)
    assert [Path(bad["file"]).name for bad in summary["bad"]] == ["plan.json"]
    assert content(workspace) == before
    assert verified(workspace, features=features, status=0)["num_bad"] == 0


def test_repair_plan_missing_without_a_manifest_is_named(workspace):
    front = workspace / "features" / "front"
    for name in ("plan.json", "manifest.json"):
        (front / name).unlink()
    summary = verified(workspace, status=1)
    assert [Path(bad["file"]) for bad in summary["bad"]] == [Path("features/front/plan.json")]
    run_stage(workspace, "parquet")
    assert verified(workspace, status=0)["num_bad"] == 0


@pytest.mark.parametrize("kind", ["parquet", "tfrecord"])
def test_repair_plan_of_another_cache_is_written_again(kind, workspace):
    _, features = PATTERNS[kind]
    before = content(workspace)
    front, pool = (workspace / features / node / "plan.json" for node in ("front", "pool"))
    front.write_bytes(pool.read_bytes())
    summary = verified(workspace, "--repair", features=features, status=0)
    assert [Path(bad["file"]).parts[-2:] for bad in summary["bad"]] == [("front", "plan.json")]
    assert content(workspace) == before


def test_repair_manifest_of_another_cache_is_made_again(workspace):
    before = content(workspace)
    front, pool = (workspace / "features" / node / "manifest.json" for node in ("front", "pool"))
    front.write_bytes(pool.read_bytes())
    summary = verified(workspace, "--repair", status=0)
    assert [Path(bad["file"]).parts[-2:] for bad in summary["bad"]] == [("front", "manifest.json")]
    assert run_stage(workspace, "parquet") == NUM_FEATURES
    assert content(workspace) == before


@pytest.mark.parametrize("kind", PATTERNS)
def test_repair_receipts_lost_are_written_again_from_the_manifest(kind, workspace):
    pattern, features = PATTERNS[kind]
    before = content(workspace)
    shutil.rmtree(receipt_of(first(workspace, pattern)).parent)
    verified(workspace, "--repair", features=features, status=0)
    assert content(workspace) == before


def test_repair_receipt_lost_of_a_damaged_shard_lets_it_be_made_again(workspace):
    before = content(workspace)
    shard = first(workspace, PATTERNS["parquet"][0])
    flip_middle(shard)
    receipt_of(shard).unlink()
    verified(workspace, "--repair", status=0)
    assert not shard.exists() and not receipt_of(shard).exists()
    assert run_stage(workspace, "parquet") == NUM_FEATURES - 1
    assert content(workspace) == before


def test_repair_receipts_lost_of_an_unfinished_cache_lets_it_go_on(workspace):
    before = content(workspace)
    front = workspace / "features" / "front"
    shutil.rmtree(front / "receipts")
    (front / "manifest.json").unlink()
    assert run_stage(workspace, "parquet") == NUM_FEATURES / 2
    assert content(workspace) == before


def test_repair_damaged_cut_check_is_made_again(workspace):
    before = content(workspace)
    check = workspace / "features" / "front" / "cut-check.json"
    edit(check, lambda value: value.update(max_difference=0), is_sealed=False)
    summary = verified(workspace, "--repair", status=0)
    assert [Path(bad["file"]).name for bad in summary["bad"]] == ["cut-check.json"]
    assert run_stage(workspace, "parquet") == NUM_FEATURES
    assert content(workspace) == before
