"""A tiny workspace, compressed and extracted once with a real network; tests work on copies."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gpus import put_gpus, put_program
from images import write_jpeg, write_png

from pipelines.config import CompressConfig, ExtractConfig, TrainTailConfig
from pipelines.execution import devices, inline, slots
from pipelines.execution.slots import Gpu
from pipelines.networks import backbones
from pipelines.networks.backbones import Backbone
from pipelines.progress import Silent

NUM_PER_CLASS = 10
NUM_THREADS = ExtractConfig().threads
BATCH_SIZE = 4  # divides no shard of the workspace: every last batch is padded


class Extracted(NamedTuple):
    """A workspace behind its first two stages; not to be changed.

    Attributes:
        path: the workspace.
        config: what its two caches, float32, were extracted with.
        summary: what extract returned.
    """

    path: Path
    config: ExtractConfig
    summary: dict[str, Any]


class Notes(Silent):
    """Keeps what a stage says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="session", autouse=True)
def threads_of_extract() -> Iterator[None]:
    """Give TensorFlow in this process the threads that extract asks for, whoever begins with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "num_cores", lambda: NUM_THREADS)
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            patch.setenv(name, str(NUM_THREADS))  # where a test begins without asking
        yield


@pytest.fixture(scope="module")
def networks_once() -> Iterator[None]:
    """Let the stages that a module runs in this process build every network once.

    For tests of what is done with a network, not of how it is loaded; fails where its weights are
    others in the end.
    """
    load = backbones.load

    @functools.cache
    def kept(name: str, weights: str, seed: int, policy: str) -> Backbone:
        return load(name, weights, seed)

    found: dict[int, Backbone] = {}

    def load_once(name: str, weights: str = backbones.IMAGENET, seed: int = 0) -> Backbone:
        import keras

        if weights not in (backbones.IMAGENET, backbones.NONE):  # a file, which may change
            return load(name, weights, seed)
        backbone = kept(name, weights, seed, keras.config.dtype_policy().name)
        return found.setdefault(id(backbone), backbone)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load", load_once)
        yield
    for backbone in found.values():
        assert backbones._hash_arrays(backbone.name, backbone.model) == backbone.weights_sha256


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of small pieces of real photographs, JPEG and PNG, gray and colour."""
    from skimage import data

    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    pictures = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
    for name, picture in {**pictures, "coffee": data.coffee()}.items():
        (root / name).mkdir()
        for number in range(NUM_PER_CLASS):
            side = int(rng.integers(40, 90))
            top, left = (int(rng.integers(0, length - side)) for length in picture.shape[:2])
            piece = np.ascontiguousarray(picture[top : top + side, left : left + side])
            if number % 2:
                write_png(root / name / f"{number:02d}.png", piece)
            else:
                write_jpeg(root / name / f"{number:02d}.jpg", piece)
    return root


@pytest.fixture(scope="session")
def extracted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    """The workspace of the photos, with the caches of two nodes of EfficientNet-Lite0."""
    from pipelines import compress, extract

    workspace = tmp_path_factory.mktemp("extracted")
    (workspace / "bottleneck.toml").write_text("")
    images = CompressConfig(images=str(photos), qualities=(10, 50), shards=5)
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    config = ExtractConfig(
        backbone="efficientnet_lite0",
        node=("avg_pool", "block7a_expand_activation"),
        dtype="float32",
        batch_size=BATCH_SIZE,
        shards=5,
    )
    return Extracted(
        workspace, config, extract.run(workspace, config, 0, Silent(), inline.open_crew)
    )


@pytest.fixture
def workspace(extracted: Extracted, tmp_path: Path) -> Path:
    """A copy of the extracted workspace that a test may change."""
    return Path(shutil.copytree(extracted.path, tmp_path / "workspace"))


@pytest.fixture(scope="session")
def trained_once(extracted: Extracted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extracted workspace with finished runs: pooled, and maps with a tail; not to be changed.

    `pooled` joins its branches side by side, `maps` by weights from the image's own features.
    """
    from pipelines import train_tail

    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    shutil.copytree(extracted.path, workspace)
    short = {"batch_size": 7, "epochs": 2, "learning_rate": 0.02, "gradients": "all"}
    for run, node, fusion in (
        ("pooled", "avg_pool", "concat"),
        ("maps", "block7a_expand_activation", "gated"),
    ):
        config = TrainTailConfig(run=run, node=node, fusion=fusion, **short)
        train_tail.run(workspace, workspace / "features", config, 0, Silent())
    return workspace


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of the workspace with finished runs that a test may change."""
    return Path(shutil.copytree(trained_once, tmp_path / "workspace"))


@pytest.fixture(scope="session")
def stored_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from verifying import make_workspace

    return make_workspace(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def stored(stored_once: Path, tmp_path: Path) -> Path:
    """A copy of a workspace with variants, and with made-up caches of both formats."""
    return Path(shutil.copytree(stored_once, tmp_path / "workspace"))


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver tell of two GPUs."""
    put_gpus(tmp_path, monkeypatch)


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver tell of none."""
    put_program(tmp_path, monkeypatch, "exit 0")


@pytest.fixture(scope="session")
def there() -> list[Gpu]:
    """The GPUs of this machine."""
    program = (
        "from pipelines.execution import devices\ndevices.configure()\nprint(devices.has_gpu())\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if result.stdout.split()[-1:] != ["True"]:
        pytest.skip(f"needs a GPU that TensorFlow can use: {result.stderr[-500:]}")
    return slots.gpus()


@pytest.fixture(scope="session")
def alike(there: list[Gpu]) -> list[Gpu]:
    """The GPUs, where they are several of one kind."""
    if len(there) < 2 or not there[0].name or len({gpu.name for gpu in there}) > 1:
        pytest.skip("needs two GPUs of one kind, known by name")
    return there


@pytest.fixture(scope="session")
def judged_once(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two judged runs of a chain; not to be changed."""
    from judged_workspaces import make

    return make(tmp_path_factory.mktemp("judged") / "workspace", photos)


@pytest.fixture
def judged(judged_once: Path, tmp_path: Path) -> Path:
    """A copy of the workspace with judged runs that a test may change."""
    return Path(shutil.copytree(judged_once, tmp_path / "workspace"))
