"""The benchmarks run at their smallest size and give figures; how good those are is not tested."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TINY_TRAINING = (
    "--backbone efficientnet_lite0 --images 20 --classes 5 --batch-size 10 --epochs 1 "
    "--node block7a_project_bn --deep-images 8 --devices-batch-size 4 --heads 2 "
    "--cells 12 --uncached 2 --memory-images 20 40"
)


@pytest.fixture
def load(monkeypatch):
    """Import a file of benchmarks/, which is not installed."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def run_benchmark(name: str, arguments: str, json_path: Path) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments.split()]
    result = subprocess.run(
        [*command, "--repetitions", "1", "--json", str(json_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    content = json.loads(json_path.read_text())
    assert all(row["name"] in result.stdout for row in content["rows"])
    return content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("compress", "--images 12", ["elpv"] * 2 + ["photos"] * 2),
        (
            "extract",
            "--images 6 --batch-size 2 --qualities 50",
            ["avg_pool and block7a_expand_activation"],
        ),
        (
            "training",
            TINY_TRAINING,
            [
                *("5 classes", "5 classes", "train tail", "--gradients original"),
                *("--devices cpu:2", "sweep of 2 heads", "sweep of 2 heads"),
                *("cache in memory", "cache streamed", "cache in memory"),
                *("40 images", "5 classes, momentum"),
            ],
        ),
        (
            "memory",
            "--images 8 12 --nodes avg_pool --qualities 50 --workers 1 --stages compress extract",
            ["compress", "extract"],
        ),
        ("scaling", "--images 12 --parts compress engine", ["compress", "compress"]),
        (
            "evaluation",
            "--images 100 --branches 3 --classes 20",
            ["judge 100 images", "judge 100 images", "peak memory"],
        ),
    ],
)
def test_benchmark_tiny_writes_finite_positive_ratios(name, arguments, expected, tmp_path):
    content = run_benchmark(name, arguments, tmp_path / "rows.json")
    assert content["benchmark"] == name
    for row, words in zip(content["rows"], expected, strict=True):
        assert words in row["name"]
        numbers = [row["figure"], row["baseline"], row["ratio"], *row["ratio_range"]]
        numbers += row["details"].values()
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert row["ratio"] == pytest.approx(row["figure"] / row["baseline"])


@pytest.mark.slow
def test_cache_tiny_gives_every_part_a_ratio(tmp_path):
    maps = np.maximum(np.random.default_rng(0).standard_normal((4, 2, 7, 7, 16), np.float32), 0)
    np.savez(tmp_path / "maps.npz", features=maps)
    arguments = f"--features {tmp_path / 'maps.npz'} --skip start memory epoch"
    content = run_benchmark("cache", arguments, tmp_path / "rows.json")
    names = [row["name"] for row in content["rows"]]
    for words in (
        "parquet uint8",
        "tfrecord float16",
        "text file",
        "blosc2",
        "noise, 50% non-zero",
        "pooled noise",
        "two reader",
    ):
        assert any(words in name for name in names), words
    assert all(row["ratio"] > 0 for row in content["rows"])


def test_imagenet_start_is_measured_at_both_steps(load):
    row = load("cache_bounds").imagenet_start(1)
    assert "1,281,167 images" in row.name
    assert row.figure > 0
    assert row.baseline > 0


def test_memory_compress_only_is_more_than_an_interpreter(tmp_path):
    content = run_benchmark(
        "memory", "--stages compress --images 8 12 --qualities 50", tmp_path / "rows.json"
    )
    row, _ = content["rows"]
    # An interpreter alone holds about 10 MB; KiB taken for bytes, or bytes for KiB, shows here.
    assert 20 < row["baseline"] < 20_000


def test_memory_sizes_the_wrong_way_round_is_refused():
    command = [sys.executable, "-m", "benchmarks.memory", "--images", "12", "8"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "first number must be the smaller" in result.stderr


def test_take_turns_warm_up_alternates_and_drops_the_first_round(load):
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    figures = load("report").take_turns(
        {"a": lambda: measure("a"), "b": lambda: measure("b")}, repetitions=2, warm_up=True
    )
    assert calls == ["a", "b"] * 3
    assert figures == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_compare_machine_that_slows_down_gives_the_ratio_of_each_round(load):
    row = load("report").compare("x", "images/s", [8.0, 4.0, 2.1], [10.0, 5.0, 2.0], "y", "any")
    assert (row.figure, row.baseline) == (4.0, 5.0)
    assert row.ratio == pytest.approx(0.8)
    assert row.ratio_range == pytest.approx((0.8, 1.05))


def test_photos_write_gives_the_same_textured_photographs_again(load, tmp_path):
    pytest.importorskip("skimage")
    for name in ("a", "b"):
        load("photos").write(tmp_path / name, 8)
    files = sorted((tmp_path / "a").rglob("*.jpg"))
    assert len(files) == 8
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((500, 375), "RGB")
    assert 80_000 < np.mean([path.stat().st_size for path in files]) < 140_000


def test_synthetic_cache_read_back_has_the_asked_shape_and_density(load, tmp_path):
    synthetic_cache = load("synthetic_cache")
    nodes = importlib.import_module("pipelines.networks.nodes")
    node = nodes.Node("avg_pool", "avg_pool", (256,), 256, 1024, 0, 0.0, "FC")
    contents = synthetic_cache.Contents({"train": 70, "val": 10}, 7, density=0.3)
    cache = synthetic_cache.write(tmp_path, node, contents)
    (batch,) = cache.split("train", cache.layout.branches, 0).in_order(70)
    assert batch.features.shape == (70, 11, 256)
    assert np.count_nonzero(batch.features) / batch.features.size == pytest.approx(0.3, abs=0.02)
    assert set(batch.labels) == set(range(7))
    assert (cache.num_rows("val"), len(cache.classes)) == (10, 7)
