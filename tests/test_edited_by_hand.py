"""Receipts, manifests and plans edited by hand: said so, or without effect on what is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from editing import edit, receipt_of
from extracting import Content, Extract, files, fill, read_all

from pipelines import verify
from pipelines.errors import ManifestError, PipelineError
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.storage.fingerprint import digest
from pipelines.storage.formats import FORMATS
from pipelines.storage.plan import Plan, Receipt, Task

RECEIPT_KEYS = [*Receipt.__dataclass_fields__, "receipt_sha256"]
SHARD_KEYS = [*Task.__dataclass_fields__, *Receipt.__dataclass_fields__]
PLAN_KEYS = ["kind", "format_version", "fingerprint", "details", "shards"]


@pytest.fixture(params=FORMATS)
def extract(request: pytest.FixtureRequest) -> Extract:
    return Extract(request.param)


@pytest.fixture
def folder(extract: Extract, tmp_path: Path) -> Path:
    fill(tmp_path / "features", extract)
    return tmp_path / "features" / "front"


@pytest.fixture
def shard(folder: Path) -> Path:
    return min(folder.glob("train-*"))


def changed(value: object) -> object:
    """Return something else of the same kind."""
    if isinstance(value, dict):
        key = min(value)
        return {**value, key: changed(value[key])}
    if isinstance(value, list):
        return [*value, ["x.png", "edited"]]
    return f"x{value}" if isinstance(value, str) else (value or 0) + 1


def bad_files(folder: Path) -> list[str]:
    summary = verify.run(folder.parent, folder.parent, False, False, Silent())
    return [bad["file"].removeprefix("front/") for bad in summary["bad"]]


def what_is_said(folder: Path, expected: Content) -> str:
    """Read a cache; returns the error, or "" where it gives just what it did."""
    try:
        assert read_all(folder) == expected
    except PipelineError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", RECEIPT_KEYS)
def test_receipt_field_edited_is_named_by_verify_and_made_again(extract, folder, shard, key):
    before = files(folder)
    edit(receipt_of(shard), lambda value: value.update({key: changed(value.get(key))}))
    assert bad_files(folder) == [f"receipts/{shard.name}.json"]
    done = fill(folder.parent, extract)
    assert done.num_resumed_shards == 5
    assert files(folder) == before


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"shard": 3}', "\x00" * 300])
def test_receipt_other_content_is_named_by_verify_and_made_again(extract, folder, shard, content):
    before = files(folder)
    receipt_of(shard).write_text(content)
    assert bad_files(folder) == [f"receipts/{shard.name}.json"]
    fill(folder.parent, extract)
    assert files(folder) == before


@pytest.mark.parametrize("key", SHARD_KEYS)
def test_manifest_field_of_a_shard_edited_is_named_by_verify(folder, shard, key):
    expected = read_all(folder)
    edit(
        folder / "manifest.json",
        lambda v: v["shards"][0].update({key: changed(v["shards"][0].get(key))}),
    )
    assert bad_files(folder) == ["manifest.json"]
    said = what_is_said(folder, expected)
    assert said.startswith(str(folder)) or key in (
        "sha256",
        "quarantined",
        "stats",
        "footer_sha256",
    )


@pytest.mark.parametrize("key", SHARD_KEYS)
def test_manifest_field_of_a_shard_missing_says_so_or_reads_the_same(folder, key):
    expected = read_all(folder)
    edit(folder / "manifest.json", lambda value: value["shards"][0].pop(key, None))
    said = what_is_said(folder, expected)
    assert said.startswith(str(folder)) or key in ("stats", "footer_sha256")


@pytest.mark.parametrize("stats", [{}, {"num_values": 0}, {"num_values": "many", "nnz": None}, []])
def test_manifest_stats_edited_says_so_or_reads_the_same(folder, stats):
    expected = read_all(folder)
    edit(folder / "manifest.json", lambda value: value["shards"][0].update(stats=stats))
    said = what_is_said(folder, expected)
    assert said == "" or said.startswith(str(folder))


@pytest.mark.parametrize("key", PLAN_KEYS)
def test_manifest_of_another_plan_is_an_error(folder, key):
    edit(folder / "manifest.json", lambda value: value.update({key: changed(value[key])}))
    words = f"{folder}/manifest.json: (damaged: |holds another plan than plan.json; )"
    with pytest.raises(ManifestError, match=words):
        FeatureCache(folder)
    assert bad_files(folder) == ["manifest.json"]


def test_manifest_shards_in_another_order_are_an_error(folder):
    edit(folder / "manifest.json", lambda value: value["shards"].reverse())
    with pytest.raises(ManifestError, match=r"holds another plan than plan\.json"):
        FeatureCache(folder)


@pytest.mark.parametrize("key", PLAN_KEYS)
def test_plan_edited_beside_its_manifest_is_an_error(folder, key):
    edit(folder / "plan.json", lambda value: value.update({key: changed(value[key])}))
    with pytest.raises(ManifestError, match=f"^{re.escape(str(folder))}"):
        FeatureCache(folder)
    assert bad_files(folder) != []


@pytest.mark.parametrize("key", PLAN_KEYS)
def test_plan_key_missing_is_an_error(folder, key):
    edit(folder / "plan.json", lambda value: value.pop(key))
    with pytest.raises(ManifestError, match=f"^{re.escape(str(folder))}/plan.json: "):
        FeatureCache(folder)


def test_plan_and_manifest_edited_alike_shards_say_that_they_are_of_another(folder):
    before = json.loads((folder / "plan.json").read_text("utf-8"))
    del before["plan_sha256"]
    for name in ("plan.json", "manifest.json"):
        edit(folder / name, lambda value: value["details"].update(classes=["x", "y", "z"]))
    made = Plan.from_json(before).identity
    expected = digest({**before, "details": {**before["details"], "classes": ["x", "y", "z"]}})
    with pytest.raises(PipelineError, match=f"{made}/.*, expected {expected[:16]}/"):
        read_all(folder)


@pytest.mark.parametrize("key", ["dtype", "node", "rows"])
def test_plan_fingerprint_edited_on_an_unfinished_cache_names_the_difference(extract, folder, key):
    (folder / "manifest.json").unlink()
    edit(
        folder / "plan.json",
        lambda value: value["fingerprint"].update({key: changed(value["fingerprint"][key])}),
    )
    with pytest.raises(ManifestError, match=rf"{folder}: made with {key}.*, now .*--overwrite"):
        fill(folder.parent, extract)


def test_cache_of_a_newer_format_says_to_update(extract, folder):
    for name in ("plan.json", "manifest.json"):
        edit(folder / name, lambda value: value.update(format_version=3))
    words = f"{folder}/plan.json: format version 3, this program reads up to 2; update it"
    with pytest.raises(ManifestError, match=re.escape(words)):
        FeatureCache(folder)
    with pytest.raises(ManifestError, match=re.escape(words)):
        fill(folder.parent, extract)


def test_verify_repair_leaves_a_cache_of_a_newer_format_as_it_is(folder):
    for name in ("plan.json", "manifest.json"):
        edit(folder / name, lambda value: value.update(format_version=3))
    before = files(folder)
    summary = verify.run(folder.parent, folder.parent, False, True, Silent())
    assert [bad["reason"] for bad in summary["bad"]] == [
        "format version 3, this program reads up to 2"
    ]
    assert (summary["num_bad"], summary["num_moved"]) == (1, 0)
    assert files(folder) == before


def test_verify_repair_leaves_a_folder_of_another_kind_as_it_is(folder):
    edit(folder / "plan.json", lambda value: value.update(kind="pictures"))
    before = files(folder)
    summary = verify.run(folder.parent, folder.parent, False, True, Silent())
    assert [bad["reason"] for bad in summary["bad"]] == ["no plan of features"]
    assert summary["num_moved"] == 0
    assert files(folder) == before


@pytest.mark.parametrize("name", ["../../outside.parquet", "/tmp/outside.parquet", "a/b.parquet"])
def test_plan_shard_outside_its_folder_is_an_error(extract, folder, name):
    for path in (folder / "plan.json", folder / "manifest.json"):
        edit(path, lambda value: value["shards"][0].update(shard=name))
    words = rf"{folder}/plan\.json: damaged: .*shard {re.escape(name)} lies in another folder"
    for act in (FeatureCache, lambda path: fill(path.parent, extract)):
        with pytest.raises(ManifestError, match=words):
            act(folder)
