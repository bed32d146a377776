"""Workers and shares of any number, in any order, killed or not: the same files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from extracting import WAY, Extract
from images import make_class_folders
from processes import PROGRAM, bottleneck, kill_when, tree, wait_until
from working import extract_command, fill_with, network, started

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.errors import ManifestError
from pipelines.execution import inline
from pipelines.execution.engine import CrewSettings
from pipelines.execution.shares import Share
from pipelines.progress import Silent
from pipelines.storage import locks

SET = "variants/jpeg"
NUM_SHARDS = 6
ORDERS = ([2, 0, 2, 1], [1, 1, 0, 2, 2])
ROWS = {"train": 90, "val": 21}  # more than the 64 that are probed
EXTRACTS = {
    "parquet": Extract("parquet", "float16", shards=7, batch_size=12, rows=ROWS),
    "tfrecord": Extract("tfrecord", "uint8", shards=7, batch_size=12, rows=ROWS),
}

AT_WORK = Extract(shards=7, batch_size=14, rows={"train": 14})  # a batch of the probe, one a shard


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, one of them a broken one."""
    root = tmp_path_factory.mktemp("images")
    make_class_folders(root, num_per_class=12)[3].write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def variants(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What compress comes to without a worker."""
    workspace = tmp_path_factory.mktemp("inline")
    config = CompressConfig(images=str(images), qualities=(10, 90), shards=NUM_SHARDS)
    compress.run(workspace, config, 0, Silent(), inline.open_crew)
    return compressed(workspace)


def compressed(workspace: Path) -> dict[str, bytes]:
    """Return all files but those of the workspace itself, leftovers among them."""
    found = tree(workspace, ("bottleneck.toml",))
    return {name: content for name, content in found.items() if not name.startswith("logs/")}


@pytest.fixture
def workspace(images: Path, tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "workspace", images)


def make_workspace(path: Path, images: Path) -> Path:
    path.mkdir()
    settings = f"images = '{images}'\nqualities = [10, 90]\nshards = {NUM_SHARDS}\n"
    (path / "bottleneck.toml").write_text(f"[compress]\n{settings}")
    return path


def share_flags(index: int, num: int, workers: int = 1) -> list[str]:
    return ["--task-index", str(index), "--num-tasks", str(num), "--workers", str(workers)]


def run_command(workspace: Path, *arguments: str) -> dict[str, Any]:
    """Run a command of the program to its end; returns its summary."""
    result = bottleneck(workspace, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("workers", [1, 2])
def test_compress_workers_write_the_same_as_none(workers, workspace, variants):
    assert run_command(workspace, "compress", "--workers", str(workers))["is_whole"]
    assert compressed(workspace) == variants


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_compress_shares_in_any_order_write_the_same(order, workspace, variants):
    done = set()
    for index in order:
        summary = run_command(workspace, "compress", *share_flags(index, 3))
        done.add(index)
        is_whole = done == {0, 1, 2}
        assert summary["is_whole"] == (workspace / SET / "manifest.json").exists() == is_whole
    assert compressed(workspace) == variants


@pytest.mark.parametrize("num", [2, 7])
def test_compress_shares_at_the_same_time_write_the_same(num, workspace, variants):
    program = [PROGRAM, "compress", "-C", workspace]
    with contextlib.ExitStack() as stack:
        starts = [
            stack.enter_context(started([*program, *share_flags(i, num)])) for i in range(num)
        ]
        ends = [start.ended() for start in starts]
    assert [status for status, _, _ in ends] == [0] * num, ends
    assert compressed(workspace) == variants


def test_compress_share_killed_and_started_again_writes_the_same(workspace, variants):
    flags = share_flags(0, 2)
    receipts = workspace / SET / "receipts"
    kill_when(lambda: any(receipts.glob("*.json")), workspace, "compress", *flags)
    assert not run_command(workspace, "compress", *share_flags(1, 2))["is_whole"]
    assert run_command(workspace, "compress", *flags)["is_whole"]
    assert compressed(workspace) == variants


def test_compress_planner_killed_leaves_the_plan_to_the_next(workspace, variants):
    plan_lock = workspace / SET / ".lock.plan"
    kill_when(plan_lock.exists, workspace, "compress", *share_flags(0, 2), every_s=0)
    assert not run_command(workspace, "compress", *share_flags(1, 2))["is_whole"]
    assert run_command(workspace, "compress", *share_flags(0, 2))["is_whole"]
    assert compressed(workspace) == variants


def test_compress_overwrite_by_shares_that_wait_for_each_other_writes_the_new_set(
    images, workspace, tmp_path
):
    run_command(workspace, "compress")
    asked = ["compress", "--qualities", "50", "--overwrite"]
    program = [PROGRAM, *asked, "-C", workspace]
    with contextlib.ExitStack() as stack:
        with locks.planning(workspace / SET):
            starts = [
                stack.enter_context(started([*program, *share_flags(i, 3)])) for i in range(3)
            ]
            for start in starts:
                start.says("waiting for another command that plans here")
        ends = [start.ended() for start in starts]
    assert [status for status, _, _ in ends] == [0, 0, 0], ends
    fresh = make_workspace(tmp_path / "fresh", images)
    run_command(fresh, "compress", "--qualities", "50")
    assert compressed(workspace) == compressed(fresh)


@pytest.fixture(params=EXTRACTS)
def extract(request: pytest.FixtureRequest) -> Extract:
    return EXTRACTS[request.param]


@pytest.fixture(scope="module")
def inline_features(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What the made-up extract comes to without a worker, by format."""
    found = {}
    for format, extract in EXTRACTS.items():
        folder = tmp_path_factory.mktemp(format)
        fill_with(folder, network(extract), inline.open_crew, CrewSettings(()))
        found[format] = everything(folder)
    return found


@pytest.fixture
def features(extract: Extract, inline_features: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    return inline_features[extract.format]


def everything(features_dir: Path) -> dict[str, bytes]:
    """Return all files, leftovers among them."""
    return tree(features_dir, ())


@pytest.mark.parametrize(("threads", "in_flight"), [(0, 2), (2, 1)])
def test_extract_workers_write_the_same_as_none(threads, in_flight, extract, features, tmp_path):
    work = network(extract, threads=threads, in_flight=in_flight)
    assert fill_with(tmp_path, work).is_whole
    assert everything(tmp_path) == features


@pytest.mark.slow
def test_extract_share_killed_at_random_and_started_again_writes_the_same(
    extract, features, tmp_path
):
    first, second = (
        extract_command(tmp_path, extract, 1, Share(i, 2), pause_s=0.1) for i in (0, 1)
    )
    rng = random.Random(5)
    for _ in range(2):
        with started(first) as start:
            wait_until(lambda: any(tmp_path.glob("*/.lock.plan")) or start.process.poll())
            with contextlib.suppress(subprocess.TimeoutExpired):
                start.process.wait(rng.uniform(0, 3))
            start.process.kill()
            assert start.leaves_nobody()
    for command, is_last in ((second, False), (first, True)):
        with started(command) as start:
            status, output, errors = start.ended()
        assert status == 0, errors
        assert output == "whole\n" or not is_last
    assert everything(tmp_path) == features


@pytest.mark.parametrize("extract", ["parquet"], indirect=True)  # plans know no format
def test_extract_planner_killed_leaves_the_plan_to_the_one_that_waits(extract, features, tmp_path):
    slow = extract_command(tmp_path, extract, 1, Share(0, 2), pause_s=60)
    with started(slow) as planner:
        planner.says("probing 64 images")
        with started(extract_command(tmp_path, extract, 1, Share(1, 2))) as other:
            other.says("waiting for another command that plans here")
            planner.process.kill()
            assert planner.leaves_nobody()
            assert other.ended()[:2] == (0, "not whole\n")
    with started(extract_command(tmp_path, extract, 1, Share(0, 2))) as start:
        assert start.ended()[:2] == (0, "whole\n")
    assert everything(tmp_path) == features


@pytest.mark.parametrize("extract", ["parquet"], indirect=True)  # plans know no format
def test_extract_overwrite_by_shares_that_wait_writes_the_new_caches(extract, features, tmp_path):
    other = dataclasses.replace(extract, dtype="float32", encoding="dense", seed=1)
    fill_with(tmp_path, network(other), inline.open_crew, CrewSettings(()))
    anew = dataclasses.replace(extract, overwrite=True)
    with contextlib.ExitStack() as stack:
        with locks.planning(tmp_path / "front"):
            starts = [
                stack.enter_context(started(extract_command(tmp_path, anew, 1, Share(i, 2))))
                for i in (0, 1)
            ]
            for start in starts:
                start.says("waiting for another command that plans here")
        ends = [start.ended() for start in starts]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert everything(tmp_path) == features


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an extract whose share 0 of 2 has planned and is not done."""
    folder = tmp_path_factory.mktemp("at_work")
    command = extract_command(folder, AT_WORK, 1, Share(0, 2), pause_s=3)
    with started(command) as start:
        plan = folder / "pool" / "plan.json"
        wait_until(lambda: plan.exists() or start.process.poll() is not None)
        yield folder
        assert start.process.poll() is None, "was done before the others came"


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Share(0, 3), r"share 0-of-3 was asked for, and share 0-of-2 is .* same --num-tasks 2$"),
        (Share(0, 2), r"another command is at work here \(\.lock\.0-of-2: pid "),
        (Share(), r"another command is at work here \(\.lock\.0-of-2: pid "),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_extract_share_that_goes_not_with_one_at_work_is_refused(share, words, at_work):
    way = dataclasses.replace(WAY, share=share)
    with pytest.raises(ManifestError, match=words):
        fill_with(at_work, network(AT_WORK), inline.open_crew, way=way)


def test_extract_overwrite_beside_a_share_at_work_is_refused(at_work):
    plans = {path: path.read_bytes() for path in at_work.glob("*/plan.json")}
    anew = dataclasses.replace(AT_WORK, seed=1, overwrite=True)
    way = dataclasses.replace(WAY, share=Share(1, 2))
    with pytest.raises(ManifestError, match=r"another command is at work here \(\.lock\.0-of-2"):
        fill_with(at_work, network(anew), inline.open_crew, way=way)
    assert {path: path.read_bytes() for path in at_work.glob("*/plan.json")} == plans
