"""Compress: what a set of variants holds, that it is made once, and always with the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import invoke, read_shards, the_error
from images import make_class_folders, photo, to_jpeg, write_odd_files
from PIL import Image
from processes import tree

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.errors import ManifestError
from pipelines.execution import inline, local
from pipelines.execution.engine import Engine
from pipelines.progress import Silent
from pipelines.storage import locks

SUMMARY_KEYS = [
    *("stage", "num_images", "num_quarantined", "num_shards", "num_planned_shards"),
    *("size_bytes", "seconds", "num_resumed_shards", "num_other_shards", "is_whole"),
]
TEN = [f"q{qf:03d}" for qf in range(10, 101, 10)]


class Counting(Silent):
    """Keeps what is to be done and what is reported as done."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, int]] = []
        self.done: Counter[str] = Counter()

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.started.append((what, total, done))

    def advance(self, count: int) -> None:
        self.done[self.started[-1][0]] += count


def run(
    workspace: Path,
    images: Path | str,
    progress: Any = None,
    engine: Engine = inline.open_crew,
    **settings: Any,
) -> dict[str, Any]:
    seed = settings.pop("seed", 0)
    config = CompressConfig(images=str(images), **{"qualities": (10, 50), **settings})
    return compress.run(workspace, config, seed, progress or Silent(), engine)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Tell which files lie there and when each was written."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path): (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with finished variants; not to be changed."""
    workspace = tmp_path_factory.mktemp("made")
    (workspace / "bottleneck.toml").touch()
    run(workspace, photos)
    return workspace


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_compress_default_writes_the_original_and_ten_variants_of_every_image(photos, tmp_path):
    compress.run(tmp_path, CompressConfig(images=str(photos)), 0, Silent(), inline.open_crew)
    table = read_shards(tmp_path / "variants/jpeg")
    assert table.column_names == ["id", "label", "sha256", "original", *TEN]
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    assert sorted(table["id"].to_pylist()) == [p.relative_to(photos).as_posix() for p in files]
    classes = sorted(path.name for path in photos.iterdir())
    for row in table.to_pylist():
        data = (photos / row["id"]).read_bytes()
        assert row["original"] == data
        assert row["sha256"] == hashlib.sha256(data).digest()
        assert classes[row["label"]] == row["id"].split("/")[0]
        original = Image.open(io.BytesIO(data))
        for name in TEN:
            variant = Image.open(io.BytesIO(row[name]))
            variant.load()
            assert (variant.format, variant.size) == ("JPEG", original.size)
            assert variant.mode == original.mode
        assert len(row["q010"]) < len(row["q100"])


def test_compress_summary_counts_what_lies_there(photos, tmp_path):
    summary = run(tmp_path, photos, shards=5)
    shards = sorted((tmp_path / "variants/jpeg").glob("*.parquet"))
    assert list(summary) == SUMMARY_KEYS
    assert summary["seconds"] > 0
    del summary["seconds"]
    assert summary == {
        "stage": "compress",
        "num_images": 40,
        "num_quarantined": 0,
        "num_shards": 5,
        "num_planned_shards": 5,
        "size_bytes": sum(path.stat().st_size for path in shards),
        "num_resumed_shards": 0,
        "num_other_shards": 0,
        "is_whole": True,
    }
    assert len(shards) == 5


def test_compress_json_is_the_summary_and_text_says_the_same(photos, tmp_path):
    (tmp_path / "bottleneck.toml").write_text(f"[compress]\nimages = '{photos}'\nqualities = 50\n")
    result = invoke("compress", "-C", tmp_path, "--json")
    assert result.stdout.count("\n") == 1
    summary = json.loads(result.stdout)
    assert list(summary) == SUMMARY_KEYS
    assert "compress: 40/40 images, " in result.stderr
    again = invoke("compress", "-C", tmp_path)
    size = f"{summary['size_bytes'] / 1000:.1f} kB"
    assert again.stdout.startswith(
        f"compress: nothing to do; 40 images, 0 quarantined, 3 shards (3 from before), {size}, "
    )
    assert again.stderr == ""


