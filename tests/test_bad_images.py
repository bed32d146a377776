"""Images that cannot be used: each a line of quarantine.csv with its reason, the others go on."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import invoke, read_shards, the_error
from disks import mounted
from images import bomb_png, make_class_folders, photo, to_jpeg, to_png, truncated
from processes import tree

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.errors import SourceError
from pipelines.execution import inline, local
from pipelines.execution.engine import Engine
from pipelines.images import encode
from pipelines.progress import Silent

NUM_GOOD = 20  # one bad image beside them stays under the share that stops a run


def run(
    workspace: Path,
    images: Path,
    progress: Any = None,
    engine: Engine = inline.open_crew,
    **settings: Any,
) -> dict[str, Any]:
    config = CompressConfig(images=str(images), **{"qualities": (10, 50), **settings})
    return compress.run(workspace, config, 0, progress or Silent(), engine)


def quarantine(workspace: Path) -> list[list[str]]:
    with (workspace / "variants/jpeg/quarantine.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "reason"]
    return rows


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "set", num_per_class=NUM_GOOD // 2)
    return tmp_path / "set"


def file_of(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("empty.jpg", file_of(b""), "the file is empty, 0 bytes"),
        ("cut.jpg", file_of(truncated(to_jpeg(photo()))), "damaged jpeg data: "),
        (
            "cut.png",
            file_of(truncated(to_png(photo()))),
            "damaged png data: image file is truncated",
        ),
        ("text.jpg", file_of(b"no image"), "not an image of a supported format (jpeg, png, "),
        ("bomb.png", file_of(bomb_png()), "image is 1,200.0 megapixels (40000 x 30000), the "),
        ("pipe.jpg", os.mkfifo, "not a regular file"),
        ("link.jpg", lambda path: path.symlink_to("nowhere"), "link to nothing"),
        ("loop.jpg", lambda path: path.symlink_to("loop.jpg"), "too many levels of symbolic links"),
    ],
)
def test_compress_bad_image_goes_to_quarantine_with_its_reason(
    name, make, reason, images, tmp_path
):
    make(images / "cat" / name)
    (tmp_path / "bottleneck.toml").write_text("[compress]\nimages = 'set'\nqualities = 50\n")
    result = invoke("compress", "-C", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("compress: 20 images, 1 quarantined, ")
    ((found, words),) = quarantine(tmp_path)
    assert found == f"cat/{name}"
    assert words.startswith(reason)
    assert found not in read_shards(tmp_path / "variants/jpeg")["id"].to_pylist()


def test_compress_name_that_is_not_utf8_is_quarantined_readably(images, tmp_path):
    (images / "cat/b\udcffd.jpg").write_bytes(to_jpeg(photo()))
    run(tmp_path, images)
    assert quarantine(tmp_path) == [["cat/b\\xffd.jpg", "name is not UTF-8; rename it"]]


def test_compress_name_with_separators_reads_back_from_quarantine(images, tmp_path):
    (images / 'cat/a,"b"\nc.jpg').write_bytes(b"")
    run(tmp_path, images)
    assert quarantine(tmp_path) == [['cat/a,"b"\nc.jpg', "the file is empty, 0 bytes"]]


def test_compress_image_over_max_megapixels_is_quarantined_and_under_it_taken(images, tmp_path):
    (images / "cat/large.jpg").write_bytes(to_jpeg(photo(size=(100, 200))))
    run(tmp_path / "small", images, max_megapixels=0.0199)
    reason = "image is 0.0 megapixels (200 x 100), the limit is 0.0199"
    assert quarantine(tmp_path / "small") == [["cat/large.jpg", reason]]
    run(tmp_path / "large", images, max_megapixels=0.02)
    assert quarantine(tmp_path / "large") == []


def test_compress_file_too_large_to_read_is_quarantined(images, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "MAX_FILE_BYTES", 50_000)
    (images / "cat/large.jpg").write_bytes(to_jpeg(photo()) + bytes(50_000))
    run(tmp_path, images)
    ((name, reason),) = quarantine(tmp_path)
    assert name == "cat/large.jpg"
    assert reason.endswith(" bytes, over the limit of 50,000")


@pytest.mark.parametrize("stage", ["hash", "compress"])
def test_compress_image_that_vanishes_is_quarantined(stage, images, tmp_path):
    class Removing(Silent):
        def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
            if what == stage:
                (images / "cat/cat_003.jpg").unlink()

    summary = run(tmp_path, images, Removing())
    assert (summary["num_images"], summary["num_quarantined"]) == (NUM_GOOD - 1, 1)
    reason = "cannot be read: No such file or directory"
    assert quarantine(tmp_path) == [["cat/cat_003.jpg", reason]]


def test_compress_bad_images_change_nothing_in_the_bytes_of_any_number_of_workers(images, tmp_path):
    for number in range(6):
        (images / f"dog/bad{number}.png").write_bytes(truncated(to_png(photo(number)), 0.5))
    settings = {"max_bad_share": 0.5, "shards": 5}
    run(tmp_path / "1", images, **settings)
    run(tmp_path / "3", images, None, local.open_crew, workers=3, **settings)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")
    assert [name for name, _ in quarantine(tmp_path / "1")] != []


def test_compress_over_the_share_stops_with_count_and_first_reason(images, tmp_path):
    (images / "cat/link.jpg").symlink_to("nowhere")
    (images / "cat/empty.jpg").write_bytes(b"")
    (tmp_path / "bottleneck.toml").write_text("[compress]\nimages = 'set'\nqualities = 50\n")
    message = the_error(invoke("compress", "-C", tmp_path))
    assert message == (
        f"{tmp_path}/set: 2 of 22 images cannot be used, more than max_bad_share 0.05; "
        f"first: cat/link.jpg: link to nothing; all in {tmp_path}/variants/jpeg/quarantine.csv; "
        "mend them, or raise --max-bad-share"
    )
    assert [name for name, _ in quarantine(tmp_path)] == ["cat/link.jpg", "cat/empty.jpg"]
    assert not (tmp_path / "variants/jpeg/manifest.json").exists()


def test_compress_stopped_by_the_share_goes_on_with_a_larger_one(images, tmp_path):
    for number in range(4):
        (images / f"dog/bad{number}.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match=r"more than max_bad_share 0\.1"):
        run(tmp_path / "ws", images, max_bad_share=0.1)
    assert run(tmp_path / "ws", images, max_bad_share=0.2)["num_quarantined"] == 4
    run(tmp_path / "fresh", images, max_bad_share=0.2)
    assert tree(tmp_path / "ws") == tree(tmp_path / "fresh")


def test_compress_share_met_exactly_goes_on(images, tmp_path):
    for number in range(5):
        (images / f"dog/bad{number}.jpg").write_bytes(b"")
    assert run(tmp_path, images, max_bad_share=0.2)["num_quarantined"] == 5


def test_compress_share_of_zero_stops_at_the_first(images, tmp_path):
    (images / "dog/bad.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match=r"1 of 21 images cannot be used, more than .* 0; first"):
        run(tmp_path, images, max_bad_share=0)


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_compress_every_image_bad_is_an_error_at_any_share(share, tmp_path):
    for name in ("a", "b"):
        for number in range(3):
            path = tmp_path / "set" / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{name}{number}".encode())
    with pytest.raises(SourceError, match=r" images cannot be used.*: not an image") as caught:
        run(tmp_path / "ws", tmp_path / "set", max_bad_share=share)
    assert ("6 of 6" in str(caught.value)) == (share == 1.0)
    assert str(caught.value).endswith("mend them, or raise --max-bad-share") == (share < 1.0)
    assert not (tmp_path / "ws/variants/jpeg/manifest.json").exists()


def test_compress_limited_choice_is_not_judged_by_the_whole_listing(images, tmp_path):
    # One in twenty is a dead link: fine for the whole, and no part of the six that are chosen.
    (images / "cat/link.jpg").symlink_to("nowhere")
    summary = run(tmp_path / "few", images, limit=6)
    assert (summary["num_images"], summary["num_quarantined"]) == (6, 1)
    for path in images.glob("dog/*.jpg"):
        path.write_bytes(path.name.encode())
    with pytest.raises(SourceError, match=r"1 of 6 images cannot be used.*; first: dog/"):
        run(tmp_path / "bad", images, limit=6)


def test_compress_full_disk_is_one_clear_line_and_room_lets_it_go_on(images, tmp_path):
    toml = "[compress]\nimages = '../set'\nqualities = [90, 100]\nshards = 6\n"
    with mounted(tmp_path / "disk", "size=96k") as disk:
        (disk / "bottleneck.toml").write_text(toml)
        message = the_error(invoke("compress", "-C", disk))
        assert message.startswith(f"{disk}/variants/jpeg/")
        assert message.endswith(
            ": cannot be written: No space left on device; mend that and run again: "
            "what is whole is kept"
        )
        left = tree(disk)
        assert "variants/jpeg/train-00000-of-00004.parquet" in left
        assert "variants/jpeg/manifest.json" not in left
        assert not [name for name in left if name.endswith(".tmp")]
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        result = invoke("compress", "-C", disk)
        assert result.exit_code == 0, result.output
        assert "(0 from before)" not in result.stdout
        run(tmp_path / "fresh", images, qualities=(90, 100), shards=6)
        assert tree(disk, (".lock", "bottleneck.toml")) == tree(tmp_path / "fresh")
