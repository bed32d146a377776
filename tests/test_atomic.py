"""Files that are whole or not there: errors, kills, full disks, one at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import stat
from pathlib import Path

import pytest
from disks import mounted
from processes import open_files, running, wait_until

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic

WRITER = """
import sys, time
from pathlib import Path
from pipelines.storage import atomic
with atomic.atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half of it")
    file.flush()
    print("ready", flush=True)
    time.sleep(600)
"""
SECOND = """
import sys
from pathlib import Path
from pipelines.storage import atomic
folder = Path(sys.argv[1])
print("ready", flush=True)
with atomic.alone(folder, ".guard", wait_s=600):
    print((folder / "done").exists(), flush=True)
"""
FORKING = """
import os, sys
from pathlib import Path
from pipelines.storage import atomic
with atomic.alone(Path(sys.argv[1]), ".guard", wait_s=600):
    is_child = os.fork() == 0
    if is_child:
        sys.stdin.read()
        os._exit(0)
print("ready", flush=True)
sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_file_block_ends_content_size_and_hash_are_the_files(tmp_path):
    path = tmp_path / "a.bin"
    with atomic.atomic_file(path) as file:
        file.write(b"one")
        file.write(memoryview(b"two"))
        assert not path.exists()
    assert path.read_bytes() == b"onetwo"
    assert file.size_bytes == file.tell() == path.stat().st_size
    assert file.sha256.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert names(tmp_path) == ["a.bin"]


def test_atomic_file_wide_numbers_are_counted_in_bytes(tmp_path):
    with atomic.atomic_file(tmp_path / "a.bin") as file:
        assert file.write(memoryview(b"12345678").cast("Q")) == 8
    assert file.size_bytes == 8


