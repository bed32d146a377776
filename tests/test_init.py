"""`bottleneck init`: looks at the images, writes a file that the next command can use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import invoke, the_error
from images import make_class_folders
from processes import tree

from pipelines import workspace


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "photos", num_per_class=5)
    return tmp_path / "photos"


def test_init_then_compress_works_with_relative_paths_from_another_folder(
    photos, tmp_path, monkeypatch
):
    # The README's two lines, then the same workspace from elsewhere, then moved with its images.
    monkeypatch.chdir(tmp_path)
    assert invoke("init", "sets/my-set", "--images", "./photos").exit_code == 0
    monkeypatch.chdir("sets/my-set")
    assert invoke("compress", "--qualities", "50").exit_code == 0
    made = tree(tmp_path / "sets/my-set")
    assert "variants/jpeg/manifest.json" in made
    monkeypatch.chdir("/")
    again = invoke("compress", "--qualities", "50", "-C", tmp_path / "sets/my-set")
    assert again.stdout.startswith("compress: nothing to do; 10 images")
    (tmp_path / "elsewhere").mkdir()
    for name in ("photos", "sets"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    again = invoke("compress", "--qualities", "50", "-C", tmp_path / "elsewhere/sets/my-set")
    assert again.stdout.startswith("compress: nothing to do; 10 images")
    assert tree(tmp_path / "elsewhere/sets/my-set") == made


def test_init_writes_what_it_was_given_and_what_it_found(photos, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("dog\ncat\n")
    flags = ["--images", photos, "--classes", names, "--seed", "4"]
    result = invoke("init", tmp_path / "ws", *flags)
    path = tmp_path / "ws/bottleneck.toml"
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{path}: written",
        "  10 images in 2 classes: dog 5, cat 5",
        "  splits given: none",
    ]
    assert "# 10 images in 2 classes: dog 5, cat 5\n# splits given: none\n" in path.read_text()
    content = workspace.read_file(tmp_path / "ws")
    assert content["compress"] == {"images": "../photos", "classes": "../names.txt"}
    assert content["seed"] == 4


def test_init_tells_given_splits_and_unreadable_entries(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        make_class_folders(tmp_path / "set" / split, num_per_class=count)
    (tmp_path / "set/train/cat/gone.jpg").symlink_to("nowhere")
    lines = invoke("init", tmp_path / "ws", "--images", tmp_path / "set").stdout.splitlines()
    assert lines[1:] == [
        "  12 images in 2 classes: cat 6, dog 6",
        "  splits given: train 6, val 4, test 2",
        "  entries that cannot be read and go to quarantine: 1",
    ]


def test_init_json_is_one_object_on_one_line(photos, tmp_path):
    result = invoke("init", tmp_path / "ws", "--images", photos, "--json")
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {
        "stage": "init",
        "workspace": str(tmp_path / "ws"),
        "num_images": 10,
        "num_classes": 2,
        "num_problems": 0,
        "splits": {},
        "classes": {"cat": 5, "dog": 5},
    }


def test_init_many_classes_names_the_largest_eight(tmp_path):
    for label in range(11):
        make_class_folders(tmp_path / "set", [f"c{label:02d}"], num_per_class=1 + (label == 10))
    text = invoke("init", tmp_path / "ws", "--images", tmp_path / "set").stdout
    assert "12 images in 11 classes: c10 2, c00 1, c01 1, " in text
    assert "c06 1 and 3 more\n" in text


def test_init_quiet_prints_nothing(photos, tmp_path):
    result = invoke("init", tmp_path / "ws", "--images", photos, "-q")
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "ws/bottleneck.toml").exists()


def test_init_elpv_is_kept_as_a_word(tmp_path):
    pytest.importorskip("elpv_dataset")
    assert invoke("init", tmp_path / "ws", "--images", "elpv").exit_code == 0
    assert workspace.read_file(tmp_path / "ws")["compress"] == {"images": "elpv"}


def test_init_twice_is_refused_and_leaves_the_file(photos, tmp_path):
    (tmp_path / "bottleneck.toml").write_text("seed = 7\n")
    message = the_error(invoke("init", tmp_path, "--images", photos), status=2)
    assert (
        message == f"{tmp_path}/bottleneck.toml: there already; edit it, or choose another folder"
    )
    assert (tmp_path / "bottleneck.toml").read_text() == "seed = 7\n"


def test_init_images_that_are_not_there_writes_nothing(tmp_path):
    message = the_error(invoke("init", tmp_path / "ws", "--images", tmp_path / "nowhere"))
    assert message.startswith(f"{tmp_path}/nowhere: does not exist; expected a folder with ")
    assert not (tmp_path / "ws").exists()


def test_init_without_images_is_a_usage_error(tmp_path):
    result = invoke("init", tmp_path / "ws")
    assert result.exit_code == 2
    assert "Missing option '--images'" in result.stderr


@pytest.mark.parametrize("inside", ["", "workspace"])
def test_init_inside_the_images_is_refused(inside, photos):
    message = the_error(invoke("init", photos / inside, "--images", photos))
    assert message == (
        f"{photos / inside}: lies inside its folder of images {photos}, where its own files would "
        "be taken for a class; make the workspace elsewhere"
    )
    assert sorted(path.name for path in photos.iterdir()) == ["cat", "dog"]


def test_init_folder_that_is_not_utf8_is_refused_as_a_whole(photos, tmp_path):
    odd = tmp_path / "b\udcffd"
    shutil.copytree(photos, odd)
    message = the_error(invoke("init", tmp_path / "ws", "--images", str(odd)))
    assert message == 'images: "../b?d" is not UTF-8, and TOML holds nothing else; rename it'
    assert not (tmp_path / "ws").exists()
