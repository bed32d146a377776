"""Checks of `extract` for a machine with NVIDIA GPUs; run them with `bash tests/gpu/run.sh`.

They need a TensorFlow that can use a GPU (`make env EXTRAS=demo,dev,gpu`), and a few GB of its
memory; some need two GPUs of one kind. Everything is small but the last check, which is there for
the line that it prints: how busy the GPUs were, and what they waited for. It asserts nothing.

Elsewhere they are skipped: without /dev/nvidiactl nothing more is looked at. They load TensorFlow
in processes of their own alone. No GPU has run them yet: where one fails, it may be the check.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extracting import files, read_all

from bottleneck_cli import tables
from pipelines import compress, extract
from pipelines.config import CompressConfig, ExtractConfig
from pipelines.errors import ConfigError, ManifestError
from pipelines.execution.slots import Gpu
from pipelines.extraction.cut_check import BOUNDS
from pipelines.networks.efficientnet_lite0 import weights_path
from pipelines.networks.torch_pickle import read_state_dict
from pipelines.progress import Silent

NODE, MAPS = "avg_pool", "block7a_expand_activation"
NUM_SHARDS = 8
NOT_VISIBLE = "-1"

pytestmark = pytest.mark.slow
if not Path("/dev/nvidiactl").exists():
    pytest.skip("needs a GPU that TensorFlow can use", allow_module_level=True)


class Watching(Silent):
    """Calls something at each count of images; workers are at work meanwhile."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def advance(self, count: int) -> None:
        if count > 0:
            self._look()