def test_compress_any_number_of_workers_gives_the_same_bytes(photos, tmp_path):
    for workers in (1, 3):
        run(tmp_path / str(workers), photos, None, local.open_crew, workers=workers, shards=5)
    run(tmp_path / "none", photos, shards=5)
    assert tree(tmp_path / "1") == tree(tmp_path / "3") == tree(tmp_path / "none")


def test_compress_again_reads_no_image_and_writes_nothing(photos, tmp_path):
    images = Path(shutil.copytree(photos, tmp_path / "images"))
    run(tmp_path / "ws", images, shards=4)
    before = state(tmp_path / "ws")
    for path in images.rglob("*.*"):
        path.write_bytes(b"")  # would go to quarantine if anybody looked
    progress = Counting()
    summary = run(tmp_path / "ws", images, progress, shards=4)
    assert (summary["num_images"], summary["num_resumed_shards"]) == (40, 4)
    assert progress.started == [("compress", 40, 40)]
    assert not progress.done
    assert state(tmp_path / "ws") == before


def test_compress_reports_each_image_once_and_those_from_before(copy, photos):
    receipts = sorted((copy / "variants/jpeg/receipts").iterdir())
    num_lost = json.loads(receipts[-1].read_text())["num_rows"]
    receipts[-1].unlink()
    progress = Counting()
    summary = run(copy, photos, progress)
    assert progress.started == [("compress", 40, 40 - num_lost)]
    assert progress.done == {"compress": num_lost}
    assert (summary["num_shards"], summary["num_resumed_shards"]) == (3, 2)


def test_compress_leftovers_of_killed_attempts_are_swept(copy, photos, made):
    for folder in ("variants/jpeg", "variants/jpeg/receipts"):
        (copy / folder / ".test-00000-of-00001.parquet.17-beef.tmp").write_bytes(b"half")
    run(copy, photos)
    assert tree(copy) == tree(made)


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_compress_shard_that_is_not_whole_is_made_again(damage, copy, photos, made):
    path = copy / "variants/jpeg/val-00000-of-00001.parquet"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert run(copy, photos)["num_resumed_shards"] == 2
    assert tree(copy) == tree(made)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"qualities": (10, 60)}, "codec.qualities 10,50, now 10,60"),
        ({"subsampling": "4:4:4"}, "codec.subsampling 4:2:0, now 4:4:4"),
        ({"max_megapixels": 5.0}, "max_megapixels 100.0, now 5.0"),
        ({"limit": 12}, "limit 0, now 12"),
        ({"seed": 3}, "seed 0, now 3"),
    ],
)
def test_compress_other_settings_are_refused_until_overwrite(
    settings, difference, copy, photos, made, tmp_path
):
    with pytest.raises(ManifestError, match=f"made with {difference}; ask for .* --overwrite"):
        run(copy, photos, **settings)
    assert tree(copy) == tree(made)
    run(copy, photos, overwrite=True, **settings)
    run(tmp_path / "fresh", photos, **settings)
    assert tree(copy, (".lock", "bottleneck.toml")) == tree(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("add", "num_images 40, now 41; .*; new 'brick/a.jpg'; ask"),
        ("remove", "num_images 40, now 39; .*; gone 'brick/00.jpg'; ask"),
        ("rename", "rows_sha256 .*; new 'brick/a.jpg'; gone 'brick/00.jpg'; ask"),
    ],
)
def test_compress_other_images_are_refused_until_overwrite(change, words, photos, tmp_path):
    images = Path(shutil.copytree(photos, tmp_path / "images"))
    run(tmp_path / "ws", images)
    before = tree(tmp_path / "ws")
    if change != "remove":
        (images / "brick/a.jpg").write_bytes(to_jpeg(photo(99)))
    if change != "add":
        (images / "brick/00.jpg").unlink()
    with pytest.raises(ManifestError, match=f"made with images.{words} for that again, or"):
        run(tmp_path / "ws", images)
    assert tree(tmp_path / "ws") == before
    run(tmp_path / "ws", images, overwrite=True)
    run(tmp_path / "fresh", images)
    assert tree(tmp_path / "ws") == tree(tmp_path / "fresh")


