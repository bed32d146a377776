"""Class folders: what becomes a row, what a problem, and which shapes are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import SourceError
from pipelines.images.folders import Problems, first_few, read_folders, reason_of
from pipelines.images.splits import NO_SPLIT, TEST, TRAIN, VAL


def make_files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"any bytes")
    return root


def rows_and_problems(root: Path) -> tuple[list[tuple[str, str, int]], Problems]:
    """Read folders, and sort what has no order of its own."""
    listing, problems = read_folders(root)
    classes = [listing.names[label] for label in listing.labels]
    rows = zip(listing.ids.to_pylist(), classes, listing.splits.tolist(), strict=True)
    return sorted(rows), sorted(problems)


def ids_of(root: Path) -> list[str]:
    return [image_id for image_id, _, _ in rows_and_problems(root)[0]]


def test_read_folders_classes_give_rows_without_split(tmp_path):
    make_files(tmp_path, "dog/2.JPEG", "dog/1.png", "cat/deep/er/3", "cat/a.txt")
    assert rows_and_problems(tmp_path) == (
        [
            ("cat/a.txt", "cat", NO_SPLIT),
            ("cat/deep/er/3", "cat", NO_SPLIT),
            ("dog/1.png", "dog", NO_SPLIT),
            ("dog/2.JPEG", "dog", NO_SPLIT),
        ],
        [],
    )


def test_read_folders_columns_are_compact(tmp_path):
    listing, _ = read_folders(make_files(tmp_path, "train/a/1", "test/b/2"))
    assert listing.ids.type == "string"
    assert (listing.labels.dtype, listing.splits.dtype) == (np.int32, np.int8)


def test_read_folders_splits_share_the_class_names(tmp_path):
    make_files(tmp_path, "train/b/1", "train/a/2", "Validation/a/x/3", "TEST/b/4")
    assert read_folders(tmp_path)[0].names == ("b", "a")
    assert rows_and_problems(tmp_path) == (
        [
            ("TEST/b/4", "b", TEST),
            ("Validation/a/x/3", "a", VAL),
            ("train/a/2", "a", TRAIN),
            ("train/b/1", "b", TRAIN),
        ],
        [],
    )


def test_read_folders_one_class_named_like_a_split_is_a_class(tmp_path):
    make_files(tmp_path, "train/1", "plane/2")
    assert rows_and_problems(tmp_path)[0] == [
        ("plane/2", "plane", NO_SPLIT),
        ("train/1", "train", NO_SPLIT),
    ]


def test_read_folders_hidden_files_and_litter_are_skipped(tmp_path):
    make_files(tmp_path, "a/1", "b/2", "a/.DS_Store", "a/Thumbs.db", "b/desktop.ini", "b/.git/x")
    make_files(tmp_path, ".cache/x/1", ".hidden")
    assert ids_of(tmp_path) == ["a/1", "b/2"]
    assert rows_and_problems(tmp_path)[1] == []


def test_read_folders_files_beside_class_folders_are_left_out_aloud(tmp_path, caplog):
    make_files(tmp_path, "a/1", "b/2", "readme.txt", "labels.csv")
    assert ids_of(tmp_path) == ["a/1", "b/2"]
    assert "2 files beside the class folders are left out, the first is labels.csv" in caplog.text


def test_read_folders_file_links_are_followed_and_dangling_ones_are_problems(tmp_path):
    make_files(tmp_path, "set/a/1", "set/b/2", "elsewhere/3")
    (tmp_path / "set/a/good").symlink_to(tmp_path / "elsewhere/3")
    (tmp_path / "set/a/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "set/a/itself").symlink_to("itself")
    os.mkfifo(tmp_path / "set/b/pipe")
    assert ids_of(tmp_path / "set") == ["a/1", "a/good", "b/2"]
    assert rows_and_problems(tmp_path / "set")[1] == [
        ("a/gone", "link to nothing"),
        ("a/itself", "too many levels of symbolic links"),
        ("b/pipe", "not a regular file"),
    ]


def test_read_folders_folder_links_are_followed_once(tmp_path):
    make_files(tmp_path, "set/a/in/1", "set/b/2", "elsewhere/c/3")
    (tmp_path / "set/a/back").symlink_to(tmp_path / "set")
    (tmp_path / "set/a/in/loop").symlink_to("..")
    (tmp_path / "set/a/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a/two").symlink_to(tmp_path / "elsewhere/c")
    (tmp_path / "set/c").symlink_to(tmp_path / "elsewhere/c")
    assert ids_of(tmp_path / "set") == ["a/in/1", "a/one/c/3", "b/2", "c/3"]
    reason = "link to a folder that is listed already"
    assert rows_and_problems(tmp_path / "set")[1] == [
        ("a/back", reason),
        ("a/in/loop", reason),
        ("a/two", reason),
    ]


def test_read_folders_link_beside_its_folder_gives_way_to_the_folder(tmp_path):
    make_files(tmp_path, "a/in/1", "b/2")
    (tmp_path / "a/earlier").symlink_to("in")
    assert ids_of(tmp_path) == ["a/in/1", "b/2"]


def test_read_folders_name_that_is_not_utf8_is_a_problem(tmp_path):
    make_files(tmp_path, "a/1", "b/2", "b/größe")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.png")).write_bytes(b"x")
    assert ids_of(tmp_path) == ["a/1", "b/2", "b/größe"]
    assert rows_and_problems(tmp_path)[1] == [(r"a/\xff.png", "name is not UTF-8; rename it")]


def test_read_folders_class_folder_that_is_not_utf8_is_refused(tmp_path):
    make_files(tmp_path, "a/1", os.fsdecode(b"\xff/2"))
    with pytest.raises(SourceError, match=r"class folder \\xff is not UTF-8; rename it"):
        read_folders(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), r"set: nothing in it; expected a folder for each class"),
        (("1.png", "2.png"), r"set: 2 files but no class folders"),
        (("a/1", "b/.hidden"), r"set/b: class folder without any image; put images there"),
        (("train/a/1", "train/b/2", "val/1.png"), r"set/val: 1 files but no class folders"),
        (("train/a/1", "val/a/2", "validation/b/3"), r"two folders mean one split"),
        (("train/a/1", "val/a/2", "extra/b/3"), r"splits and other folders \('extra'\)"),
    ],
)
def test_read_folders_wrong_shape_is_refused(names, words, tmp_path):
    (tmp_path / "set").mkdir()
    make_files(tmp_path / "set", *names)
    with pytest.raises(SourceError, match=words):
        read_folders(tmp_path / "set")


def test_read_folders_class_of_problems_alone_is_refused_with_the_first(tmp_path):
    make_files(tmp_path, "a/1", "b/.hidden")
    (tmp_path / "b/2").symlink_to("nowhere")
    with pytest.raises(
        SourceError, match=r"b: .*without any image \(first of 1: b/2: link to noth"
    ):
        read_folders(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [(["a"], "'a'"), (list("abc"), "'a', 'b', 'c'"), (list("abcde"), "'a', 'b', 'c' and 2 more")],
)
def test_first_few_long_list_is_cut_and_counted(names, words):
    assert first_few(names) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "no such file or directory"),
        (OSError("Odd"), "odd"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
)
def test_reason_of_error_keeps_the_words_alone(error, words):
    assert reason_of(error) == words