@pytest.fixture(scope="module")
def compressed(there: list[Gpu], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the variants of forty small photographs; not to be changed."""
    workspace = tmp_path_factory.mktemp("compressed")
    config = CompressConfig(images=str(photos), qualities=(10, 50), shards=5)
    compress.run(workspace, config, 0, Silent())
    return workspace


@pytest.fixture(scope="module")
def on_one_gpu(compressed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The caches of two nodes, float32, made by one GPU; not to be changed."""
    features_dir = tmp_path_factory.mktemp("one") / "features"
    run(compressed, features_dir, node=(NODE, MAPS), devices="gpu:0")
    return features_dir


def run(
    workspace: Path, features_dir: Path, progress: Silent | None = None, **settings: Any
) -> dict[str, Any]:
    given = {
        "backbone": "efficientnet_lite0",
        "node": (NODE,),
        "dtype": "float32",
        "devices": "gpu",
        "batch_size": 4,
        "shards": NUM_SHARDS,
        "features_dir": str(features_dir),
    }
    config = ExtractConfig(**{**given, **settings})
    return extract.run(workspace, config, 0, progress or Silent())


def fingerprint(features_dir: Path, node: str = NODE) -> dict[str, Any]:
    plan = json.loads((features_dir / node / "plan.json").read_text(encoding="utf-8"))
    return plan["fingerprint"]


def lose_a_shard(features_dir: Path, node: str = NODE) -> None:
    min((features_dir / node).glob("train-*")).unlink()


def scores(features_dir: Path) -> np.ndarray:
    """Bring pooled maps to the decision layer's scores: float64 (images, branches, classes)."""
    state = read_state_dict(weights_path())
    maps = read_all(features_dir / NODE).maps.astype(np.float64)
    return maps @ state["_fc.weight"].T + state["_fc.bias"]


def used_mb(gpu: Gpu) -> tuple[int, int]:
    """Ask the driver how much of a GPU's memory is taken, by anybody, and how much there is."""
    query = ["--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    command = ["nvidia-smi", "-i", gpu.visible, *query]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used, total = map(int, answer.split(","))
    return used, total


def test_profile_names_the_gpu_and_the_precision(on_one_gpu, there):
    profile = fingerprint(on_one_gpu)["profile"]
    assert profile["device"].startswith(there[0].name)  # a part of a GPU has more to its name
    assert profile["device"] != "cpu"
    assert profile["precision"] == "float32"


def test_one_gpu_twice_gives_the_same_bytes(compressed, on_one_gpu, tmp_path):
    run(compressed, tmp_path / "features", node=(NODE, MAPS), devices="gpu:0")
    assert files(tmp_path / "features") == files(on_one_gpu)


def test_all_gpus_give_the_bytes_of_one(compressed, on_one_gpu, alike, tmp_path):
    summary = run(compressed, tmp_path / "features", node=(NODE, MAPS), devices="gpu")
    assert summary["num_workers"] == min(len(alike), NUM_SHARDS)
    assert files(tmp_path / "features") == files(on_one_gpu)


def test_shares_on_two_gpus_give_the_bytes_of_one(compressed, on_one_gpu, alike, tmp_path):
    for index in (0, 1):
        settings = {"task_index": index, "num_tasks": 2, "devices": f"gpu:{index}"}
        summary = run(compressed, tmp_path / "features", node=(NODE, MAPS), **settings)
        assert summary["is_whole"] == bool(index)
    assert files(tmp_path / "features") == files(on_one_gpu)


def test_automatic_batch_size_is_one_that_fits_and_stands_in_the_plan(compressed, tmp_path):
    run(compressed, tmp_path / "features", batch_size="auto")
    assert fingerprint(tmp_path / "features")["batch_size"] in (1, 2, 4, 8, 16, 32, 64)
    made = files(tmp_path / "features")
    lose_a_shard(tmp_path / "features")
    run(compressed, tmp_path / "features", batch_size="auto")
    assert files(tmp_path / "features") == made


def test_automatic_batch_size_is_that_of_a_plan_that_is_there(compressed, tmp_path):
    run(compressed, tmp_path / "features", batch_size=2)
    made = files(tmp_path / "features")
    lose_a_shard(tmp_path / "features")
    run(compressed, tmp_path / "features", batch_size="auto")
    assert files(tmp_path / "features") == made


def test_float32_has_the_scores_of_the_cpu(compressed, on_one_gpu, tmp_path):
    run(compressed, tmp_path / "features", devices="cpu")
    found, expected = scores(on_one_gpu), scores(tmp_path / "features")
    difference = np.abs(found - expected) / np.abs(expected).max(axis=2, keepdims=True)
    assert difference.max() <= BOUNDS["float32"]
    np.testing.assert_array_equal(found.argmax(axis=2), expected.argmax(axis=2))


def test_float32_passes_its_check_of_the_cut(on_one_gpu):
    for node in (NODE, MAPS):
        check = json.loads((on_one_gpu / node / "cut-check.json").read_text(encoding="utf-8"))
        assert check["max_difference"] <= BOUNDS["float32"]
        assert check["same_top1"] == 1


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_passes_its_check_of_the_cut(precision, compressed, tmp_path):
    settings = {"node": (NODE, MAPS), "dtype": "float16", "precision": precision}
    summary = run(compressed, tmp_path / "features", **settings)
    for node in (NODE, MAPS):
        check = summary["nodes"][node]["cut_check"]
        assert check["max_difference"] <= check["bound"] == BOUNDS["float16"]
        assert fingerprint(tmp_path / "features", node)["profile"]["precision"] == precision


def test_cache_of_a_gpu_is_not_gone_on_with_on_the_cpu(compressed, tmp_path):
    run(compressed, tmp_path / "features")
    lose_a_shard(tmp_path / "features")
    with pytest.raises(ManifestError, match=r"profile\.device"):
        run(compressed, tmp_path / "features", devices="cpu")


def test_worker_killed_on_a_gpu_is_replaced(compressed, on_one_gpu, tmp_path):
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    killed: list[int | None] = []

    def kill() -> None:
        if not killed:
            worker = multiprocessing.active_children()[0]
            killed.append(worker.pid)
            worker.kill()

    logger = logging.getLogger("pipelines.execution.local")
    logger.addHandler(handler)
    try:
        settings = {"node": (NODE, MAPS), "devices": "gpu:0"}
        run(compressed, tmp_path / "features", Watching(kill), **settings)
    finally:
        logger.removeHandler(handler)
    assert [text for text in said if text.startswith("gpu:0: ended by SIGKILL")]
    assert files(tmp_path / "features") == files(on_one_gpu)


def test_memory_grows_and_leaves_most_to_others(compressed, there, tmp_path):
    before, total = used_mb(there[0])
    seen: list[int] = []
    watching = Watching(lambda: seen.append(used_mb(there[0])[0]))
    run(compressed, tmp_path / "features", watching, devices="gpu:0", batch_size=1)
    assert before < max(seen) < before + total // 2


def test_cuda_visible_devices_hides_all_gpus(compressed, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", NOT_VISIBLE)
    with pytest.raises(ConfigError, match="no GPU here"):
        run(compressed, tmp_path / "features", devices="gpu")
    run(compressed, tmp_path / "features", devices="auto")
    assert fingerprint(tmp_path / "features")["profile"]["device"] == "cpu"


def test_cuda_visible_devices_leaves_the_last_gpu(compressed, alike, monkeypatch, tmp_path):
    before = [used_mb(gpu)[0] for gpu in alike]
    seen: list[list[int]] = []
    watching = Watching(lambda: seen.append([used_mb(gpu)[0] for gpu in alike]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", alike[-1].visible)
    summary = run(compressed, tmp_path / "features", watching, devices="gpu")
    assert summary["num_workers"] == 1
    more = np.max(seen, axis=0) - before
    assert more.argmax() == len(alike) - 1  # of the others nothing was taken


def test_gpu_beyond_the_last_is_an_error(compressed, there, tmp_path):
    with pytest.raises(ConfigError, match=f"no gpu:{len(there)} here") as caught:
        run(compressed, tmp_path / "features", devices=f"gpu:{len(there)}")
    assert caught.value.is_usage
    assert not (tmp_path / "features").exists()


def test_more_workers_than_gpus_are_an_error(compressed, there, tmp_path):
    with pytest.raises(ConfigError, match="each has one worker"):
        run(compressed, tmp_path / "features", workers=len(there) + 1)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_busy_share_of_all_gpus(precision, there, capsys, tmp_path):
    pytest.importorskip("elpv_dataset")
    images = CompressConfig(images="elpv", limit=1024)
    compress.run(tmp_path, images, 0, Silent())
    settings = {"batch_size": "auto", "dtype": "float16", "precision": precision, "shards": 16}
    summary = run(tmp_path, tmp_path / "features", **settings)
    made = fingerprint(tmp_path / "features")
    with capsys.disabled():
        print(
            f"\n  {there[0].name} x {summary['num_workers']}, {precision}, {NODE}, "
            f"{made['batch_size']} images x {len(made['branches'])} branches a batch: "
            f"{summary['images_per_s']:.1f} images/s, starts and probe included",
            *tables.work(summary),
            sep="\n",
        )
