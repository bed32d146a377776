"""Verify: which files it names and why, what it passes over, what it answers with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import invoke
from editing import edit, receipt_of, vouch_for
from processes import modules_loaded_by
from verifying import (
    NUM_FEATURES,
    NUM_VARIANTS,
    PATTERNS,
    VARIANTS,
    content,
    first,
    flip_middle,
    verified,
)

from pipelines.storage import locks

HASH = "its SHA-256 is not its receipt's"


@pytest.fixture
def workspace(stored: Path) -> Path:
    return stored


@pytest.fixture(params=PATTERNS)
def found_by(request: pytest.FixtureRequest) -> tuple[str, str]:
    return PATTERNS[request.param]


@pytest.mark.parametrize("features", ["", "tf"])
@pytest.mark.parametrize("flags", [(), ("--deep",)])
def test_verify_whole_workspace_answers_with_every_shard_and_no_bad_file(
    stored_once, flags, features
):
    before = content(stored_once)
    summary = verified(stored_once, *flags, features=features, status=0)
    assert list(summary) == ["stage", "num_shards", "num_bad", "bad", "num_moved", "seconds"]
    assert summary["stage"] == "verify"
    assert summary["num_shards"] == NUM_VARIANTS + NUM_FEATURES
    assert (summary["num_bad"], summary["bad"], summary["num_moved"]) == (0, [], 0)
    assert content(stored_once) == before, "verify writes nothing"


def test_verify_whole_workspace_says_so_in_one_line(stored_once):
    result = invoke("verify", "-C", stored_once)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"verify: {NUM_VARIANTS + NUM_FEATURES} shards, all whole, ")


@pytest.mark.parametrize("deep", [(), ("--deep",)])
def test_verify_bit_flipped_names_the_file_and_exits_1(workspace, found_by, deep):
    pattern, features = found_by
    shard = first(workspace, pattern)
    flip_middle(shard)
    summary = verified(workspace, *deep, features=features, status=1)
    name = shard.relative_to(workspace).as_posix()
    assert summary["bad"] == [{"file": name, "reason": HASH}]
    assert (summary["num_bad"], summary["num_moved"]) == (1, 0)
    assert summary["num_shards"] == NUM_VARIANTS + NUM_FEATURES


def test_verify_bad_files_are_named_line_by_line(workspace):
    shards = [
        first(workspace, pattern) for pattern in (PATTERNS["variants"][0], PATTERNS["parquet"][0])
    ]
    for shard in shards:
        flip_middle(shard)
    result = invoke("verify", "-C", workspace)
    *named, summary = result.stdout.splitlines()
    assert named == [f"{shard.relative_to(workspace)}: {HASH}" for shard in shards]
    num_shards = NUM_VARIANTS + NUM_FEATURES
    assert summary.startswith(f"verify: {num_shards} shards, 2 bad files (see --repair), ")
    assert result.exit_code == 1


@pytest.mark.parametrize("change", ["empty", "shorter", "longer"])
def test_verify_other_size_says_both_sizes(workspace, found_by, change):
    pattern, features = found_by
    shard = first(workspace, pattern)
    data = shard.read_bytes()
    shard.write_bytes({"empty": b"", "shorter": data[:-1], "longer": data + b"\0"}[change])
    (bad,) = verified(workspace, features=features, status=1)["bad"]
    assert bad["reason"] == f"{shard.stat().st_size} bytes, its receipt says {len(data)}"


def test_verify_shard_missing_is_named(workspace, found_by):
    pattern, features = found_by
    shard = first(workspace, pattern)
    shard.unlink()
    (bad,) = verified(workspace, features=features, status=1)["bad"]
    assert bad == {"file": shard.relative_to(workspace).as_posix(), "reason": "is missing"}


def test_verify_folder_in_a_shards_place_is_named(workspace, found_by):
    pattern, features = found_by
    shard = first(workspace, pattern)
    shard.unlink()
    shard.mkdir()
    (bad,) = verified(workspace, features=features, status=1)["bad"]
    assert bad == {"file": shard.relative_to(workspace).as_posix(), "reason": "is missing"}


def test_verify_receipt_missing_is_named(workspace, found_by):
    pattern, features = found_by
    receipt = receipt_of(first(workspace, pattern))
    receipt.unlink()
    (bad,) = verified(workspace, features=features, status=1)["bad"]
    assert bad == {
        "file": receipt.relative_to(workspace).as_posix(),
        "reason": "is missing, though the manifest lists its shard",
    }


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_verify_damaged_json_is_named(workspace, found_by, name):
    pattern, features = found_by
    path = first(workspace, pattern).with_name(name)
    path.write_bytes(path.read_bytes()[:-9])
    (bad,) = verified(workspace, features=features, status=1)["bad"]
    assert bad["file"] == path.relative_to(workspace).as_posix()
    assert bad["reason"].startswith("cannot be read: ")


def test_verify_manifest_that_contradicts_a_receipt_is_named(workspace, found_by):
    pattern, features = found_by
    shard = first(workspace, pattern)
    manifest = shard.with_name("manifest.json")
    edit(manifest, lambda value: value["shards"][0].update(sha256="0" * 64))
    (bad,) = verified(workspace, features=features, status=1)["bad"]
    assert bad["file"] == manifest.relative_to(workspace).as_posix()
    assert bad["reason"] == f"says something else of {shard.name} than its receipt"


def test_verify_unfinished_cache_looks_at_what_is_made(workspace):
    folder = workspace / "features" / "front"
    (folder / "manifest.json").unlink()
    missing = first(folder, "val-*")
    missing.unlink()
    receipt_of(missing).unlink()
    (folder / f".{missing.name}.77-0a0b0c0d.tmp").write_bytes(b"half")
    assert verified(workspace, status=0)["num_shards"] == NUM_VARIANTS + NUM_FEATURES - 1
    shard = first(folder, "train-*")
    flip_middle(shard)
    (bad,) = verified(workspace, status=1)["bad"]
    assert bad == {"file": shard.relative_to(workspace).as_posix(), "reason": HASH}


def test_verify_empty_workspace_has_nothing_to_look_at(tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    summary = verified(tmp_path, "--deep", "--repair", status=0)
    assert (summary["num_shards"], summary["num_bad"]) == (0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["bottleneck.toml"]


def test_verify_beside_a_running_extract_looks_at_what_is_there(workspace):
    with locks.hold(workspace / "features" / "front"):
        assert verified(workspace, status=0)["num_shards"] == NUM_VARIANTS + NUM_FEATURES


def test_verify_loads_no_tensorflow(workspace):
    output, modules = modules_loaded_by(workspace, "verify", "--deep")
    assert "all whole" in output
    assert not {"tensorflow", "keras"} & modules


@pytest.mark.parametrize(
    ("column", "reason"),
    [("original", "{id} is not the original"), ("q050", "{id}: damaged JPEG: ")],
)
def test_verify_deep_image_replaced_receipts_bent_names_it(workspace, column, reason):
    shard = first(workspace, f"{VARIANTS}/train-*")
    table = pq.read_table(shard)
    replaced = pa.array([b"no image"] + table[column].to_pylist()[1:], pa.binary())
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, column, replaced), shard)
    vouch_for(shard)
    assert verified(workspace, status=0)["bad"] == []
    (bad,) = verified(workspace, "--deep", status=1)["bad"]
    assert bad["file"] == shard.relative_to(workspace).as_posix()
    assert bad["reason"].startswith(reason.format(id=table["id"][0].as_py()))


def test_verify_deep_map_damaged_receipts_bent_names_the_shard(workspace, found_by):
    pattern, features = found_by
    shard = first(workspace, pattern)
    flip_middle(shard)
    vouch_for(shard)
    assert verified(workspace, features=features, status=0)["bad"] == []
    (bad,) = verified(workspace, "--deep", features=features, status=1)["bad"]
    assert bad["file"] == shard.relative_to(workspace).as_posix()


def test_verify_receipts_of_the_first_release_have_no_checksum_and_hold(workspace):
    shard = first(workspace, f"{VARIANTS}/train-*")
    edit(receipt_of(shard), lambda value: value.pop("receipt_sha256"))
    assert verified(workspace, status=0)["num_bad"] == 0


def test_verify_folder_without_caches_says_so(workspace):
    result = invoke("verify", "--features-dir", workspace / "feature", "-C", workspace)
    assert f"{workspace}/feature: no caches here\n" in result.stderr
    assert result.exit_code == 0
