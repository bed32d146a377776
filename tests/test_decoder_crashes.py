"""Compress beside a decoder that ends its process: the image is found, named and left out."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import read_shards
from crashing import Deadly, compressing, meet
from crews import done_by
from images import make_class_folders
from processes import tree

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.errors import SourceError, WorkerError
from pipelines.execution.engine import Piece
from pipelines.progress import Silent

NUM_IMAGES, NUM_SHARDS = 12, 5
SET = "variants/jpeg"
CRASHED = "ends the process that decodes it, by SIGSEGV"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    make_class_folders(root, num_per_class=NUM_IMAGES // 2)
    return root


def run(workspace: Path, images: Path, deadly: Deadly, **settings: Any) -> dict[str, Any]:
    asked = {"workers": 2, "shards": NUM_SHARDS, "qualities": (10,), "max_bad_share": 0.5}
    config = CompressConfig(images=str(images), **{**asked, **settings})
    return compress.run(workspace, config, 0, Silent(), compressing(deadly))


@pytest.fixture(scope="module")
def clean(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of all images, at which nobody died; not to be changed."""
    workspace = tmp_path_factory.mktemp("clean")
    run(workspace, images, Deadly())
    return workspace


@pytest.fixture(scope="module")
def shards(clean: Path) -> list[list[str]]:
    """The names of the images in each shard."""
    paths = sorted((clean / SET).glob("*.parquet"))
    return [pq.read_table(path, columns=["id"])["id"].to_pylist() for path in paths]


@pytest.fixture(scope="module")
def deadly(shards: list[list[str]]) -> list[str]:
    """The first image of a shard, and all of another."""
    return [shards[1][0], *shards[-1]]


@pytest.fixture(scope="module")
def disturbed(
    images: Path, deadly: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A workspace where they are left out, not to be changed; and what the run returned."""
    workspace = tmp_path_factory.mktemp("disturbed")
    return workspace, run(workspace, images, Deadly(crash=deadly))


def rows(workspace: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_shards(workspace / SET).to_pylist()}


def rows_but(workspace: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = rows(workspace)
    return {name: found[name] for name in found.keys() - {*names}}


def quarantined(workspace: Path) -> dict[str, str]:
    with (workspace / SET / "quarantine.csv").open(newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_compress_images_that_end_their_process_are_left_out(disturbed, deadly, clean):
    workspace, summary = disturbed
    num_left = NUM_IMAGES - len(deadly)
    assert (summary["num_images"], summary["num_quarantined"]) == (num_left, len(deadly))
    assert summary["is_whole"]
    assert quarantined(workspace) == dict.fromkeys(deadly, CRASHED)
    assert rows(workspace) == rows_but(clean, deadly)
    assert len(rows(workspace)) == num_left


@pytest.mark.slow
def test_compress_any_number_of_workers_leaves_out_with_the_same_bytes(
    disturbed, deadly, images, tmp_path
):
    run(tmp_path, images, Deadly(crash=deadly), workers=1)
    assert tree(tmp_path) == tree(disturbed[0])


def test_compress_what_was_found_once_is_not_looked_for_again(disturbed, images, shards, tmp_path):
    workspace = Path(shutil.copytree(disturbed[0], tmp_path / "workspace"))
    every = list(itertools.chain.from_iterable(shards))
    summary = run(workspace, images, Deadly(crash=every))
    assert summary["num_resumed_shards"] == NUM_SHARDS
    assert tree(workspace) == tree(disturbed[0])


@pytest.mark.slow
def test_compress_too_many_images_that_end_their_process_stop_it(images, shards, clean, tmp_path):
    deadly = Deadly(crash=shards[0])
    with pytest.raises(SourceError, match=f"cannot be used, more than .* 0.05; .*: {CRASHED}"):
        run(tmp_path, images, deadly, max_bad_share=0.05)
    assert quarantined(tmp_path) == dict.fromkeys(shards[0], CRASHED)
    assert not (tmp_path / SET / "manifest.json").exists()
    assert run(tmp_path, images, deadly)["num_resumed_shards"] >= 1, "what was found is kept"
    assert rows(tmp_path) == rows_but(clean, shards[0])


def test_compress_worker_killed_from_outside_leaves_out_nothing(images, clean, shards, tmp_path):
    count_path = tmp_path / "count"
    count_path.write_text("2")
    run(tmp_path / "ws", images, Deadly(killed=[shards[1][1]], count_path=count_path))
    assert count_path.read_text() == "0", "two workers were killed"
    assert tree(tmp_path / "ws") == tree(clean)


def test_compress_worker_killed_from_outside_thrice_stops_and_goes_on(
    images, clean, shards, tmp_path
):
    count_path = tmp_path / "count"
    count_path.write_text("3")
    deadly = Deadly(killed=[shards[1][1]], count_path=count_path)
    with pytest.raises(WorkerError, match=r"\.parquet: 3 worker processes died .* by SIGKILL; run"):
        run(tmp_path / "ws", images, deadly)
    receipts = [json.loads(p.read_text()) for p in (tmp_path / "ws").rglob("receipts/*.json")]
    assert len(receipts) < NUM_SHARDS
    assert [receipt["quarantined"] for receipt in receipts] == [[]] * len(receipts)
    assert not [*(tmp_path / "ws").rglob("*.tmp")]
    run(tmp_path / "ws", images, deadly)
    assert tree(tmp_path / "ws") == tree(clean)


@pytest.mark.slow
def test_compress_image_that_never_ends_is_left_out(images, clean, shards, tmp_path):
    name = shards[0][1]
    run(tmp_path, images, Deadly(hang=[name]), hang_timeout=2)
    assert quarantined(tmp_path) == {name: "ends the process that decodes it, by its long silence"}
    assert rows(tmp_path) == rows_but(clean, [name])


def test_piece_without_what_ended_its_workers_has_all_its_lives_again(tmp_path):
    (tmp_path / "count").write_text("2")
    without = Piece("a", Deadly(killed=["image"], count_path=tmp_path / "count"))
    todo = deque([Piece("a", Deadly(crash=["image"]))])
    found = done_by(meet, todo, 1, on_crash=lambda piece, ending_of: without)
    assert found == {"a": "done"}
    assert (tmp_path / "count").read_text() == "0"
