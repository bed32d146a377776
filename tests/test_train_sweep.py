"""Heads side by side: each is a run of its own, with the bytes of a run alone."""

from __future__ import annotations

import json

import pytest
from caches import lite0, make_cache
from commands import invoke, the_error
from processes import tree

from bottleneck_cli import tables
from pipelines import evaluate, list_runs, runs, train_tail
from pipelines.config import EvalConfig, TrainTailConfig
from pipelines.errors import ConfigError, ManifestError, TrainingError
from pipelines.progress import Silent

SETTINGS = {"batch_size": 10, "epochs": 2, "learning_rate": 0.001}
SWEEP = ("learning_rate=0.001,0.0001", "fusion=concat,mean")
pytestmark = pytest.mark.usefixtures("networks_once")


def train(workspace, progress=None, **settings):
    config = TrainTailConfig(**{**SETTINGS, **settings})
    return train_tail.run(workspace, workspace / "features", config, 0, progress or Silent())


def make_workspace(folder):
    (folder / "bottleneck.toml").write_text("")
    make_cache(folder / "features" / "avg_pool", lite0(), (1280,), noise=4.0)
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A workspace with a finished sweep; not to be changed."""
    workspace = make_workspace(tmp_path_factory.mktemp("swept"))
    return workspace, train(workspace, sweep=SWEEP)


def content(folder):
    """Everything in a run's folder but what a clock wrote."""
    files = tree(folder, (".lock", "timings.jsonl"))
    return {name: data for name, data in files.items() if not name.startswith("tensorboard")}


def test_sweep_trains_a_run_for_each_combination(swept):
    workspace, summary = swept
    assert [run["run"] for run in summary["runs"]] == [f"avg_pool-{i}" for i in range(1, 5)]
    assert [(run["learning_rate"], run["fusion"]) for run in summary["runs"]] == [
        (0.001, "concat"),
        (0.001, "mean"),
        (0.0001, "concat"),
        (0.0001, "mean"),
    ]
    for run in summary["runs"]:
        made = runs.read(workspace, run["run"])
        assert made.fusion == run["fusion"]
        assert made.fingerprint["learning_rate"] == run["learning_rate"]


def test_sweep_summary_is_that_of_the_best_by_validation(swept):
    workspace, summary = swept
    tops = [run["best_val_top1"] for run in summary["runs"]]
    best = summary["runs"][tops.index(max(tops))]
    assert summary["run"] == best["run"] == runs.latest(workspace)
    assert summary["best_val_top1"] == max(tops)
    assert {"fusion", "learning_rate"}.isdisjoint(summary)


def test_sweep_heads_have_the_bytes_of_runs_alone(swept, tmp_path):
    workspace = make_workspace(tmp_path)
    for number, (rate, fusion) in enumerate(
        [(0.001, "concat"), (0.001, "mean"), (0.0001, "concat"), (0.0001, "mean")], 1
    ):
        train(workspace, run=f"avg_pool-{number}", learning_rate=rate, fusion=fusion)
        found = workspace / "runs" / f"avg_pool-{number}"
        assert content(found) == content(swept[0] / "runs" / found.name)


def test_sweep_again_has_nothing_to_do_and_gives_the_same_table(swept, notes):
    workspace, summary = swept
    again = train(workspace, notes, sweep=SWEEP)
    assert notes.said == [f"nothing to do: run avg_pool-{i} is trained" for i in range(1, 5)]
    times = ("seconds", "images_per_s", "data_wait")
    for one, other in zip(again["runs"], summary["runs"], strict=True):
        assert {**one, **dict.fromkeys(times)} == {**other, **dict.fromkeys(times)}


def test_sweep_ended_between_its_heads_trains_those_that_are_left(swept, tmp_path):
    workspace = make_workspace(tmp_path)
    train(workspace, run="avg_pool-2", fusion="mean")
    summary = train(workspace, sweep=SWEEP)
    assert [run["best_val_top1"] for run in summary["runs"]] == [
        run["best_val_top1"] for run in swept[1]["runs"]
    ]


def test_sweep_goes_on_without_heads_that_diverge(swept, tmp_path, notes):
    workspace = make_workspace(tmp_path)
    summary = train(workspace, notes, sweep=("learning_rate=3e38,0.001",))
    bad, good = summary["runs"]
    assert (bad["diverged_step"] > 0, good["diverged_step"]) == (True, None)
    assert summary["run"] == runs.latest(workspace) == "avg_pool-2"
    assert good["best_val_top1"] == swept[1]["runs"][0]["best_val_top1"]
    assert any(text.startswith("avg_pool-1 topology: the loss is ") for text in notes.said)
    # Nothing is made up for it: it is not finished, and begun again it ends in the same way.
    assert not (workspace / "runs" / "avg_pool-1" / "summary.json").exists()
    (row, _) = list_runs.run(workspace)["runs"]
    assert (row["run"], row["state"]) == ("avg_pool-1", "diverged")
    assert row["problem"].startswith("diverged: avg_pool-1 topology: the loss is ")
    with pytest.raises(TrainingError, match=r"avg_pool-1: diverged: .*; train another run at a lo"):
        runs.check_finished(workspace, "avg_pool-1")
    again = train(workspace, sweep=("learning_rate=3e38,0.001",))
    assert [run["diverged_step"] for run in again["runs"]] == [bad["diverged_step"], None]


