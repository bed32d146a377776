"""What a user gets wrong around the images: one clear line, the right status, nothing written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import invoke, the_error
from disks import mounted
from images import make_class_folders, photo, to_jpeg
from processes import tree

TOML = "[compress]\nimages = 'set'\nqualities = 50\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "set")
    (tmp_path / "bottleneck.toml").write_text(TOML)
    return tmp_path


def made_in(workspace: Path) -> list[str]:
    """Name what a command made, beside the lock that it held."""
    return [name for name in tree(workspace) if name.startswith(("index/", "variants/"))]


def empty_class(root: Path) -> None:
    (root / "mouse").mkdir()


def one_class(root: Path) -> None:
    shutil.rmtree(root / "dog")


def no_images(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def no_class_folders(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    (root / "a.jpg").touch()


def gone(root: Path) -> None:
    shutil.rmtree(root)


def a_text_file(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


def only_splits_val_and_test(root: Path) -> None:
    shutil.rmtree(root)
    for split in ("val", "test"):
        make_class_folders(root / split)


def split_beside_others(root: Path) -> None:
    for split in ("train", "test"):
        make_class_folders(root / split)


def class_only_in_test(root: Path) -> None:
    make_class_folders(root / "train")
    make_class_folders(root / "test", ["cat", "dog", "mouse"])
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (empty_class, "set/mouse: class folder without any image; put images there or remove"),
        (one_class, "set: one class only, 'cat'; expected two or more: name the folder that"),
        (no_images, "set: nothing in it; expected a folder for each class with its images"),
        (no_class_folders, "set: 1 files but no class folders; expected a folder for each class"),
        (gone, "set: does not exist; expected a folder with a folder for each class, a .csv, "),
        (a_text_file, "set: not a folder, and not a list by its name; expected a file that ends"),
        (only_splits_val_and_test, "the only splits given are val 8, test 8; expected train "),
        (split_beside_others, "set: splits and other folders ('cat', 'dog') side by side; move"),
        (class_only_in_test, "set: no images in train for 'mouse', only in val or test; add some"),
    ],
)
def test_compress_images_that_cannot_train_are_one_line(
    change: Callable[[Path], None], words, workspace
):
    change(workspace / "set")
    message = the_error(invoke("compress", "-C", workspace))
    assert words in message
    assert made_in(workspace) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("cat\n", "found classes it does not name: 'dog'; make the two agree"),
        ("cat\ndog\nmouse\n", "found none of 'mouse'; make the two agree"),
        ("cat\ndog\ncat\n", "names.txt, line 3: class 'cat' stands already in line 1; remove"),
        ("", "names.txt: no class names found; expected one a line"),
        (None, "names.txt: cannot be read: No such file or directory"),
    ],
)
def test_compress_class_list_that_does_not_match_is_one_line(names, words, workspace):
    if names is not None:
        (workspace / "names.txt").write_text(names)
    (workspace / "bottleneck.toml").write_text(TOML + "classes = 'names.txt'\n")
    assert words in the_error(invoke("compress", "-C", workspace))
    assert made_in(workspace) == []


def test_compress_list_with_a_wrong_line_names_it(workspace):
    (workspace / "set.csv").write_text("path,label\nset/cat/cat_000.jpg,cat\nset/dog/dog_000.jpg\n")
    message = the_error(invoke("compress", "-C", workspace, "--images", workspace / "set.csv"))
    assert message.startswith(f"{workspace}/set.csv, line 3: 1 fields, expected 2 as in the header")
    assert made_in(workspace) == []


@pytest.mark.parametrize("quality", ["0", "101", "10,0", "-5", "50,50", "1.5", "high", ""])
def test_compress_quality_of_a_flag_out_of_range_is_a_usage_error(quality, workspace):
    message = the_error(invoke("compress", "-C", workspace, f"--qualities={quality}"), status=2)
    allowed = "allowed: whole numbers from 1 to 100, each once"
    assert message == f"--qualities: '{quality}' is not allowed; {allowed}"
    assert made_in(workspace) == []


@pytest.mark.parametrize(
    ("value", "shown"), [("[0]", "0"), ("[10, 101]", "10,101"), ("'x'", "'x'"), ("true", "True")]
)
def test_compress_quality_of_the_file_out_of_range_is_an_error(value, shown, workspace):
    (workspace / "bottleneck.toml").write_text(f"[compress]\nqualities = {value}\n")
    message = the_error(invoke("compress", "-C", workspace))
    assert message == (
        f"{workspace}/bottleneck.toml: [compress] qualities: {shown} is not allowed; "
        "allowed: whole numbers from 1 to 100, each once"
    )


def test_compress_wrong_file_is_an_error_even_where_a_flag_would_win(workspace):
    (workspace / "bottleneck.toml").write_text("[compress]\nlimit = -1\n")
    message = the_error(invoke("compress", "-C", workspace, "--limit", "2"))
    assert "limit: -1 is not allowed; allowed: 0 or more" in message


def test_compress_without_a_workspace_is_a_usage_error(workspace):
    (workspace / "bottleneck.toml").unlink()
    message = the_error(invoke("compress", "-C", workspace), status=2)
    assert message.startswith(f"{workspace}: no bottleneck.toml here; run in a workspace, name one")
    assert message.endswith("or make one with `bottleneck init DIR --images PATH`")
    assert made_in(workspace) == []


@pytest.mark.parametrize("name", ["nowhere", "bottleneck.toml/deeper"])
def test_compress_workspace_that_is_no_folder_is_a_usage_error(name, workspace):
    assert "no bottleneck.toml here" in the_error(
        invoke("compress", "-C", workspace / name), status=2
    )


def test_compress_images_not_named_is_a_usage_error(workspace):
    (workspace / "bottleneck.toml").write_text("")
    message = the_error(invoke("compress", "-C", workspace), status=2)
    assert message == (
        "no images; name a folder, a list or elpv with --images, "
        "or as images in [compress] of bottleneck.toml"
    )
    message = the_error(invoke("extract", "--on-the-fly", "-C", workspace), status=2)
    assert message.endswith("or elpv as images in [compress] of bottleneck.toml")
    assert not (workspace / "variants").exists()


def test_compress_workspace_inside_its_images_is_refused(workspace):
    (workspace / "set/bottleneck.toml").write_text("[compress]\nimages = '.'\n")
    message = the_error(invoke("compress", "-C", workspace / "set"))
    assert message.startswith(f"{workspace}/set: lies inside its folder of images {workspace}/set,")
    assert sorted(path.name for path in (workspace / "set").iterdir()) == [
        "bottleneck.toml",
        "cat",
        "dog",
    ]


def test_compress_quiet_error_is_the_only_line(workspace):
    shutil.rmtree(workspace / "set")
    result = invoke("compress", "-C", workspace, "-q")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)


def test_compress_quiet_run_prints_nothing(workspace):
    (workspace / "set/stray.txt").touch()  # left out with a warning otherwise
    result = invoke("compress", "-C", workspace, "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_compress_json_error_leaves_stdout_empty(workspace):
    shutil.rmtree(workspace / "set")
    assert "does not exist" in the_error(invoke("compress", "-C", workspace, "--json"))


def test_compress_same_bytes_in_two_given_splits_are_counted_and_said(workspace):
    for split, seeds in (("train", range(6)), ("val", range(6, 8)), ("test", range(4, 8))):
        for label, name in enumerate(("cat", "dog")):
            (workspace / "given" / split / name).mkdir(parents=True)
            for seed in seeds:
                data = to_jpeg(photo(100 * label + seed))
                (workspace / "given" / split / name / f"{seed}.jpg").write_bytes(data)
    result = invoke("compress", "-C", workspace, "--images", workspace / "given")
    assert result.exit_code == 0, result.output
    assert "images whose bytes stand in more than one split: 8 (first: " in result.stderr
    assert result.stdout.startswith("compress: 24 images, 0 quarantined")


def test_compress_same_bytes_under_two_labels_are_said(workspace):
    shutil.copy(workspace / "set/cat/cat_001.jpg", workspace / "set/dog/copy.jpg")
    result = invoke("compress", "-C", workspace)
    assert result.exit_code == 0, result.output
    assert "images whose bytes stand under different labels: 1 (first: " in result.stderr


def test_compress_train_and_val_without_test_is_said_aloud(workspace):
    for split, count in (("train", 30), ("val", 3)):
        make_class_folders(workspace / "given" / split, num_per_class=count)
    result = invoke("compress", "-C", workspace, "--images", workspace / "given")
    note = "no test split given: the val images become test, and 5% of train, by class, val: "
    assert note + "train 58, val 2, test 6" in result.stderr


def test_compress_read_only_disk_is_one_clear_line(workspace):
    with mounted(workspace / "disk", "size=1m") as disk:
        (disk / "bottleneck.toml").write_text(TOML.replace("set", "../set"))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        message = the_error(invoke("compress", "-C", disk))
    assert message.endswith(": Read-only file system")
