"""One log file for a command and its workers: everything in it, how it ended, nobody disturbed."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest
from commands import invoke, the_error
from disks import mounted
from images import make_class_folders

from bottleneck_cli import logs
from pipelines.errors import ConfigError, ShardError


@pytest.fixture
def workspace(tmp_path):
    make_class_folders(tmp_path / "set", num_per_class=4)
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/bottleneck.toml").write_text('[compress]\nimages = "../set"\n')
    return tmp_path / "workspace"


def lines_of(path) -> list[str]:
    """Return the lines without their time, which each must have."""
    found = path.read_text(encoding="utf-8").splitlines()
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
    assert all(stamp.match(line) for line in found)
    return [stamp.sub("", line, count=1) for line in found]


def test_compress_log_has_settings_workers_shards_and_the_end(workspace):
    assert invoke("compress", "-C", workspace, "--shards", "3", "-q").exit_code == 0
    first, *rest = lines_of(workspace / "logs/compress.log")
    assert first.startswith("INFO [compress] images '../set', ")
    assert any(re.fullmatch(r"INFO worker 1: ready, pid \d+", line) for line in rest)
    shards = [line for line in rest if re.search(r"\.parquet: \d+ rows, \d+ bytes$", line)]
    assert len(shards) == 3
    assert rest[-1] == "INFO done"


def test_compress_log_of_a_share_is_its_own_and_of_starts_add_up(workspace):
    for index in (0, 1, 1):
        share = ["--task-index", str(index), "--num-tasks", "2"]
        assert invoke("compress", "-C", workspace, "--shards", "3", *share).exit_code == 0
    names = sorted(path.name for path in (workspace / "logs").iterdir())
    assert names == ["compress-0-of-2.log", "compress-1-of-2.log"]
    ends = [line for line in lines_of(workspace / "logs/compress-1-of-2.log") if "done" in line]
    assert len(ends) == 2


def test_compress_log_holds_the_error_that_is_shown(workspace):
    result = invoke("compress", "-C", workspace, "--images", workspace / "nowhere")
    error = the_error(result, 1)
    assert lines_of(workspace / "logs/compress.log")[-1] == f"ERROR {error.split('error: ')[-1]}"


def test_kept_says_how_a_block_ended_and_lets_it_through(tmp_path):
    for error in (ShardError("a shard is missing"), KeyboardInterrupt(), ZeroDivisionError("0")):
        with pytest.raises(type(error)), logs.kept(tmp_path / "logs/a.log", "first"):
            raise error
    assert lines_of(tmp_path / "logs/a.log")[1::2] == [
        "ERROR a shard is missing",
        "ERROR ended by KeyboardInterrupt ",
        "ERROR ended by ZeroDivisionError 0",
    ]


def test_kept_settings_with_which_nothing_begins_begin_no_file_and_end_in_one(tmp_path):
    path = tmp_path / "logs/a.log"
    with pytest.raises(ConfigError), logs.kept(path, "first"):
        raise ConfigError("no such device")
    assert not path.parent.exists()
    with logs.kept(path, "first"):
        pass
    with pytest.raises(ConfigError), logs.kept(path, "second"):
        raise ConfigError("no such device")
    assert lines_of(path)[1:] == ["INFO done", "INFO second", "ERROR no such device"]


def test_kept_closes_its_file_and_takes_its_handler_away(tmp_path):
    before = list(logging.getLogger("pipelines").handlers)
    with logs.kept(tmp_path / "logs/a.log", "first"):
        assert len(logging.getLogger("pipelines").handlers) == len(before) + 1
    assert logging.getLogger("pipelines").handlers == before


def test_kept_where_a_file_stands_in_the_folders_place_disturbs_nobody(tmp_path):
    (tmp_path / "logs").write_text("mine")
    with logs.kept(tmp_path / "logs/a.log", "first"):
        logging.getLogger("pipelines").warning("nobody keeps this")
    assert (tmp_path / "logs").read_text() == "mine"


def test_kept_on_a_full_disk_hides_no_error_and_makes_none(tmp_path):
    with mounted(tmp_path / "disk", "size=16k") as disk:
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(bytes(1 << 20))
        with logs.kept(disk / "logs/a.log", "first"):
            pass
        with pytest.raises(ShardError, match="full"), logs.kept(disk / "logs/a.log", "first"):
            raise ShardError("the disk is full")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can work as somebody else")
def test_kept_in_a_folder_that_may_not_be_entered_disturbs_nobody(tmp_path):
    program = """if True:
        import os
        from pathlib import Path
        from bottleneck_cli import logs
        Path("logs").mkdir(mode=0o700)
        os.setuid(65534)
        with logs.kept(Path("logs/a.log"), "first"):
            print("worked")
    """
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("worked\n", "")
