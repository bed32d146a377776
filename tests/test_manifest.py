"""Plans, receipts and manifests: what counts as done, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from editing import edit, replace

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import plan as plan_module
from pipelines.storage.fingerprint import digest
from pipelines.storage.manifest import ForeignError, ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task

TASKS = (
    Task("train-00000-of-00002.parquet", "train", 0, 5),
    Task("train-00001-of-00002.parquet", "train", 5, 10),
    Task("val-00000-of-00001.parquet", "val", 0, 3),
)
PLAN = Plan("variants", 1, {"codec": {"name": "jpeg", "qualities": [10, 20]}}, {"n": 1}, TASKS)
COMMAND = "bottleneck compress"


def make_receipt(task: Task) -> Receipt:
    bad = (("a.png", "not an image"),)
    return Receipt(task.shard, len(task), 100 + len(task), "0f" * 32, bad, {"nnz": 7})


def make_set(folder: Path, *, is_finished: bool = True) -> ShardFolder:
    """Write a set whose shards have the right size and no meaning."""
    shard_folder = ShardFolder(folder)
    shard_folder.publish(PLAN)
    receipts = {}
    for task in TASKS:
        receipt = make_receipt(task)
        (folder / task.shard).write_bytes(bytes(receipt.size_bytes))
        shard_folder.commit(PLAN, receipt)
        receipts[task.shard] = receipt
    if is_finished:
        shard_folder.finish(PLAN, receipts)
    return shard_folder


def test_read_plan_published_is_the_same_plan(tmp_path):
    folder = ShardFolder(tmp_path / "set")
    assert folder.read_plan("variants", 1) is None
    folder.publish(PLAN)
    assert folder.read_plan("variants", 1) == PLAN


def test_read_plan_newer_format_says_to_update(tmp_path):
    folder = make_set(tmp_path)
    edit(tmp_path / "plan.json", lambda plan: plan.update(format_version=2))
    with pytest.raises(ManifestError, match=r"format version 2, this program reads up to 1; upd"):
        folder.read_plan("variants", 1)


def test_read_plan_older_format_is_read(tmp_path):
    assert make_set(tmp_path).read_plan("variants", 2) == PLAN


def test_read_plan_other_kind_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match=r"plan\.json: no plan of features"):
        make_set(tmp_path).read_plan("features", 1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "damaged: expected a JSON object"),
        ("null", "damaged: expected a JSON object"),
        ('"variants"', "damaged: expected a JSON object"),
        ("{}", "no plan of variants"),
    ],
)
def test_read_plan_other_json_is_an_error(tmp_path, content, why):
    (tmp_path / "plan.json").write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=rf"plan\.json: {why}"):
        ShardFolder(tmp_path).read_plan("variants", 1)


def test_read_plan_missing_beside_a_manifest_is_an_error(tmp_path):
    folder = make_set(tmp_path)
    (tmp_path / "plan.json").unlink()
    message = r"plan\.json: is missing, though manifest\.json is there; run `bottleneck verify"
    with pytest.raises(ManifestError, match=message):
        folder.read_plan("variants", 1)


@pytest.mark.parametrize("change", [{"kind": "features"}, {"format_version": 9}])
def test_read_plan_with_a_flipped_bit_is_damaged_and_not_foreign(tmp_path, change):
    folder = make_set(tmp_path)
    edit(tmp_path / "plan.json", lambda plan: plan.update(change), is_sealed=False)
    with pytest.raises(ManifestError, match=r"plan\.json: damaged: its plan_sha256") as caught:
        folder.read_plan("variants", 1)
    assert not isinstance(caught.value, ForeignError)


@pytest.mark.parametrize("key", ["format_version", "fingerprint", "details", "shards"])
def test_read_plan_key_missing_is_damaged(tmp_path, key):
    folder = make_set(tmp_path)
    edit(tmp_path / "plan.json", lambda plan: plan.pop(key))
    with pytest.raises(ManifestError, match=rf"plan\.json: damaged: .*{key}"):
        folder.read_plan("variants", 1)


def test_read_plan_cut_short_names_the_file(tmp_path):
    folder = make_set(tmp_path)
    path = tmp_path / "plan.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ManifestError, match=r"plan\.json: cannot be read"):
        folder.read_plan("variants", 1)


def test_receipts_whole_shards_hold(tmp_path):
    folder = make_set(tmp_path, is_finished=False)
    assert folder.receipts(PLAN) == {task.shard: make_receipt(task) for task in TASKS}


def test_receipts_of_many_shards_hash_their_plan_once(tmp_path, monkeypatch):
    folder, hashed = make_set(tmp_path), []
    plan = folder.read_plan("variants", 1)
    monkeypatch.setattr(plan_module, "digest", lambda value: hashed.append(value) or digest(value))
    assert len(folder.receipts(plan)) == len(TASKS)
    assert hashed == [plan.to_json()]


def test_receipts_shard_missing_does_not_hold(tmp_path):
    folder = make_set(tmp_path)
    (tmp_path / TASKS[1].shard).unlink()
    assert list(folder.receipts(PLAN)) == [TASKS[0].shard, TASKS[2].shard]


@pytest.mark.parametrize("change", [-1, 1])
def test_receipts_shard_resized_does_not_hold(tmp_path, change):
    folder = make_set(tmp_path)
    path = tmp_path / TASKS[0].shard
    path.write_bytes(bytes(path.stat().st_size + change))
    assert list(folder.receipts(PLAN)) == [TASKS[1].shard, TASKS[2].shard]


@pytest.mark.parametrize("change", [{"tasks": TASKS[2:]}, {"fingerprint": {"codec": "other"}}])
def test_receipts_of_another_plan_do_not_hold(tmp_path, change):
    folder = make_set(tmp_path)
    assert folder.receipts(dataclasses.replace(PLAN, **change)) == {}
    assert len(folder.receipts(PLAN)) == 3


def test_receipts_of_another_shard_do_not_hold(tmp_path):
    folder = make_set(tmp_path)
    one, other = (tmp_path / "receipts" / f"{task.shard}.json" for task in TASKS[:2])
    other.write_bytes(one.read_bytes())
    (tmp_path / TASKS[1].shard).write_bytes((tmp_path / TASKS[0].shard).read_bytes())
    assert list(folder.receipts(PLAN)) == [TASKS[0].shard, TASKS[2].shard]


def test_commit_makes_the_folder_of_receipts_again(tmp_path):
    folder = make_set(tmp_path)
    shutil.rmtree(tmp_path / "receipts")
    folder.commit(PLAN, make_receipt(TASKS[0]))
    assert list(folder.receipts(PLAN)) == [TASKS[0].shard]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"quarantined": 3}', '{"quarantined":[]}']
)
def test_receipts_damaged_receipt_does_not_hold(tmp_path, content):
    folder = make_set(tmp_path)
    path = tmp_path / "receipts" / f"{TASKS[0].shard}.json"
    path.write_text(content, encoding="utf-8")
    assert list(folder.receipts(PLAN)) == [TASKS[1].shard, TASKS[2].shard]


@pytest.mark.parametrize("key", ["size_bytes", "num_rows", "sha256", "stats"])
def test_receipts_edited_by_hand_do_not_hold(tmp_path, key):
    folder = make_set(tmp_path)
    path = tmp_path / "receipts" / f"{TASKS[0].shard}.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    other = {"size_bytes": 106, "num_rows": 4, "sha256": "00" * 32, "stats": {"nnz": 8}}[key]
    assert value[key] != other
    edit(path, lambda receipt: receipt.update({key: other}))
    if key == "size_bytes":
        (tmp_path / TASKS[0].shard).write_bytes(bytes(other))
    assert list(folder.receipts(PLAN)) == [TASKS[1].shard, TASKS[2].shard]


def test_receipts_of_the_first_release_hold_without_a_checksum(tmp_path):
    folder = make_set(tmp_path)
    path = tmp_path / "receipts" / f"{TASKS[0].shard}.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    del value["receipt_sha256"]
    path.write_text(json.dumps(value), encoding="utf-8")
    assert folder.receipts(PLAN)[TASKS[0].shard] == make_receipt(TASKS[0])


@pytest.mark.parametrize("footer_sha256", [None, "ab" * 32])
def test_receipts_footers_hash_is_kept_where_there_is_one(tmp_path, footer_sha256):
    folder = make_set(tmp_path)
    receipt = dataclasses.replace(make_receipt(TASKS[0]), footer_sha256=footer_sha256)
    folder.commit(PLAN, receipt)
    assert folder.receipts(PLAN)[TASKS[0].shard] == receipt
    value = json.loads((tmp_path / "receipts" / f"{TASKS[0].shard}.json").read_text())
    assert ("footer_sha256" in value) == (footer_sha256 is not None)


def test_receipts_are_the_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        make_set(tmp_path / name)
    found = [(tmp_path / n / "receipts" / f"{TASKS[0].shard}.json").read_bytes() for n in "ab"]
    assert found[0] == found[1]


def test_identity_of_a_plan_read_back_is_the_same(tmp_path):
    folder = make_set(tmp_path)
    assert folder.read_plan("variants", 1).identity == PLAN.identity
    assert len(PLAN.identity) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "features"},
        {"format_version": 2},
        {"fingerprint": {"codec": {"name": "jpeg", "qualities": [10, 30]}}},
        {"details": {"n": 2}},
        {"tasks": TASKS[:2]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_identity_of_another_plan_is_another(change):
    assert dataclasses.replace(PLAN, **change).identity != PLAN.identity


@pytest.mark.parametrize("shard", ["../a.parquet", "/etc/passwd", "b/a.parquet"])
def test_read_plan_shard_in_another_folder_is_damaged(tmp_path, shard):
    folder = make_set(tmp_path)
    replace(tmp_path / "plan.json", TASKS[0].shard, shard)
    with pytest.raises(ManifestError, match=r"plan\.json: damaged: .*lies in another folder"):
        folder.read_plan("variants", 1)


@pytest.mark.parametrize("name", ["plan", "manifest"])
def test_read_manifest_after_an_edit_by_hand_names_the_file(tmp_path, name):
    folder = make_set(tmp_path)
    change = {"details": {"n": 2}}
    edit(tmp_path / f"{name}.json", lambda value: value.update(change), is_sealed=False)
    with pytest.raises(ManifestError, match=rf"{name}\.json: damaged: .*its {name}_sha256 is not"):
        folder.read_manifest("variants", 1, COMMAND)


def test_restore_writes_the_plan_and_leaves_the_rest(tmp_path):
    folder = make_set(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "plan.json").write_text("{}")
    folder.restore(PLAN)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_read_manifest_of_another_plan_is_an_error(tmp_path):
    folder = make_set(tmp_path)
    edit(tmp_path / "plan.json", lambda plan: plan.update(details={"n": 2}))
    with pytest.raises(ManifestError, match=r"manifest\.json: holds another plan than plan\.json"):
        folder.read_manifest("variants", 1, COMMAND)


def test_read_manifest_whole_set_gives_plan_and_receipts(tmp_path):
    plan, receipts = make_set(tmp_path).read_manifest("variants", 1, COMMAND)
    assert plan == PLAN
    assert receipts == [make_receipt(task) for task in TASKS]


def test_read_manifest_nothing_there_names_the_command(tmp_path):
    with pytest.raises(ManifestError, match="nothing here yet; run `bottleneck compress` first"):
        ShardFolder(tmp_path / "missing").read_manifest("variants", 1, COMMAND)


def test_read_manifest_not_finished_names_the_command(tmp_path):
    folder = make_set(tmp_path, is_finished=False)
    with pytest.raises(ManifestError, match="not finished; run `bottleneck compress` again"):
        folder.read_manifest("variants", 1, COMMAND)


def test_read_manifest_shard_missing_is_an_error(tmp_path):
    folder = make_set(tmp_path)
    (tmp_path / TASKS[2].shard).unlink()
    with pytest.raises(ShardError, match=r"val-00000\S+: missing, its receipt says 103 bytes"):
        folder.read_manifest("variants", 1, COMMAND)


def test_read_manifest_shard_cut_short_is_an_error(tmp_path):
    folder = make_set(tmp_path)
    (tmp_path / TASKS[1].shard).write_bytes(bytes(50))
    with pytest.raises(ShardError, match=r"train-00001\S+: 50 bytes, its receipt says 105 bytes"):
        folder.read_manifest("variants", 1, COMMAND)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "3", '{"shards": 3}', '{"shards": [3]}', '{"shards": [{}]}']
)
def test_read_manifest_damaged_is_an_error(tmp_path, content):
    folder = make_set(tmp_path)
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"manifest\.json: damaged.*delete it and run the"):
        folder.read_manifest("variants", 1, COMMAND)


def test_finish_same_receipts_give_the_same_bytes(tmp_path):
    first, second = make_set(tmp_path / "a"), make_set(tmp_path / "b")
    receipts = {task.shard: make_receipt(task) for task in reversed(TASKS)}
    second.finish(PLAN, receipts)
    written = [(folder.path / "manifest.json").read_bytes() for folder in (first, second)]
    assert written[0] == written[1]


def test_sweep_leftovers_beside_shards_and_receipts_are_removed(tmp_path):
    folder = make_set(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / ".train.parquet.1-a.tmp").write_bytes(b"x")
    (tmp_path / "receipts" / ".train.parquet.json.1-b.tmp").write_bytes(b"x")
    folder.sweep()
    assert sorted(tmp_path.rglob("*")) == before


def test_clear_leaves_the_lock_and_what_is_not_its_own(tmp_path):
    folder = make_set(tmp_path)
    (tmp_path / ".lock").write_bytes(b"")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "notes.txt").write_bytes(b"mine")
    folder.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "notes.txt", "thesis"]


def test_publish_again_leaves_no_manifest_of_the_plan_before(tmp_path):
    folder = make_set(tmp_path)
    plan = folder.read_plan("variants", 1)
    assert (tmp_path / "manifest.json").exists()
    folder.publish(plan)
    assert not (tmp_path / "manifest.json").exists()
    assert not folder.receipts(plan)
