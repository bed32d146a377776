"""Sources: folders, lists and elpv give the same columns; faults are one clear line."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import ConfigError, SourceError
from pipelines.images import sources
from pipelines.images.sources import open_source, summary
from pipelines.images.splits import NO_SPLIT, TEST, TRAIN, VAL


def make_files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"any bytes")
    return root


def rows_of(source: sources.Source) -> list[tuple[str, str, str | None]]:
    rows = source.table.to_pylist()
    return [(row["id"], source.classes[row["label"]], row["split"]) for row in rows]


def test_open_source_class_folders_gives_sorted_rows(tmp_path):
    make_files(tmp_path / "pets", "dog/2.JPEG", "dog/1.png", "cat/deep/er/3", "cat/a.txt")
    source = open_source("pets", base_dir=tmp_path)
    assert source.kind == "folders"
    assert source.classes == ("cat", "dog")
    assert rows_of(source) == [
        ("cat/a.txt", "cat", None),
        ("cat/deep/er/3", "cat", None),
        ("dog/1.png", "dog", None),
        ("dog/2.JPEG", "dog", None),
    ]
    assert source.problems == ()
    assert source.path_of("dog/1.png").read_bytes() == b"any bytes"
    assert source.splits.tolist() == [NO_SPLIT] * 4


def test_open_source_table_has_compact_columns(tmp_path):
    source = open_source(".", base_dir=make_files(tmp_path, "a/1", "b/2"))
    types = {name: source.table.schema.field(name).type for name in ("id", "label", "split")}
    assert types == {
        "id": pa.string(),
        "label": pa.int32(),
        "split": pa.dictionary(pa.int8(), pa.string()),
    }
    assert source.labels.dtype == np.int32
    assert source.splits.dtype == np.int8


def test_open_source_split_folders_share_one_class_list(tmp_path):
    names = (
        "train/b/1",
        "train/a/2",
        "train/c/2",
        "validation/c/3",
        "validation/a/x/4",
        "Test/b/5",
    )
    source = open_source(str(make_files(tmp_path / "set", *names)), base_dir=Path("elsewhere"))
    assert source.classes == ("a", "b", "c")
    assert rows_of(source) == [
        ("Test/b/5", "b", "test"),
        ("train/a/2", "a", "train"),
        ("train/b/1", "b", "train"),
        ("train/c/2", "c", "train"),
        ("validation/a/x/4", "a", "val"),
        ("validation/c/3", "c", "val"),
    ]
    assert source.splits.tolist() == [TEST, TRAIN, TRAIN, TRAIN, VAL, VAL]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), r"set: nothing in it; expected a folder for each class"),
        (("a/1",), r"set: one class only, 'a'; expected two or more"),
        (("train/a/1", "train/b/2", "val/c/1"), r"no images in train for 'c', only in val or test"),
    ],
)
def test_open_source_folder_that_cannot_train_is_refused(names, words, tmp_path):
    (tmp_path / "set").mkdir()
    make_files(tmp_path / "set", *names)
    with pytest.raises(SourceError, match=words):
        open_source("set", base_dir=tmp_path)


def test_open_source_missing_path_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"nothing: does not exist; expected a folder"):
        open_source("nothing", base_dir=tmp_path)


def test_open_source_file_of_unknown_type_is_refused(tmp_path):
    make_files(tmp_path, "images.xlsx")
    with pytest.raises(SourceError, match=r"not a list by its name; .* \.csv, \.tsv, \.jsonl"):
        open_source("images.xlsx", base_dir=tmp_path)


def test_open_source_class_list_sets_the_label_order(tmp_path):
    make_files(tmp_path, "set/a/1", "set/b/2", "set/c/3")
    (tmp_path / "classes.txt").write_text("c\na\nb\n")
    source = open_source("set", base_dir=tmp_path, classes_path=Path("classes.txt"))
    assert source.classes == ("c", "a", "b")
    assert source.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("a\n", r"found classes it does not name: 'b', 'c', 'd' and 1 more; make"),
        ("a\nb\nc\nd\ne\nf\n", r"found none of 'f'; make"),
        ("a\nb\nc\nd\nf\n", r"does not name: 'e' and none of 'f'"),
    ],
)
def test_open_source_class_list_that_does_not_fit_is_refused(listed, words, tmp_path):
    make_files(tmp_path, *(f"set/{name}/1" for name in "abcde"))
    (tmp_path / "classes.txt").write_text(listed)
    with pytest.raises(SourceError, match=words):
        open_source("set", base_dir=tmp_path, classes_path=Path("classes.txt"))


def test_open_source_list_is_relative_to_its_folder(tmp_path):
    make_files(tmp_path, "lists/x/1.png", "other/2.png", "3.png")
    text = f"path,label,split\n{tmp_path}/3.png,10,val\nx/1.png,9,train\n../other/2.png,10,train\n"
    (tmp_path / "lists/images.CSV").write_text(text)
    source = open_source("lists/images.CSV", base_dir=tmp_path)
    assert source.kind == "list"
    assert source.classes == ("9", "10")
    assert rows_of(source) == [
        ("../other/2.png", "10", "train"),
        (f"{tmp_path}/3.png", "10", "val"),
        ("x/1.png", "9", "train"),
    ]
    assert all(source.path_of(row).is_file() for row in source.table["id"].to_pylist())


def test_open_source_listed_paths_that_are_no_files_are_problems(tmp_path):
    make_files(tmp_path, "1", "2", "folder/3")
    rows = [{"path": name, "label": label} for name, label in zip("12", "ab", strict=True)]
    rows += [{"path": "gone", "label": "a"}, {"path": "folder", "label": "b"}]
    rows += [{"path": "nul\0", "label": "b"}]
    (tmp_path / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source("images.jsonl", base_dir=tmp_path)
    assert rows_of(source) == [("1", "a", None), ("2", "b", None)]
    assert source.problems[:2] == (
        ("folder", "not a regular file"),
        ("gone", "no such file or directory"),
    )
    [(image_id, reason)] = source.problems[2:]
    assert image_id == "nul\0"
    assert "embedded null" in reason


def test_open_source_listed_class_without_any_file_is_refused(tmp_path):
    make_files(tmp_path, "1")
    (tmp_path / "images.csv").write_text("path,label\n1,a\n2,b\n")
    with pytest.raises(SourceError, match=r"no file found for the images of 'b', .*2: no such fi"):
        open_source("images.csv", base_dir=tmp_path)


def test_open_source_folder_named_elpv_wins_over_the_packaged_set(tmp_path):
    make_files(tmp_path / "elpv", "a/1", "b/2")
    assert open_source("elpv", base_dir=tmp_path).kind == "folders"


def test_open_source_elpv_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(SourceError, match=r"pip install elpv-dataset"):
        open_source("elpv", base_dir=tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed"
)
def test_open_source_elpv_has_the_counts_of_the_paper(tmp_path):
    source = open_source("elpv", base_dir=tmp_path)
    assert summary(source) == {
        "num_images": 2624,
        "num_classes": 2,
        "num_problems": 0,
        "splits": {},
        "classes": {"defective": 106 + 715, "functional": 1508 + 295},
    }
    assert source.table["id"][0].as_py() == "images/cell0001.png"
    assert source.path_of("images/cell0001.png").read_bytes().startswith(b"\x89PNG")


def test_summary_counts_splits_and_classes(tmp_path):
    make_files(tmp_path, "train/a/1", "train/a/2", "train/b/3", "test/a/4")
    (tmp_path / "train/a/gone").symlink_to("nowhere")
    assert summary(open_source(".", base_dir=tmp_path)) == {
        "num_images": 4,
        "num_classes": 2,
        "num_problems": 1,
        "splits": {"train": 3, "test": 1},
        "classes": {"a": 3, "b": 1},
    }


def test_describe_is_the_same_wherever_the_source_lies(tmp_path):
    here = open_source("one", base_dir=make_files(tmp_path, "one/b/2", "one/a/1"))
    there = open_source("two", base_dir=make_files(tmp_path, "two/a/1", "two/b/2"))
    assert here.describe() == there.describe()
    assert json.loads(json.dumps(here.describe()))["classes"] == ["a", "b"]


def test_describe_other_rows_of_the_same_number_differ(tmp_path):
    make_files(tmp_path, "one/a/1", "one/b/2", "two/a/1", "two/b/3")
    one, two = (open_source(name, base_dir=tmp_path).describe() for name in ("one", "two"))
    assert one["num_images"] == two["num_images"]
    assert one["rows_sha256"] != two["rows_sha256"]


@pytest.mark.parametrize("inside", [".", "set", "set/deeper"])
def test_check_apart_workspace_inside_its_images_is_refused(inside, tmp_path):
    message = "lies inside its folder of images .* make the workspace elsewhere"
    with pytest.raises(ConfigError, match=message):
        sources.check_apart(tmp_path / inside, tmp_path)


def test_check_apart_link_into_the_images_is_refused(tmp_path):
    (tmp_path / "images/set").mkdir(parents=True)
    (tmp_path / "link").symlink_to("images/set")
    with pytest.raises(ConfigError, match="lies inside its folder of images"):
        sources.check_apart(tmp_path / "link", tmp_path / "images")


def test_check_apart_images_below_or_beside_the_workspace_are_fine(tmp_path):
    sources.check_apart(tmp_path / "set", tmp_path / "set/images")
    sources.check_apart(tmp_path / "set", tmp_path / "se")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".CSV"])
def test_root_of_a_list_is_its_folder(tmp_path, suffix):
    (tmp_path / f"some/list{suffix}").parent.mkdir()
    (tmp_path / f"some/list{suffix}").write_text("anything")
    assert sources.root_of(f"some/list{suffix}", tmp_path) == tmp_path / "some"
    assert sources.root_of(str(tmp_path / f"some/list{suffix}"), tmp_path / "else") == (
        tmp_path / "some"
    )


def test_root_of_folders_is_the_folder_whatever_its_name(tmp_path):
    make_files(tmp_path, "pets/a/1", "odd.csv/a/1", "elpv/a/1")
    for name in ("pets", "odd.csv", "elpv"):
        assert sources.root_of(name, tmp_path) == tmp_path / name


def test_root_of_images_that_are_gone_is_where_they_were(tmp_path):
    assert sources.root_of("gone", tmp_path) == tmp_path / "gone"
    assert sources.root_of("gone/list.csv", tmp_path) == tmp_path / "gone"
    assert sources.root_of("/gone/too", tmp_path) == Path("/gone/too")


def test_root_of_no_images_raises_saying_what_to_set(tmp_path):
    with pytest.raises(SourceError, match=r"no images are named; set images in \[compress\]"):
        sources.root_of("", tmp_path)


def test_root_of_elpv_without_the_package_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(SourceError, match="the package elpv-dataset is not installed"):
        sources.root_of("elpv", tmp_path)


@pytest.mark.parametrize("images", ["pets", "list.csv", "."])
def test_root_of_is_the_root_of_the_opened_source(tmp_path, images):
    make_files(tmp_path / "pets", "a/1", "b/2")
    (tmp_path / "list.csv").write_text("path,label\npets/a/1,a\npets/b/2,b\n")
    if images == ".":
        (tmp_path / "list.csv").unlink()
        make_files(tmp_path, "more/b/2")
    opened = open_source(images, base_dir=tmp_path)
    assert sources.root_of(images, tmp_path) == opened.root


@pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed"
)
def test_root_of_elpv_is_where_its_package_lies(tmp_path):
    root = sources.root_of("elpv", tmp_path)
    assert root == open_source("elpv", base_dir=tmp_path).root
    assert (root / "images/cell0001.png").is_file()