def test_compress_overwrite_with_the_same_settings_keeps_what_is_there(copy, photos):
    before = state(copy)
    summary = run(copy, photos, overwrite=True)
    assert summary["num_resumed_shards"] == summary["num_shards"] == 3
    assert state(copy) == before


def test_compress_beside_another_is_refused(copy, photos):
    (copy / "bottleneck.toml").write_text(
        f"[compress]\nimages = '{photos}'\nqualities = [10, 50]\n"
    )
    with locks.hold(copy / "variants/jpeg"):
        message = the_error(invoke("compress", "-C", copy))
    assert message.startswith(
        f"{copy}/variants/jpeg: another command is at work here (.lock: pid {os.getpid()} on "
    )
    assert message.endswith(" s ago); wait for it or stop it")
    assert invoke("compress", "-C", copy).exit_code == 0


def test_compress_limit_takes_so_many_of_every_class(photos, tmp_path):
    run(tmp_path, photos, limit=12)
    labels = read_shards(tmp_path / "variants/jpeg")["label"].to_pylist()
    assert Counter(labels) == {0: 3, 1: 3, 2: 3, 3: 3}


def test_compress_given_splits_are_kept(tmp_path, notes):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        make_class_folders(tmp_path / "set" / split, num_per_class=count)
    run(tmp_path / "ws", tmp_path / "set", notes)
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        table = pq.read_table(tmp_path / f"ws/variants/jpeg/{split}-00000-of-00001.parquet")
        assert table.num_rows == count
        assert all(name.startswith(f"{split}/") for name in table["id"].to_pylist())
    assert notes.said[0] == "splits as given: train 8, val 4, test 6"


def test_compress_odd_images_go_through_whole(tmp_path, notes):
    for name in ("a", "b"):
        write_odd_files(tmp_path / "set" / name)
        (tmp_path / "set" / name / "gray.jpg").write_bytes(to_jpeg(photo(channels=1)))
    summary = run(tmp_path / "ws", tmp_path / "set", notes)
    assert (summary["num_images"], summary["num_quarantined"]) == (16, 0)
    rows = {row["id"]: row for row in read_shards(tmp_path / "ws/variants/jpeg").to_pylist()}

    def variant(name: str) -> tuple[str, tuple[int, int]]:
        image = Image.open(io.BytesIO(rows[f"a/{name}"]["q050"]))
        return image.mode, image.size

    assert variant("gray.jpg") == variant("gray_16_bit.png") == ("L", (64, 48))
    assert variant("cmyk.jpg") == variant("png.jpg") == ("RGB", (64, 48))
    assert variant("rotated.jpg") == ("RGB", (64, 48))  # upright; it is stored on its side
    assert Image.open(io.BytesIO(rows["a/rotated.jpg"]["original"])).size == (48, 64)
    assert variant("rgba.png") == variant("palette.png") == ("RGB", (3, 1))
    assert (
        "images of another format than their extension says: 2; they are read by their content"
        in notes.said
    )


def test_compress_packaged_solar_cells_go_through(tmp_path):
    pytest.importorskip("elpv_dataset")
    summary = run(tmp_path, "elpv", limit=20)
    assert summary["num_images"] == 20
    plan = json.loads((tmp_path / "variants/jpeg/plan.json").read_text())
    assert plan["details"]["classes"] == ["defective", "functional"]


def test_compress_without_bad_images_has_an_empty_quarantine(made):
    assert (made / "variants/jpeg/quarantine.csv").read_text() == "id,reason\n"
