"""Workers and shares that cannot be: each is one clear error, and nothing on disk has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import invoke, the_error
from crashing import Deadly, DeadlyNetwork
from editing import edit
from extracting import BEHIND, Extract
from images import make_class_folders
from lockers import HOLDER
from processes import ask, running, tree
from working import Network, fill_with, network

from pipelines import extract
from pipelines.errors import DeviceLostError, ManifestError, WorkerError
from pipelines.execution.engine import CrewSettings
from pipelines.execution.slots import cpu_slots
from pipelines.extraction.inputs import Origin
from pipelines.extraction.network import BatchTooLargeError, Job, _guarded
from pipelines.networks.forward import Batch
from pipelines.progress import Silent

SET = "variants/jpeg"
EXTRACT = Extract(batch_size=12)


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    """A workspace with the variants of eight images in three shards."""
    make_class_folders(tmp_path / "images", num_per_class=4)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    settings = f"images = '{tmp_path / 'images'}'\nqualities = [50]\nshards = 3\n"
    (workspace / "bottleneck.toml").write_text(f"[compress]\n{settings}")
    assert invoke("compress", "-C", workspace).exit_code == 0
    return workspace


@pytest.fixture
def unchanged(compressed: Path) -> Iterator[Path]:
    """The same workspace, in which a test may change no file."""
    before = content(compressed)
    yield compressed
    assert content(compressed) == before


def content(workspace: Path) -> dict[str, bytes]:
    """Return all files but logs and the lock of another process, which ends by a kill."""
    found = tree(workspace, (".lock.1-of-2",))
    return {name: data for name, data in found.items() if not name.startswith("logs/")}


@pytest.mark.parametrize("command", ["compress", "extract"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "0"], "--workers: '0' is not allowed; allowed: auto, or 1 or more"),
        (
            ["--task-index", "3", "--num-tasks", "3"],
            "task-index 3: with --num-tasks 3 it is one of 0 to 2",
        ),
        (["--task-index", "1"], "task-index 1: with --num-tasks 1 it is one of 0 to 0"),
        (["--num-tasks", "0"], "--num-tasks: '0' is not allowed; allowed: 1 or more"),
        (["--hang-timeout", "-1"], "--hang-timeout: '-1' is not allowed; allowed: 0 or more"),
    ],
)
def test_command_of_workers_that_cannot_be_is_a_usage_error(command, flags, words, unchanged):
    assert the_error(invoke(command, "-C", unchanged, *flags), status=2) == words


@pytest.mark.parametrize("devices", ["gpu", "gpu:7"])
def test_extract_on_a_gpu_that_is_not_there_is_a_usage_error(devices, unchanged, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    message = the_error(invoke("extract", "-C", unchanged, "--devices", devices), status=2)
    there = "no GPU" if devices == "gpu" else "no gpu:7"
    assert message == (
        f"devices {devices}: {there} here, there are no GPUs; choose others or --devices cpu"
    )


def test_compress_more_workers_than_shards_are_told_and_it_goes_on(compressed):
    flags = ["--qualities", "60", "--overwrite", "--workers", "9"]
    result = invoke("compress", "-C", compressed, *flags)
    assert result.exit_code == 0, result.output
    assert "9 workers are asked for, and 3 shards are left\n" in result.stderr
    assert (compressed / SET / "manifest.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--task-index", "0", "--num-tasks", "3"],
            "share 0-of-3 was asked for, and share 1-of-2 is at work (.lock.1-of-2: pid ",
        ),
        (
            ["--task-index", "1", "--num-tasks", "2"],
            "another command is at work here (.lock.1-of-2: pid ",
        ),
        ([], "another command is at work here (.lock.1-of-2: pid "),
        (
            ["--task-index", "0", "--num-tasks", "2", "--qualities", "60", "--overwrite"],
            "another command is at work here (.lock.1-of-2: pid ",
        ),
    ],
    ids=["other number", "same share", "all", "overwrite"],
)
def test_compress_that_goes_not_with_a_share_at_work_is_refused(flags, words, unchanged):
    with running(HOLDER, unchanged / SET, "1-of-2") as other:
        assert ask(other, "hold") == "held"
        message = the_error(invoke("compress", "-C", unchanged, *flags))
        assert message.startswith(f"{unchanged / SET}: {words}")
        assert ask(other, "check") == "mine"


def change_profile(workspace: Path, **changes: Any) -> None:
    """Let the plan of avg_pool say that it was made in another profile."""

    def change(plan: Any) -> None:
        plan["fingerprint"]["profile"].update(changes)

    folder = workspace / "features" / "avg_pool"
    edit(folder / "plan.json", change)
    (folder / "manifest.json").unlink()


def message_of_extract(workspace: Path, config: Any) -> str:
    before = tree(workspace / "features")
    with pytest.raises(ManifestError) as caught:
        extract.run(workspace, config.model_copy(update={"node": ("avg_pool",)}), 0, Silent())
    assert tree(workspace / "features") == before
    return str(caught.value)


@pytest.mark.slow
def test_extract_plan_of_another_machine_is_refused_with_the_differences(extracted, workspace):
    others = {"instruction_set": "m68k none", "tensorflow": "1.2.3", "device": "Quadro FX"}
    change_profile(workspace, **others)
    message = message_of_extract(workspace, extracted.config)
    assert message.startswith(f"{workspace}/features/avg_pool: made with profile.device Quadro FX,")
    for key, value in others.items():
        assert f"profile.{key} {value}, now " in message
    assert message.endswith("; ask for that again, or start over with --overwrite")


@pytest.mark.slow
def test_extract_plan_of_other_threads_is_refused_before_the_network_is_loaded(
    extracted, workspace
):
    change_profile(workspace, threads=5)

    def engine(job: Any, settings: CrewSettings) -> Any:
        raise AssertionError("nobody need work")

    with pytest.raises(ManifestError, match=r"avg_pool: made with profile\.threads 5, now 2; ask"):
        extract.run(workspace, extracted.config, 0, Silent(), engine)


class Memory:
    """A device for batches of at most so many images, which says what TensorFlow says.

    Attributes:
        tried: the size of each batch.
    """

    def __init__(self, most: int) -> None:
        self.tried: list[int] = []
        self._most = most

    def network(self, batch_size: int, has_gpu: bool) -> Any:
        run = _guarded(Batch(batch_size, 11, (4, 4, 3), None), has_gpu, self._run)
        return SimpleNamespace(run=run, batch_size=batch_size)

    def warm_up(self, built: Any) -> None:
        self.tried.append(built.batch_size)
        built.run(built.batch_size)

    def _run(self, num_images: int) -> None:
        import tensorflow as tf

        if num_images > self._most:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")


def job_of(batch_size: int) -> Job:
    origin = Origin(Path("variants"), ("original",))
    return Job("mobilenet", "none", 0, (), origin, batch_size, "float32", 1)


@pytest.mark.parametrize(
    ("most", "tried"), [(100, [64]), (20, [64, 32, 16]), (1, [64, 32, 16, 8, 4, 2, 1])]
)
def test_batch_of_any_size_is_halved_until_it_fits(most, tried):
    memory = Memory(most)
    assert job_of(0)._fitting(memory, has_gpu=True).batch_size == tried[-1]
    assert memory.tried == tried


@pytest.mark.parametrize(("asked", "size"), [(0, 1), (24, 24)])
def test_batch_that_does_not_fit_says_what_to_do(asked, size):
    words = rf"^a batch of {size} images in 11 versions does not fit .* a smaller --batch-size"
    with pytest.raises(BatchTooLargeError, match=words):
        job_of(asked)._fitting(Memory(0), has_gpu=True)


@pytest.mark.parametrize("kind", ["InternalError", "UnavailableError", "UnknownError"])
def test_device_that_fails_is_lost_where_it_is_a_gpu(kind):
    import tensorflow as tf

    error = getattr(tf.errors, kind)

    def run(inputs: Any) -> None:
        raise error(None, None, "the driver shut down\nat 0x1234")

    batch = Batch(2, 1, (4, 4, 3), None)
    with pytest.raises(DeviceLostError, match=r"^the driver shut down$"):
        _guarded(batch, True, run)(None)
    with pytest.raises(error):
        _guarded(batch, False, run)(None)


def test_extract_workers_that_hang_are_ended_and_counted(tmp_path):
    work = DeadlyNetwork(EXTRACT, behind=BEHIND, at_work=Deadly(hang=["batch"]))
    with pytest.raises(WorkerError, match=r"the probe: 3 worker .* died .* by its long silence; "):
        fill_with(tmp_path, work, crew_settings=CrewSettings(cpu_slots(1), hang_s=1))
    assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("plan.json")]


@pytest.mark.slow
def test_extract_worker_that_is_slow_and_not_silent_is_none_that_hangs(tmp_path):
    extract = Extract(batch_size=1)  # seven images are probed, in 2.8 seconds
    work: Network = network(extract, pause_s=0.4)
    fill_with(tmp_path / "slow", work, crew_settings=CrewSettings(cpu_slots(1), hang_s=2))
    fill_with(tmp_path / "fast", network(extract))
    assert tree(tmp_path / "slow", ()) == tree(tmp_path / "fast", ())
