"""Folders that appear whole or not at all, whatever ends their writing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import running

from pipelines.errors import ShardError
from pipelines.storage.whole_folder import whole_folder

WRITING = """
import sys
from pathlib import Path
from pipelines.storage.whole_folder import whole_folder
with whole_folder(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("half")
    print("ready", flush=True)
    sys.stdin.readline()
    (folder / "b").write_text("whole")
print("done", flush=True)
"""


def write(path: Path, **files: str) -> None:
    with whole_folder(path) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def content(path: Path) -> dict[str, str]:
    return {p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()}


def test_whole_folder_appears_with_all_its_files_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "to"
    with whole_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not path.exists()
    assert content(path) == {"sub/a": "1"}
    assert os.listdir(path.parent) == ["to"]  # noqa: PTH208


def test_whole_folder_takes_the_place_of_the_one_before(tmp_path):
    write(tmp_path / "to", a="old", b="old")
    write(tmp_path / "to", a="new")
    assert content(tmp_path) == {"to/a": "new"}


def test_whole_folder_takes_the_place_of_an_empty_one(tmp_path):
    (tmp_path / "to").mkdir()
    write(tmp_path / "to", a="new")
    assert content(tmp_path) == {"to/a": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whole_folder_of_a_block_that_raises_changes_nothing(tmp_path, error):
    write(tmp_path / "to", a="old")
    with pytest.raises(error, match="stop"), whole_folder(tmp_path / "to") as folder:
        (folder / "a").write_text("half")
        raise error("stop")
    assert content(tmp_path) == {"to/a": "old"}
    assert os.listdir(tmp_path) == ["to"]  # noqa: PTH208


def test_whole_folder_below_a_file_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match=r"file: cannot be made: File exists"):
        write(tmp_path / "file" / "to")


def test_whole_folder_that_the_disk_refuses_raises_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(ShardError, match=r"to: cannot be written: No space left on device; mend"),
        whole_folder(tmp_path / "to") as folder,
    ):
        (folder / "a").write_text("half")
        Path("/dev/full").write_text("more")
    assert list(tmp_path.iterdir()) == []


def test_whole_folder_killed_leaves_no_part_and_the_next_sweeps_it(tmp_path):
    to = tmp_path / "to"
    with running(WRITING, to) as process:
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not to.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write(to, a="new")
    assert content(tmp_path) == {"to/a": "new"}
    assert os.listdir(tmp_path) == ["to"]  # noqa: PTH208


def test_whole_folder_leaves_alone_what_another_is_writing(tmp_path):
    to = tmp_path / "to"
    with running(WRITING, to) as process:
        write(to, a="mine")
        assert content(to) == {"a": "mine"}
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
    assert content(tmp_path) == {"to/a": "half", "to/b": "whole"}


def test_whole_folder_sweeps_only_what_is_its_own(tmp_path):
    others = (".to.1-0.tmp", ".to2.1-0.folder.tmp", "to.folder.tmp")
    for name in others:
        (tmp_path / name).mkdir()
    write(tmp_path / "to", a="new")
    assert {path.name for path in tmp_path.iterdir()} == {"to", *others}


def test_whole_folder_with_signs_of_patterns_in_its_name(tmp_path):
    to = tmp_path / "[a]*"
    (tmp_path / ".ab.1-0.folder.tmp").mkdir()
    with running(WRITING, to) as process:
        process.kill()
        process.wait()
    write(to, a="new")
    assert {path.name for path in tmp_path.iterdir()} == {"[a]*", ".ab.1-0.folder.tmp"}
