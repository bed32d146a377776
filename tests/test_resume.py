"""Trainings as real processes, killed or asked to end at chosen moments and started again."""

from __future__ import annotations

import json
import re
import shutil
import signal

import pytest
from caches import lite0, make_cache
from commands import invoke
from processes import kill_when, num_lines, snapshots, started, tree, wait_until

from pipelines.training.checkpoints import Store

NODE, SHAPE = "block7a_project_bn", (7, 7, 320)
# Ten steps for each model and an evaluation behind each: 22 lines of history in all.
FLAGS = ("--batch-size", "5", "--epochs", "2", "--patience", "2", "--eval-every", "1")
NUM_LINES = 11  # of one model
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("networks_once")]


def make_workspace(workspace):
    (workspace / "bottleneck.toml").write_text("")
    rows = {"train": 23, "val": 16, "test": 4}
    make_cache(workspace / "features" / NODE, lite0(), SHAPE, rows=rows, noise=2.0)
    return workspace


def train_to_the_end(workspace, *flags):
    """Run the same command, in this process: nobody is going to kill it."""
    result = invoke("train-tail", "-C", workspace, *FLAGS, *flags)
    assert result.exit_code == 0, result.stderr


def result_of(workspace):
    """Everything that a run leaves but what a clock wrote: also in TensorBoard's files' names."""
    files = tree(workspace / "runs", (".lock", "timings.jsonl"))
    return {name: data for name, data in files.items() if "/tensorboard/" not in name}


@pytest.fixture(scope="module")
def undisturbed(networks_once, tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("undisturbed"))
    train_to_the_end(workspace)
    return workspace


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "workspace").mkdir()
    return make_workspace(tmp_path / "workspace")


def test_train_tail_left_alone_evaluates_both_models_at_every_step(undisturbed):
    text = (undisturbed / "runs" / NODE / "history.jsonl").read_text(encoding="utf-8")
    steps = [(line["model"], line["step"]) for line in map(json.loads, text.splitlines())]
    expected = [(model, step) for model in ("topology", "default") for step in range(NUM_LINES)]
    assert steps == expected


def test_train_tail_killed_again_and_again_ends_with_the_same_bytes(
    undisturbed, workspace, tmp_path
):
    history = workspace / "runs" / NODE / "history.jsonl"
    # In the topology's steps; then what has gone on from there between the two models, and in the
    # default model's steps.
    moments = [4, NUM_LINES, NUM_LINES + 5]
    at = [lambda least=moment: num_lines(history) >= least for moment in moments]
    kill_when(at[0], workspace, "train-tail", *FLAGS)
    assert num_lines(history) < NUM_LINES
    snapshots(at[1:], workspace / "runs", tmp_path / "copies", workspace, "train-tail", *FLAGS)
    for number in range(2):
        shutil.rmtree(workspace / "runs")
        shutil.copytree(tmp_path / "copies" / str(number), workspace / "runs")
        assert not (workspace / "runs" / NODE / "summary.json").exists()
        train_to_the_end(workspace)
        assert result_of(workspace) == result_of(undisturbed)


def test_train_tail_killed_before_its_first_checkpoint_starts_anew(undisturbed, workspace):
    kill_when((workspace / "runs" / NODE / "run.json").exists, workspace, "train-tail", *FLAGS)
    train_to_the_end(workspace, "--cache-memory", "0")
    assert result_of(workspace) == result_of(undisturbed)


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, 3), (signal.SIGTERM, NUM_LINES + 4)]
)
def test_train_tail_asked_to_end_saves_says_so_and_goes_on(undisturbed, workspace, number, moment):
    history = workspace / "runs" / NODE / "history.jsonl"
    with started(workspace, "train-tail", *FLAGS) as process:
        wait_until(lambda: num_lines(history) >= moment or process.poll() is not None)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    last = stderr.splitlines()[-1]
    assert "stopping behind this step, then saving; Ctrl-C again ends at once" in stderr
    said = re.fullmatch(
        r"stopped and saved: (topology|default) at step (\d+); the same command goes on from there",
        last,
    )
    assert said, stderr
    store = Store.of(workspace / "runs" / NODE, said[1])
    assert store.kept().latest == int(said[2])
    train_to_the_end(workspace)
    assert result_of(workspace) == result_of(undisturbed)


def test_train_tail_asked_to_end_before_its_first_step_ends_at_once(workspace):
    with started(workspace, "train-tail", *FLAGS) as process:
        wait_until((workspace / "runs" / NODE / ".lock").exists)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("interrupted; what is whole is kept")
    assert not (workspace / "runs" / NODE / "history.jsonl").exists()
