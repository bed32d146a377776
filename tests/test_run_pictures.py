"""training.png and blocks.png on disk: when they are drawn, and when they cannot be."""

from __future__ import annotations

import json
import logging
import os
import signal

import pytest
from begun import make_run, write_history
from caches import lite0, make_cache
from commands import invoke
from drawn import points
from processes import num_lines, started, tree, wait_until

from pipelines import run_pictures, runs, train_tail
from pipelines.config import TrainTailConfig
from pipelines.errors import ManifestError
from pipelines.progress import Silent

SHORT = {"batch_size": 10, "epochs": 2, "learning_rate": 0.001}
WNIDS = tuple(f"n{number:08d}" for number in range(1, 1001))
pytestmark = pytest.mark.usefixtures("networks_once")


def train(workspace, progress=None, **settings):
    config = TrainTailConfig(**{**SHORT, **settings})
    return train_tail.run(workspace, workspace / "features", config, 0, progress or Silent())


def make_workspace(workspace, **changes):
    (workspace / "bottleneck.toml").touch()
    make_cache(workspace / "features" / "avg_pool", lite0(), (1280,), noise=4.0, **changes)
    return workspace


def make_chain(workspace, names=("a", "b", "c")):
    """Write runs that start from each other; a block and two evaluations more each time."""
    for number, name in enumerate(names):
        start = {"start_from": {"run": names[number - 1]} if number else None}
        blocks = tuple(f"block_{i}" for i in range(number, 0, -1)) + ("FC",)
        folder = make_run(workspace, name, settings=start, blocks=blocks)
        topology = points(2 + 2 * number, has_top5=True, seed=number)
        write_history(folder, topology=topology, default=points(2, has_top5=True))


@pytest.fixture
def drawn_by(monkeypatch):
    """What the pictures are drawn from, in place of pictures."""
    found = []
    for module, name in ((run_pictures.curves, "training"), (run_pictures.block_curves, "blocks")):
        monkeypatch.setattr(module, name, lambda data, path: found.append((path.name, data)))
    return found


def test_draw_training_from_the_history(tmp_path, drawn_by):
    folder = make_run(tmp_path)
    write_history(folder, topology=points(3), default=points(2, seed=1))
    run_pictures.draw(tmp_path, "first")
    ((name, data),) = drawn_by
    assert (name, data.run, data.node) == ("training.png", "first", "avg_pool")
    assert (data.topology, data.default) == (points(3), points(2, seed=1))


def test_draw_blocks_of_the_chain_up_to_a_run(tmp_path, drawn_by):
    make_chain(tmp_path)
    run_pictures.draw(tmp_path, "b")
    (_, (name, data)) = drawn_by
    assert (name, [block.block for block in data]) == ("blocks.png", ["FC", "block_1"])
    for number, block in enumerate(data):
        topology = points(2 + 2 * number, has_top5=True, seed=number)
        default = points(2, has_top5=True)
        assert block.top1 == tuple(max(p.val_top1 for p in of) for of in (topology, default))
        assert block.top5 == tuple(max(p.val_top5 for p in of) for of in (topology, default))


def test_draw_blocks_without_what_is_gone_or_damaged_in_front(tmp_path, drawn_by):
    make_chain(tmp_path, "abcd")
    (tmp_path / "runs" / "b" / "run.json").unlink()
    run_pictures.draw(tmp_path, "d")
    assert [block.block for block in drawn_by[-1][1]] == ["block_2", "block_3"]
    (tmp_path / "runs" / "c" / "history.jsonl").write_text("{\n")
    run_pictures.draw(tmp_path, "d")
    assert [name for name, _ in drawn_by[2:]] == ["training.png"]


def test_draw_blocks_of_runs_that_start_from_each_other_ends(tmp_path, drawn_by):
    for name, parent in (("a", "b"), ("b", "a")):
        folder = make_run(tmp_path, name, settings={"start_from": {"run": parent}})
        write_history(folder, topology=points(2), default=points(2))
    run_pictures.draw(tmp_path, "a")
    assert len(drawn_by[-1][1]) == 2


def test_draw_of_a_run_without_evaluations_draws_nothing(tmp_path, caplog):
    make_run(tmp_path)
    run_pictures.draw(tmp_path, "first")
    assert not list((tmp_path / "runs" / "first").glob("*.png"))
    assert caplog.records == []