def test_atomic_file_block_fails_leaves_nothing(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        atomic.atomic_file(tmp_path / "a.bin") as file,
    ):
        file.write(b"half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_atomic_file_block_fails_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.bin"
    atomic.write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic.atomic_file(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_atomic_file_two_attempts_at_once_do_not_share_a_file(tmp_path):
    path = tmp_path / "a.bin"
    with atomic.atomic_file(path) as first:
        first.write(b"first")
        with atomic.atomic_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"


def test_atomic_file_is_synced_before_and_its_folder_after_the_rename(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    seen = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    atomic.write_bytes(path, b"x")
    assert seen == [(False, False), (True, True)]


def test_atomic_file_process_killed_leaves_a_leftover_that_sweep_removes(tmp_path):
    path = tmp_path / "a.bin"
    atomic.write_bytes(path, b"old")
    with running(WRITER, path) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    (leftover,) = [name for name in names(tmp_path) if name != "a.bin"]
    assert leftover.startswith(".a.bin.") and leftover.endswith(".tmp")
    assert (tmp_path / leftover).read_bytes() == b"half of it"
    assert path.read_bytes() == b"old"
    assert atomic.sweep(tmp_path) == 1
    assert names(tmp_path) == ["a.bin"]


def test_atomic_file_no_folder_says_what_the_system_says(tmp_path):
    path = tmp_path / "missing" / "a.bin"
    with pytest.raises(ShardError, match=r"a\.bin: cannot be written: No such file or directory"):
        atomic.write_bytes(path, b"x")


def test_write_bytes_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(ShardError, match=r"big\.bin: cannot be written: No space left"):
            atomic.write_bytes(disk / "big.bin", bytes(200_000))
        assert names(disk) == []
        atomic.write_bytes(disk / "small.bin", bytes(1000))
        assert names(disk) == ["small.bin"]


def test_make_folder_full_disk_is_an_error(tmp_path):
    with mounted(tmp_path / "disk", "nr_inodes=2") as disk:
        atomic.make_folder(disk / "first")
        with pytest.raises(ShardError, match=r"second: cannot be made: No space left"):
            atomic.make_folder(disk / "second")
        assert names(disk) == ["first"]


def test_make_folder_there_already_is_fine(tmp_path):
    atomic.make_folder(tmp_path / "a" / "b")
    atomic.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_make_folder_file_in_its_place_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ShardError, match="a: cannot be made: File exists"):
        atomic.make_folder(tmp_path / "a")


def test_sweep_takes_only_leftovers_of_this_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".folder.tmp").mkdir()
    for name in ("a.bin", "a.tmp", ".lock", ".a.bin.1-0.tmp", ".b.2-1.tmp", "sub/.c.3-2.tmp"):
        (tmp_path / name).write_bytes(b"x")
    assert atomic.sweep(tmp_path) == 2
    assert names(tmp_path) == [".folder.tmp", ".lock", "a.bin", "a.tmp", "sub"]
    assert names(tmp_path / "sub") == [".c.3-2.tmp"]


def test_sweep_no_folder_finds_nothing(tmp_path):
    assert atomic.sweep(tmp_path / "missing") == 0


def is_flocked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_alone_beside_another_waits_for_its_end(tmp_path):
    with contextlib.ExitStack() as first:
        first.enter_context(atomic.alone(tmp_path, ".guard", wait_s=0))
        with running(SECOND, tmp_path) as process:
            wait_until(lambda: tmp_path / ".guard" in open_files(process.pid))
            (tmp_path / "done").touch()
            first.close()
            assert process.stdout.readline() == "True\n"


def test_alone_waited_long_enough_goes_on(tmp_path):
    with (
        atomic.alone(tmp_path, ".guard", wait_s=0),
        atomic.alone(tmp_path, ".guard", wait_s=0.05),
    ):
        assert names(tmp_path) == [".guard"]


def test_alone_file_system_without_flock_goes_on(tmp_path, monkeypatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic.alone(tmp_path, ".guard", wait_s=600):
        assert names(tmp_path) == [".guard"]


def test_alone_child_forked_meanwhile_does_not_keep_it(tmp_path):
    with running(FORKING, tmp_path):
        assert not is_flocked(tmp_path / ".guard")


def test_alone_block_ends_or_fails_leaves_an_empty_file_that_nobody_holds(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic.alone(tmp_path, ".guard", wait_s=0):
        assert is_flocked(tmp_path / ".guard")
        raise ZeroDivisionError
    assert not is_flocked(tmp_path / ".guard")
    assert (tmp_path / ".guard").read_bytes() == b""


def test_alone_file_system_refuses_is_an_error(tmp_path):
    with (
        mounted(tmp_path / "disk", "ro") as disk,
        pytest.raises(ShardError, match="disk: cannot be locked: Read-only file system"),
        atomic.alone(disk, ".guard", wait_s=0),
    ):
        pass


def test_alone_file_system_refuses_in_the_block_is_an_error(tmp_path):
    with (
        pytest.raises(ShardError, match="cannot be locked: No such file or directory"),
        atomic.alone(tmp_path, ".guard", wait_s=0),
    ):
        (tmp_path / "missing").unlink()


def test_write_json_key_order_does_not_change_the_bytes(tmp_path):
    atomic.write_json(tmp_path / "a", {"b": 1, "a": {"d": "ü", "c": None}})
    atomic.write_json(tmp_path / "b", {"a": {"c": None, "d": "ü"}, "b": 1})
    text = (tmp_path / "a").read_text(encoding="utf-8")
    assert text == '{\n "a": {\n  "c": null,\n  "d": "ü"\n },\n "b": 1\n}\n'
    assert (tmp_path / "b").read_text(encoding="utf-8") == text
    assert atomic.read_json(tmp_path / "a") == {"a": {"c": None, "d": "ü"}, "b": 1}


def test_write_json_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a", {"x": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}"])
def test_read_json_damaged_names_the_file(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"plan\.json: cannot be read"):
        atomic.read_json(tmp_path / "plan.json")


def test_read_json_missing_names_the_file(tmp_path):
    with pytest.raises(ManifestError, match=r"plan\.json: cannot be read"):
        atomic.read_json(tmp_path / "plan.json")


@pytest.mark.parametrize("num_swept", [1, 2])
def test_write_bytes_swept_away_by_another_start_is_written_once_more(
    num_swept, tmp_path, monkeypatch
):
    left = num_swept
    fsync = os.fsync

    def sweep_and_fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            atomic.sweep(tmp_path)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sweep_and_fsync)
    if num_swept == 1:
        atomic.write_bytes(tmp_path / "a.json", b"{}")
        assert (tmp_path / "a.json").read_bytes() == b"{}"
    else:
        with pytest.raises(ShardError, match=r"a\.json: cannot be written: No such file"):
            atomic.write_bytes(tmp_path / "a.json", b"{}")
    assert names(tmp_path) == ["a.json"] * (num_swept == 1)