def test_sweep_of_which_every_head_diverges_raises(tmp_path):
    workspace = make_workspace(tmp_path)
    with pytest.raises(TrainingError, match=r"every head has diverged; sweep lower learning rat"):
        train(workspace, sweep=("learning_rate=3e38,2e38",))


def test_sweep_table_says_where_a_head_diverged():
    rows = [
        {"run": "a-1", "learning_rate": "9", "node": "fc", "num_steps": 7, "diverged_step": 6},
        {"run": "a-2", "learning_rate": "1", "node": "fc", "num_steps": 8, "diverged_step": None},
    ]
    top1s = {"best_val_top1": 0.5, "default_best_val_top1": None}
    times = {"images_per_s": None, "data_wait": None, "seconds": 1.0}
    rows = [{**row, **top1s} for row in rows]
    head = {name: rows[1][name] for name in ("run", "node", "num_steps", *top1s)}
    lines = tables.trained({**head, **times, "runs": rows})
    assert lines[0].split()[:3] == ["run", "learning_rate", "node"]
    assert "diverged at 6" in lines[1]
    assert "diverged" not in lines[2]


def test_sweep_head_is_judged_as_any_run(swept):
    results = evaluate.run(swept[0], EvalConfig(run="avg_pool-2"), 0, Silent())
    assert results["run"] == "avg_pool-2"
    assert 0 <= results["topology"]["top1"] <= 1


def test_sweep_name_taken_by_other_settings_raises_before_anything_is_trained(swept):
    before = tree(swept[0] / "runs")
    with pytest.raises(
        ManifestError, match=r"avg_pool-1: made with learning_rate 0\.001, now 0\.5"
    ):
        train(swept[0], sweep=("learning_rate=0.5,0.1",))
    assert tree(swept[0] / "runs") == before


def test_sweep_of_a_deeper_block_raises_before_anything_is_written(tmp_path):
    folder, blocks = tmp_path / "features" / "top_activation", ("top_activation", "FC")
    make_cache(folder, lite0(), (7, 7, 1280), rows={"train": 10, "val": 4}, blocks=blocks)
    with pytest.raises(ConfigError, match="only heads go side by side, and behind top_activation"):
        train(tmp_path, sweep=("cuts=0,1",))
    assert not (tmp_path / "runs").exists()


def test_sweep_value_that_is_not_allowed_raises_naming_it(swept):
    with pytest.raises(ConfigError, match="fusion = maximum is not allowed; allowed: concat, mean"):
        train(swept[0], sweep=("fusion=mean,maximum",))


def test_sweep_of_the_same_head_twice_raises_before_anything_is_trained(swept):
    with pytest.raises(ConfigError, match="sweep: x-1 and x-3 are the same; leave out one"):
        train(swept[0], run="x", sweep=("learning_rate=0.1,0.2,0.10",))
    assert not (swept[0] / "runs" / "x-1").exists()


def test_sweep_command_prints_a_table_and_the_best(swept):
    flags = ["--batch-size", "10", "--epochs", "2"]
    sweeps = [word for text in SWEEP for word in ("--sweep", text)]
    result = invoke("train-tail", "-C", swept[0], *flags, *sweeps)
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        *("run", "learning_rate", "fusion", "node", "steps"),
        *("best", "val", "top-1", "default", "model"),
    ]
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["avg_pool-1", "0.001", "concat"],
        ["avg_pool-2", "0.001", "mean"],
    ]
    assert lines[5].startswith(f"train-tail: run {swept[1]['run']} from node avg_pool")


def test_sweep_command_json_has_the_runs(swept):
    flags = ["--batch-size", "10", "--epochs", "2", "--json"]
    sweeps = [word for text in SWEEP for word in ("--sweep", text)]
    found = json.loads(invoke("train-tail", "-C", swept[0], *flags, *sweeps).stdout)
    assert [run["run"] for run in found["runs"]] == [f"avg_pool-{i}" for i in range(1, 5)]


def test_sweep_and_start_from_exclude_each_other(swept):
    result = invoke(
        "train-tail", "-C", swept[0], "--sweep", "cuts=0,1", "--start-from", "avg_pool-1"
    )
    assert the_error(result, 2) == "--sweep and --start-from: leave out one of them"