def test_draw_only_missing_leaves_a_picture_that_is_there(tmp_path):
    make_chain(tmp_path)
    folder = tmp_path / "runs" / "b"
    (folder / "training.png").write_bytes(b"mine")
    run_pictures.draw(tmp_path, "b", only_missing=True)
    assert (folder / "training.png").read_bytes() == b"mine"
    assert (folder / "blocks.png").read_bytes().startswith(b"\x89PNG")


def test_draw_picture_that_cannot_be_written_is_a_warning_and_the_other_is_drawn(tmp_path, caplog):
    make_chain(tmp_path)
    folder = tmp_path / "runs" / "b"
    (folder / "training.png").mkdir()
    run_pictures.draw(tmp_path, "b")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith(f"no picture: {folder}/training.png: cannot be written: ")
    assert (folder / "blocks.png").is_file()


def test_draw_for_a_run_that_is_another_s_by_now_writes_nothing(tmp_path, caplog):
    make_chain(tmp_path)

    def check():
        raise ManifestError("was taken over")

    run_pictures.draw(tmp_path, "b", check)
    assert [record.message for record in caplog.records] == ["no picture: was taken over"] * 2
    assert not list((tmp_path / "runs" / "b").glob("*.png"))


@pytest.mark.slow
def test_train_tail_draws_its_training_and_blocks_again_when_they_are_gone(tmp_path):
    make_workspace(tmp_path)
    train(tmp_path, run="first", epochs=1)
    assert not (tmp_path / "runs" / "first" / "blocks.png").exists()
    flags = {"run": "second", "start_from": "first"}
    train(tmp_path, **flags)
    folder = tmp_path / "runs" / "second"
    before = {name: (folder / name).read_bytes() for name in ("training.png", "blocks.png")}
    for name in before:
        (folder / name).unlink()
    train(tmp_path, **flags)
    assert {name: (folder / name).read_bytes() for name in before} == before
    train(tmp_path, run="second", overwrite=True, epochs=1)
    assert not (folder / "blocks.png").exists()


def test_train_tail_that_cannot_draw_ends_all_the_same(tmp_path, caplog):
    make_workspace(tmp_path)
    picture = tmp_path / "runs" / "first" / "training.png"

    class Obstructive(Silent):
        def start(self, *_, **__):
            picture.mkdir(exist_ok=True)  # no file can have this name

    summary = train(tmp_path, Obstructive(), run="first", epochs=1)
    found = {record.message.partition(": cannot")[0] for record in caplog.records}
    assert found == {f"no picture: {picture}"}
    assert json.loads(picture.with_name(runs.SUMMARY).read_text()).items() <= summary.items()


def test_train_tail_sweep_draws_each_run(tmp_path):
    make_workspace(tmp_path)
    train(tmp_path, run="sw", epochs=1, sweep=("learning_rate=0.01,0.001",))
    found = {path.parent.name for path in tmp_path.glob("runs/*/training.png")}
    assert found == {"sw-1", "sw-2"}


def test_train_tail_pretrained_default_model_has_its_line_in_the_history(tmp_path, drawn_by):
    make_workspace(tmp_path, classes=WNIDS)
    summary = train(tmp_path, run="first", default="pretrained", epochs=1)
    text = (tmp_path / "runs" / "first" / "history.jsonl").read_text()
    (line,) = (x for x in map(json.loads, text.splitlines()) if x["model"] == "default")
    assert (line["step"], line["learning_rate"], line["train_loss"]) == (0, None, None)
    assert line["val_top1"] == summary["default_best_val_top1"] <= line["val_top5"] <= 1
    assert [len(data.default) for _, data in drawn_by] == [0, 1]


@pytest.mark.slow
def test_train_tail_stopped_draws_what_there_is_and_ends_with_the_same_picture(tmp_path):
    workspaces = [tmp_path / "one", tmp_path / "other"]
    flags = ("train-tail", "--batch-size", "4", "--epochs", "12", "--patience", "12")
    for workspace in workspaces:
        workspace.mkdir()
        make_workspace(workspace)
    folder = workspaces[0] / "runs" / "avg_pool"
    with started(workspaces[0], *flags) as process:
        wait_until(lambda: num_lines(folder / "history.jsonl") > 3)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate()
        assert process.returncode == 1, said
    assert "stopped and saved" in said
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "summary.json").exists()
    stopped = (folder / "training.png").read_bytes()
    for workspace in workspaces:
        result = invoke(*flags, "-C", workspace)
        assert result.exit_code == 0, result.stderr
    one, other = (tree(workspace / "runs" / "avg_pool") for workspace in workspaces)
    assert one["training.png"] == other["training.png"] != stopped
