"""Checks of `train-tail` for a machine with NVIDIA GPUs; run them with `bash tests/gpu/run.sh`.

They train the last block of EfficientNet-Lite0 on a small made-up cache, in processes of their own.
No GPU has run them yet: where one fails, it may be the check.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from caches import lite0, make_cache
from processes import bottleneck, kill_when, num_lines, tree

from pipelines.execution.slots import Gpu
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

NODE, SHAPE = "block7a_project_bn", (7, 7, 320)
# Two and a bit batches an epoch; the last one is of a single image.
FLAGS = ("--batch-size", "10", "--epochs", "2", "--patience", "2", "--eval-every", "1")
FLAGS += ("--learning-rate", "0.001")
pytestmark = pytest.mark.slow
if not Path("/dev/nvidiactl").exists():
    pytest.skip("needs a GPU that TensorFlow can use", allow_module_level=True)


def make_workspace(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "bottleneck.toml").write_text("")
    rows = {"train": 21, "val": 11, "test": 4}
    made = {"dtype": "float16", "encoding": "sparse", "rows": rows, "noise": 2.0}
    make_cache(folder / "features" / NODE, lite0(), SHAPE, **made)
    return folder


def train(folder: Path, *flags: str) -> Path:
    """Train in a workspace of its own; returns it."""
    workspace = make_workspace(folder)
    result = bottleneck(workspace, "train-tail", *FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    return workspace


def result_of(workspace: Path) -> dict[str, bytes]:
    """Everything that a run leaves but what a clock wrote: also in TensorBoard's files' names."""
    files = tree(workspace / "runs", (".lock", "timings.jsonl"))
    return {name: data for name, data in files.items() if "/tensorboard/" not in name}


def history_of(workspace: Path) -> list[dict[str, float]]:
    text = (workspace / "runs" / NODE / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_close(workspace: Path, expected: Path, tolerance: float) -> None:
    """Compare losses and the last weights, each with the largest number of its array."""
    for one, other in zip(history_of(workspace), history_of(expected), strict=True):
        assert one["step"] == other["step"]
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=tolerance)
    for model in ("topology", "default"):
        stores = [Store.of(path / "runs" / NODE, model) for path in (workspace, expected)]
        found, wanted = (checkpoints.load(s.path(s.kept().latest))[0] for s in stores)
        for name, value in wanted.items():
            scale = max(1e-3, float(np.abs(value).max(initial=0)))
            np.testing.assert_allclose(found[name], value, atol=tolerance * scale, err_msg=name)


@pytest.fixture(scope="module")
def on_one_gpu(there: list[Gpu], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on the first GPU; not to be changed."""
    return train(tmp_path_factory.mktemp("one"), "--devices", "gpu:0")


def test_one_gpu_twice_gives_the_same_bytes(on_one_gpu, tmp_path):
    assert result_of(train(tmp_path, "--devices", "gpu:0")) == result_of(on_one_gpu)


def test_one_gpu_killed_and_gone_on_with_gives_the_same_bytes(on_one_gpu, tmp_path):
    workspace = make_workspace(tmp_path)
    command = ("train-tail", *FLAGS, "--devices", "gpu:0")
    history = workspace / "runs" / NODE / "history.jsonl"
    kill_when(lambda: num_lines(history) >= 3, workspace, *command)
    result = bottleneck(workspace, *command)
    assert result.returncode == 0, result.stderr
    assert result_of(workspace) == result_of(on_one_gpu)


def test_one_gpu_expanding_on_the_host_gives_the_same_numbers(on_one_gpu, tmp_path):
    workspace = train(tmp_path, "--devices", "gpu:0", "--expand", "host")
    assert_close(workspace, on_one_gpu, 1e-5)


def test_one_gpu_has_the_losses_of_the_cpu(on_one_gpu, tmp_path):
    assert_close(on_one_gpu, train(tmp_path, "--devices", "cpu"), 1e-3)


def test_all_gpus_train_as_one(on_one_gpu, alike, tmp_path):
    workspace = train(tmp_path, "--devices", "gpu")
    text = (workspace / "runs" / NODE / "timings.jsonl").read_text(encoding="utf-8")
    assert json.loads(text.splitlines()[-1])["num_devices"] == len(alike)
    assert_close(workspace, on_one_gpu, 1e-3)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_comes_close(on_one_gpu, precision, tmp_path):
    workspace = train(tmp_path, "--devices", "gpu:0", "--precision", precision)
    for one, other in zip(history_of(workspace), history_of(on_one_gpu), strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=0.05)


def test_memory_budget_is_no_matter_on_a_gpu(on_one_gpu, tmp_path):
    workspace = train(tmp_path, "--devices", "gpu:0", "--cache-memory", "0")
    assert result_of(workspace) == result_of(on_one_gpu)
