"""Compress in shares: what one alone is, and that all end with the bytes of a single start."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from images import make_class_folders, truncated
from lockers import ELSEWHERE, write_lock
from processes import tree

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.errors import ManifestError
from pipelines.execution import inline
from pipelines.progress import Progress, Silent
from pipelines.storage.manifest import ShardFolder

NUM_IMAGES, NUM_BAD, NUM_SHARDS = 24, 2, 5
SHARD = "train-00000-of-00003.parquet"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    make_class_folders(root, num_per_class=NUM_IMAGES // 2)
    for i, path in enumerate(sorted(root.glob("*/*"))[:NUM_BAD]):
        path.write_bytes(b"" if i else truncated(path.read_bytes()))
    return root


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a single start makes of the images."""
    workspace = tmp_path_factory.mktemp("whole")
    run(workspace, images)
    return tree(workspace)


def run(
    workspace: Path,
    images: Path,
    index: int = 0,
    num: int = 1,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    made_from = {"images": str(images), "qualities": (50,), **settings}
    config = CompressConfig(
        **made_from,
        shards=NUM_SHARDS,
        max_bad_share=0.5,
        task_index=index,
        num_tasks=num,
    )
    return compress.run(workspace, config, 0, progress or Silent(), inline.open_crew)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_compress_shares_in_any_order_end_with_the_same_bytes(order, images, whole, tmp_path):
    for number, index in enumerate(order):
        summary = run(tmp_path, images, index, 3)
        assert summary["is_whole"] == (number == 2)
        assert summary["num_planned_shards"] == NUM_SHARDS
        assert (tmp_path / "variants/jpeg/manifest.json").exists() == summary["is_whole"]
    assert (summary["num_shards"], summary["num_quarantined"]) == (NUM_SHARDS, NUM_BAD)
    assert summary["num_images"] == NUM_IMAGES - NUM_BAD
    assert tree(tmp_path) == whole


def test_compress_share_alone_is_what_is_there_and_not_whole(images, tmp_path):
    summary = run(tmp_path, images, 1, 3)
    shards = list((tmp_path / "variants/jpeg").glob("*.parquet"))
    assert (len(shards), summary["num_shards"], summary["is_whole"]) == (2, 2, False)
    assert summary["size_bytes"] == sum(path.stat().st_size for path in shards)
    again = run(tmp_path, images, 1, 3)
    assert (again["num_resumed_shards"], again["is_whole"]) == (2, False)


def test_compress_shares_and_then_all_of_the_work_end_with_the_same_bytes(images, whole, tmp_path):
    run(tmp_path, images, 1, 2)
    assert run(tmp_path, images)["num_resumed_shards"] == 2
    assert tree(tmp_path) == whole


def test_compress_more_shares_than_shards_have_nothing_to_do(images, whole, tmp_path):
    found = [run(tmp_path, images, index, 7) for index in range(7)]
    assert [summary["is_whole"] for summary in found] == [False] * 4 + [True] * 3
    assert tree(tmp_path) == whole


def test_compress_share_starts_nothing_over_beside_another_one_at_work(images, tmp_path):
    run(tmp_path, images)
    write_lock(tmp_path / "variants/jpeg/.lock.1-of-2", **ELSEWHERE)
    before = tree(tmp_path)
    with pytest.raises(ManifestError, match=r"another command is at work here \(\.lock\.1-of-2: "):
        run(tmp_path, images, 0, 2, qualities=(60,), overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("lock", [".lock", ".lock.0-of-2"])
def test_compress_taken_over_leaves_what_the_other_one_is_writing(lock, images, tmp_path):
    folder = tmp_path / "variants/jpeg"
    theirs = folder / f".{SHARD}.99999-deadbeef.tmp"

    class TakenOver(Silent):
        def advance(self, count: int) -> None:
            write_lock(folder / lock, **ELSEWHERE)
            theirs.write_bytes(b"half a shard")

    with pytest.raises(ManifestError, match="was taken over by"):
        run(tmp_path, images, 0, 1 + lock.endswith("2"), progress=TakenOver())
    assert theirs.exists()
    assert not any(folder.glob("receipts/*"))


def test_compress_overwrite_leaves_the_index_to_another_set_that_follows_it(
    images, tmp_path, monkeypatch
):
    class Waits(Exception):
        pass

    class Waiting(Silent):
        def say(self, text: str) -> None:
            if "waiting for another command" in text:
                raise Waits

    clear = ShardFolder.clear

    def clear_as_another_begins(folder: ShardFolder) -> None:
        clear(folder)
        write_lock(tmp_path / "index/.lock.plan", **ELSEWHERE)

    run(tmp_path, images)
    before = (tmp_path / "index/index.json").read_bytes()
    monkeypatch.setattr(ShardFolder, "clear", clear_as_another_begins)
    with pytest.raises(Waits):
        run(tmp_path, images, progress=Waiting(), qualities=(60,), overwrite=True)
    assert (tmp_path / "index/index.json").read_bytes() == before
