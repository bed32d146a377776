"""A batch shared by two devices, of this machine or of two processes, as one device has it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from caches import lite0, make_cache
from commands import invoke
from processes import PROGRAM, ask, bottleneck, num_lines, running

from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

NODE, SHAPE = "block7a_project_bn", (7, 7, 320)
# Two and a bit batches an epoch; the last one is of a single image, less than there are devices.
FLAGS = ("--batch-size", "10", "--epochs", "2", "--patience", "2", "--eval-every", "1")
FLAGS += ("--learning-rate", "0.001")
ENDS_WITHIN_S = 60
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("networks_once")]


def make_workspace(workspace, num_train=21):
    workspace.mkdir(exist_ok=True)
    (workspace / "bottleneck.toml").write_text("")
    rows = {"train": num_train, "val": 11, "test": 4}
    make_cache(workspace / "features" / NODE, lite0(), SHAPE, rows=rows, noise=2.0)
    return workspace


def train_on_one_device(workspace, *flags):
    """Train in this process, whose CPU is one device."""
    result = invoke("train-tail", "-C", workspace, *FLAGS, *flags)
    assert result.exit_code == 0, result.stderr


# A process whose CPU is two devices; it runs the commands that it is given.
COMMANDS = """
import json
import sys
sys.path[:0] = sys.argv[1:]
from commands import invoke
print("ready", flush=True)
for line in sys.stdin:
    result = invoke(*json.loads(line))
    print(json.dumps([result.exit_code, result.stderr]), flush=True)
"""


@pytest.fixture(scope="module")
def two_devices():
    with running(COMMANDS, Path(__file__).parent) as process:

        def train(workspace, *flags):
            """Train there; returns status and stderr."""
            devices = ("--devices", "cpu:2")
            command = ["train-tail", "-C", str(workspace), *FLAGS, *devices, *flags]
            return json.loads(ask(process, json.dumps(command)))

        yield train


@pytest.fixture
def train_on_two_devices(two_devices):
    def train(workspace, *flags):
        status, stderr = two_devices(workspace, *flags)
        assert status == 0, stderr

    return train


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("alone"))
    train_on_one_device(workspace)
    return workspace


def history(workspace):
    text = (workspace / "runs" / NODE / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_same_training(workspace, expected):
    """Compare losses, accuracies and weights within what floats allow."""
    found, wanted = history(workspace), history(expected)
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name in ("train_loss", "val_loss"):
            assert (one[name] is None) == (other[name] is None)
            if one[name] is not None:
                assert one[name] == pytest.approx(other[name], rel=1e-4), (name, one)
        assert one["val_top1"] == other["val_top1"]
    for model in ("topology", "default"):
        stores = [Store.of(path / "runs" / NODE, model) for path in (workspace, expected)]
        weights = [checkpoints.load(store.path(store.kept().latest))[0] for store in stores]
        assert weights[0].keys() == weights[1].keys()
        for name, value in weights[1].items():
            if not value.size:  # no losses since the last evaluation
                continue
            scale = max(1e-3, float(np.abs(value).max()))
            np.testing.assert_allclose(weights[0][name], value, atol=1e-4 * scale, err_msg=name)


def test_two_devices_of_one_machine_train_as_one(alone, train_on_two_devices, tmp_path):
    workspace = make_workspace(tmp_path)
    train_on_two_devices(workspace)
    assert_same_training(workspace, alone)
    timings = (workspace / "runs" / NODE / "timings.jsonl").read_text(encoding="utf-8")
    assert json.loads(timings.splitlines()[-1])["num_devices"] == 2


def test_two_devices_expand_sparse_maps_as_one(train_on_two_devices, tmp_path):
    for name in ("one", "two"):
        workspace = tmp_path / name
        workspace.mkdir()
        (workspace / "bottleneck.toml").write_text("")
        made = {"dtype": "float16", "encoding": "sparse", "rows": {"train": 21, "val": 8}}
        make_cache(workspace / "features" / NODE, lite0(), SHAPE, **made)
    train_on_one_device(tmp_path / "one")
    train_on_two_devices(tmp_path / "two", "--expand", "device")
    assert_same_training(tmp_path / "two", tmp_path / "one")


def test_two_devices_share_the_statistics_of_a_batch(tmp_path):
    flags = ("--batch-norm", "batch")
    train_on_one_device(make_workspace(tmp_path / "one", num_train=20), *flags)
    two = make_workspace(tmp_path / "two", num_train=20)
    result = bottleneck(two, "train-tail", *FLAGS, "--devices", "cpu:2", *flags)
    assert result.returncode == 0, result.stderr
    assert_same_training(tmp_path / "two", tmp_path / "one")


def test_two_devices_refuse_batch_statistics_of_a_batch_of_one(two_devices, tmp_path):
    workspace = make_workspace(tmp_path)
    status, stderr = two_devices(workspace, "--batch-norm", "batch")
    assert status == 2
    assert "the last batch of an epoch has 1 images for 2 devices, and each needs" in stderr
    assert not (workspace / "runs" / NODE / "run.json").exists()


# Two steps on eight images; the last two, of the second device, are too large for the loss scale
# that training in float16 begins with.
OVERFLOW = """
import sys
import numpy as np
from caches import lite0, make_cache
from pathlib import Path
from pipelines.execution import devices, replicas
from pipelines.networks import models
from pipelines.networks.topology import Design
from pipelines.training import step
from pipelines.training.feeds import Fed, Feed
num = int(sys.argv[1])
devices.configure(precision="mixed_float16", num_cpus=num)
cache = make_cache(Path("features/avg_pool"), lite0(), (1280,), rows={"train": 8, "val": 2})
here, descent = replicas.open_replicas(num), step.Descent(is_scaled=True)
feed = Feed(cache.split("train", ("original",), 0), 4, share=here.share)
with here.scope():
    topology = models.build(lite0(), cache, Design(("original",)), 0)
    optimizer = step.build_optimizer(descent, topology)
