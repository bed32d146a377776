"""Files that are whole or not there: errors, kills, full disks, locks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mounted

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
HOLDER = """
import sys, time
from pathlib import Path
from pipelines.storage import atomic
with atomic.exclusive(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def running(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run Python code with `path` as its argument until it says it is ready; kill it at the end."""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


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


def test_exclusive_full_disk_is_an_error(tmp_path):
    with mounted(tmp_path / "disk", "nr_inodes=2") as disk:
        atomic.make_folder(disk / "set")
        with (
            pytest.raises(ShardError, match="set: cannot be locked: No space left"),
            atomic.exclusive(disk / "set"),
        ):
            pass


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


def test_exclusive_other_process_holds_it_is_an_error(tmp_path):
    with (
        running(HOLDER, tmp_path / "set"),
        pytest.raises(ManifestError, match="set: another command is at work here"),
        atomic.exclusive(tmp_path / "set"),
    ):
        pass


def test_exclusive_holder_killed_frees_the_folder(tmp_path):
    with running(HOLDER, tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with atomic.exclusive(tmp_path):
            assert names(tmp_path) == [".lock"]


def test_exclusive_block_fails_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic.exclusive(tmp_path):
        raise ZeroDivisionError
    with (
        atomic.exclusive(tmp_path),
        pytest.raises(ManifestError, match="another command is at work here"),
        atomic.exclusive(tmp_path),
    ):
        pass


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
