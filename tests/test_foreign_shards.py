"""Shards that are missing, too many, exchanged, copied over others, or from another cache."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from editing import footer_sha256, vouch_for
from extracting import Content, Extract, MadeUp, fill, read_all

from pipelines import verify
from pipelines.errors import ShardError
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.storage.formats import FORMATS
from pipelines.storage.manifest import ShardFolder


@pytest.fixture(params=FORMATS)
def extract(request: pytest.FixtureRequest) -> Extract:
    """Two shards of train hold the same maps, and files of the same size, under other names."""
    rows = {"train": 6, "val": 2}
    return Extract(request.param, "float32", "dense", rows=rows, period=3)


@pytest.fixture
def folder(extract: Extract, tmp_path: Path) -> Path:
    """A cache of such shards."""
    fill(tmp_path / "features", extract)
    return tmp_path / "features" / "front"


@pytest.fixture
def twins(folder: Path) -> tuple[Path, Path]:
    """Return the two shards of one size."""
    first, second = sorted(folder.glob("train-*"))
    assert first.stat().st_size == second.stat().st_size
    assert first.read_bytes() != second.read_bytes()
    return first, second


def exchange(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def bend_receipts(*shards: Path) -> None:
    """Let receipts and manifest say all that can be said for these files where they lie."""
    for shard in shards:
        is_parquet = shard.suffix == ".parquet"
        claims = {"footer_sha256": footer_sha256(shard.read_bytes())} if is_parquet else {}
        vouch_for(shard, **claims)


def place_of(shard: Path) -> str:
    """Return what a shard must say of itself: plan and name."""
    plan = ShardFolder(shard.parent).read_plan("features", 2)
    return f"{plan.identity}/{shard.name}"


def bad_files(folder: Path, deep: bool = False) -> list[tuple[str, str]]:
    """Let verify name the bad files of a cache, with its reasons."""
    summary = verify.run(folder.parent, folder.parent, deep, False, Silent())
    assert summary["num_bad"] == len(summary["bad"])
    return [(bad["file"].removeprefix("front/"), bad["reason"]) for bad in summary["bad"]]


def test_cache_shard_missing_says_so_when_opened(folder, twins):
    twins[1].unlink()
    with pytest.raises(ShardError, match=rf"{twins[1]}: missing, its receipt says \d+ bytes; run"):
        FeatureCache(folder)
    assert bad_files(folder) == [(twins[1].name, "is missing")]


def test_cache_shard_too_many_is_not_read_but_verify_names_it(folder, twins):
    expected = read_all(folder)
    extra = twins[0].with_name(twins[0].name.replace("train-00000", "train-00002"))
    shutil.copy(twins[0], extra)
    assert read_all(folder) == expected
    assert bad_files(folder) == [(extra.name, "is no shard of the plan")]


def test_cache_receipt_too_many_is_named_by_verify(folder, twins):
    receipt = folder / "receipts" / f"{twins[0].name}.json"
    shutil.copy(receipt, receipt.with_name("train-00007-of-00008.parquet.json"))
    reason = "is the receipt of no shard of the plan"
    expected = [("receipts/train-00007-of-00008.parquet.json", reason)]
    assert bad_files(folder) == expected


def test_read_shards_exchanged_names_one_of_them(folder, twins):
    exchange(*twins)
    with pytest.raises(ShardError) as raised:
        read_all(folder)
    assert str(raised.value).startswith(f"{twins[0]}: ")
    reason = "its SHA-256 is not its receipt's"
    assert bad_files(folder) == [(shard.name, reason) for shard in twins]


def test_read_shards_exchanged_receipts_bent_says_what_they_are(folder, twins):
    exchange(*twins)
    bend_receipts(*twins)
    with pytest.raises(ShardError) as raised:
        read_all(folder)
    first, second = place_of(twins[0]), place_of(twins[1])
    assert str(raised.value).startswith(f"{twins[0]}: ")
    assert second in str(raised.value) and f"expected {first}" in str(raised.value)
    assert bad_files(folder) == []
    assert [name for name, _ in bad_files(folder, deep=True)] == [twin.name for twin in twins]


def test_read_shard_copied_over_another_receipts_bent_says_what_it_is(folder, twins):
    shutil.copy(twins[0], twins[1])
    bend_receipts(twins[1])
    with pytest.raises(ShardError) as raised:
        read_all(folder)
    assert str(raised.value).startswith(f"{twins[1]}: ")
    assert place_of(twins[0]) in str(raised.value)
    assert [name for name, _ in bad_files(folder, deep=True)] == [twins[1].name]


def test_read_shard_of_other_images_receipts_bent_says_what_it_is(folder, twins, extract, tmp_path):
    fill(tmp_path / "other", dataclasses.replace(extract, seed=3))
    other = tmp_path / "other" / "front" / twins[0].name
    shutil.copy(other, twins[0])
    bend_receipts(twins[0])
    with pytest.raises(ShardError) as raised:
        read_all(folder)
    assert str(raised.value).startswith(f"{twins[0]}: ")
    assert place_of(other) in str(raised.value)


def test_shard_and_receipt_of_another_cache_are_no_shard_of_this_one(
    folder, twins, extract, tmp_path
):
    fill(tmp_path / "other", dataclasses.replace(extract, seed=3))
    before = read_all(folder)
    for name in (twins[0].name, f"receipts/{twins[0].name}.json"):
        shutil.copy(tmp_path / "other" / "front" / name, folder / name)
    (folder / "manifest.json").unlink()
    (found,) = bad_files(folder)
    assert found[0] == f"receipts/{twins[0].name}.json"
    done = fill(folder.parent, extract)
    assert done.num_resumed_shards == sum(len(o.plan.tasks) for o in done.outputs) - 1
    assert read_all(folder) == before


def test_read_shard_of_a_cache_that_differs_in_settings_alone_says_what_it_is(
    folder, twins, extract, tmp_path
):
    fill(tmp_path / "other", dataclasses.replace(extract, batch_size=3))
    other = tmp_path / "other" / "front" / twins[0].name
    assert other.stat().st_size == twins[0].stat().st_size
    assert read_all(other.parent) == read_all(folder), "the same maps under the same names"
    shutil.copy(other, twins[0])
    bend_receipts(twins[0])
    with pytest.raises(ShardError) as raised:
        read_all(folder)
    assert str(raised.value).startswith(f"{twins[0]}: ")
    assert place_of(other) in str(raised.value)


def test_verify_deep_image_twice_in_a_cache_names_both_its_shards(extract, tmp_path, monkeypatch):
    real = MadeUp.inputs

    def one_name_twice(self, *arguments):
        for inputs in real(self, *arguments):
            ids = ["train/000" if name == "train/004" else name for name in inputs.ids]
            yield dataclasses.replace(inputs, ids=ids)

    monkeypatch.setattr(MadeUp, "inputs", one_name_twice)
    fill(tmp_path / "features", extract)
    shutil.rmtree(tmp_path / "features" / "pool")
    folder = tmp_path / "features" / "front"
    first, second = (path.name for path in sorted(folder.glob("train-*")))
    assert bad_files(folder) == []
    ((name, reason),) = bad_files(folder, deep=True)
    other = first if name == second else second  # two threads read them
    assert {name, other} == {first, second}
    assert reason == f"image train/000 stands in {other} too"


def test_content_other_maps_are_not_equal(folder):
    content = read_all(folder)
    changed = Content(content.maps + 1, content.labels, content.ids)
    assert content == read_all(folder) != changed