optimizer.learning_rate = 0.001
take = step.compile_step(topology, optimizer, feed, descent, here)
fed = next(feed.epoch(8, 0, 0, 0))
parts = [list(part) for part in fed.parts]
parts[-1][0] = np.array(parts[-1][0])
parts[-1][0][-2:] *= 3e4
for _ in range(2):
    take(Fed([tuple(part) for part in parts], 8, fed.ids, fed.labels))
kernel = topology.weights()["head/kernel"]
print(optimizer.dynamic_scale.numpy(), np.isfinite(kernel).all(), int(optimizer.iterations.numpy()))
"""


def test_two_devices_skip_a_step_whose_gradients_overflow_on_one(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", OVERFLOW, "2"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["8192.0", "True", "0"]


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """Two processes on this machine that train together."""

    def __init__(self, workspaces, *flags):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.processes = []
        for index, workspace in enumerate(workspaces):
            config = {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": index},
            }
            environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
            self.processes.append(
                subprocess.Popen(
                    [PROGRAM, "train-tail", "-C", workspace, *FLAGS, *flags],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()

    def results(self, timeout_s=300):
        """Wait for both; returns status and stderr of each."""
        found = [process.communicate(timeout=timeout_s) for process in self.processes]
        return [
            (process.returncode, stderr)
            for process, (_, stderr) in zip(self.processes, found, strict=True)
        ]


def go_on_together(workspace):
    with Cluster([workspace] * 2) as cluster:
        for status, stderr in cluster.results():
            assert status == 0, stderr


# Together they take every step of a training but those behind the second one's death.
@pytest.mark.parametrize(
    ("killed", "go_on"), [(0, go_on_together), (1, train_on_one_device)], ids=["first", "second"]
)
def test_two_processes_one_killed_the_other_ends_and_training_goes_on_as_of_one(
    alone, tmp_path, killed, go_on
):
    workspace = make_workspace(tmp_path)
    path = workspace / "runs" / NODE / "history.jsonl"
    with Cluster([workspace] * 2) as cluster:
        wait_until_lines(cluster, path, 3)
        cluster.processes[killed].send_signal(signal.SIGKILL)
        other, killed_at = cluster.processes[1 - killed], time.monotonic()
        _, stderr = other.communicate(timeout=ENDS_WITHIN_S)
        assert time.monotonic() - killed_at < ENDS_WITHIN_S
        assert other.returncode == 1
        assert "error: another of the 2 hosts in TF_CONFIG no longer answers; start" in stderr
        assert "Traceback" not in stderr
    go_on(workspace)
    assert_same_training(workspace, alone)


def test_two_processes_one_asked_to_end_both_stop_and_save(tmp_path):
    workspace = make_workspace(tmp_path)
    path = workspace / "runs" / NODE / "history.jsonl"
    with Cluster([workspace] * 2) as cluster:
        wait_until_lines(cluster, path, 3)
        cluster.processes[1].send_signal(signal.SIGTERM)
        said = []
        for status, stderr in cluster.results(ENDS_WITHIN_S):
            assert status == 1
            said.append(re.search(r"stopped and saved: (\w+) at step (\d+); the same", stderr))
            assert said[-1], stderr
    assert said[0].groups() == said[1].groups()
    kept = Store.of(workspace / "runs" / NODE, said[0][1]).kept()
    assert kept.latest == int(said[0][2])


def test_two_processes_train_block_by_block(tmp_path):
    workspace = tmp_path
    (workspace / "bottleneck.toml").write_text("")
    rows = {"train": 11, "val": 4, "test": 4}
    for node, shape in {"avg_pool": (1280,), "block6d_add": (7, 7, 192)}.items():
        make_cache(workspace / "features" / node, lite0(), shape, rows=rows)
    with Cluster([workspace] * 2, "--blocks", "2", "--epochs", "1") as cluster:
        for status, stderr in cluster.results():
            assert status == 0, stderr
    assert (workspace / "runs" / "blocks-2-top_activation" / "summary.json").exists()


def test_two_processes_with_other_workspaces_end_and_say_so(tmp_path):
    workspaces = [make_workspace(tmp_path / name) for name in ("one", "other")]
    with Cluster(workspaces) as cluster:
        (first, heard), (other, said) = cluster.results(ENDS_WITHIN_S * 2)
    assert (first, other) == (1, 1)
    assert "all hosts have to see the same workspace" in said
    assert "another of the 2 hosts in TF_CONFIG no longer answers" in heard


def wait_until_lines(cluster, path, number):
    """Wait until the history has so many lines."""
    deadline = time.monotonic() + 240
    while num_lines(path) < number:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in cluster.processes)
        time.sleep(0.05)
