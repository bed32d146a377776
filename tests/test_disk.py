"""File systems that do not do what is relied on are told before anything is written."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest
from disks import mounted
from lockers import make_old, names

from pipelines.errors import ShardError
from pipelines.storage import disk
from pipelines.storage.disk import Operations, check_disk


def refuse(number: int):
    def operation(*paths: Path) -> None:
        raise OSError(number, os.strerror(number))

    return operation


def copy_and_keep(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def replace_later(source: Path, target: Path) -> None:
    source.unlink()


def replace_in_part(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[:3])
    source.unlink()


def keep_the_time(path: Path) -> None:
    os.utime(path, (1e9, 1e9))


TAKEN = "a name that is taken can be created again"
RENAMED = "a file renamed over another does not take its place at once"
TIME = "a file that is touched keeps its old time"
SYNC = "a folder cannot be made durable with fsync"
FAULTS = {
    "creates again": ({"create": Path.touch}, TAKEN),
    "copies": ({"replace": copy_and_keep}, RENAMED),
    "shows the old one": ({"replace": replace_later}, RENAMED),
    "shows a part": ({"replace": replace_in_part}, RENAMED),
    "refuses to replace": (
        {"replace": refuse(errno.EEXIST)},
        rf"{RENAMED} \(File exists\)",
    ),
    "stands still": ({"touch": keep_the_time}, TIME),
    "knows no times": ({"touch": refuse(errno.EPERM)}, rf"{TIME} \(Operation not permitted\)"),
    "syncs no folders": ({"sync": refuse(errno.EINVAL)}, rf"{SYNC} \(Invalid argument\)"),
}


def test_check_disk_local_disk_passes_and_nothing_stays(tmp_path):
    (tmp_path / "kept").touch()
    check_disk(tmp_path)
    assert names(tmp_path) == ["kept"]


@pytest.mark.parametrize(("changed", "fault"), FAULTS.values(), ids=FAULTS)
def test_check_disk_fault_is_told_with_what_to_do(changed, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_CLOCK_S", 0.1)
    words = (
        rf"^{tmp_path}: on this file system {fault}; "
        "put the workspace on another one, such as a local disk or NFS$"
    )
    with pytest.raises(ShardError, match=words):
        check_disk(tmp_path, Operations(**changed))
    assert names(tmp_path) == []


def test_check_disk_clock_of_whole_seconds_is_waited_for(tmp_path):
    def touch(path: Path) -> None:
        os.utime(path)
        whole_s = path.stat().st_mtime // 1
        os.utime(path, (whole_s, whole_s))

    check_disk(tmp_path, Operations(touch=touch))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ro", "Read-only file system"),
        ("nr_inodes=1", "No space left on device"),
        ("nr_inodes=2", "No space left on device"),
    ],
)
def test_check_disk_that_refuses_now_is_no_fault_of_its_kind(options, words, tmp_path):
    with mounted(tmp_path / "disk", options) as folder:
        expected = rf"^{folder}: cannot be written: {words}; mend that and run again: what is whole"
        with pytest.raises(ShardError, match=expected):
            check_disk(folder)
        assert names(folder) == []


def test_check_disk_full_disk_says_so(tmp_path):
    with mounted(tmp_path / "disk", "size=16k") as folder:
        with pytest.raises(OSError, match="No space"):
            (folder / "filler").write_bytes(bytes(1 << 20))
        with pytest.raises(
            ShardError, match="disk: cannot be written: No space left on device; mend"
        ):
            check_disk(folder)
        assert names(folder) == ["filler"]


def test_check_disk_missing_folder_says_so(tmp_path):
    with pytest.raises(ShardError, match="set: cannot be written: No such file or directory"):
        check_disk(tmp_path / "set")


def test_check_disk_leftovers_of_the_killed_are_swept_when_old(tmp_path):
    for name in (".disk.0a", ".disk.0b", ".disk.md"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "taken").touch()
    for name in (".disk.0a", ".disk.md"):
        make_old(tmp_path / name)
    check_disk(tmp_path)
    assert names(tmp_path) == [".disk.0b", ".disk.md"]


def test_check_disk_needs_no_flock(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    check_disk(tmp_path)
