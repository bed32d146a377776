from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from caches import read_split
from commands import invoke
from evaluated import BRANCHES, judge, make_workspace, train
from processes import modules_loaded_by, tree
from scipy.stats import binomtest

from pipelines import evaluate
from pipelines.config import EvalConfig
from pipelines.storage.cache import FeatureCache
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

KEYS = {
    *("stage", "run", "node", "blocks", "split", "protocol", "seed", "num_images"),
    *("default_kind", "default", "topology", "branches", "oracle_top1"),
    *("type_a", "type_b", "type_c", "mcnemar_p", "gain"),
}
pytestmark = pytest.mark.usefixtures("networks_once")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A workspace with a trained and judged run; not to be changed."""
    workspace = make_workspace(tmp_path_factory.mktemp("judged"))
    train(workspace)
    return workspace, judge(workspace)


@pytest.fixture
def workspace(judged, tmp_path):
    return shutil.copytree(judged[0], tmp_path / "copy")


def by_hand(workspace, split="test", name="avg_pool"):
    """Recompute with NumPy which images each model has right: (topology, default by branch)."""
    cache = FeatureCache(workspace / "features" / "avg_pool")
    features, labels, ids = read_split(cache, split)
    scores = {}
    for model in ("topology", "default"):
        path = Store.of(workspace / "runs" / name, model).best
        weights, _ = checkpoints.load(path)
        kernel, bias = weights["head/kernel"], weights["head/bias"]
        if model == "topology":
            scores[model] = [features.reshape(len(labels), -1) @ kernel + bias]
        else:
            scores[model] = [features[:, i] @ kernel + bias for i in range(len(BRANCHES))]
    ranks = {
        model: np.stack(
            [(one > one[np.arange(len(labels)), labels, None]).sum(axis=1) for one in every], axis=1
        )
        for model, every in scores.items()
    }
    return ranks["topology"][:, 0], ranks["default"], labels, ids


def without_resampling(results):
    """Leave out of results what follows from the seed: bootstrap intervals, the verdict's words."""
    kept = json.loads(json.dumps(results))
    for name in ("seed", "command", "verdict"):
        del kept[name]
    for found in (kept["gain"], *kept["against"].values()):
        del found["ci95"]
    for found in kept["comparators"].values():
        del found["difference_ci95"]
    return kept


def test_eval_results_have_the_contracts_keys_and_kinds(judged):
    workspace, results = judged
    assert set(results) >= KEYS
    assert (results["stage"], results["run"], results["node"]) == ("eval", "avg_pool", "avg_pool")
    assert (results["split"], results["protocol"], results["seed"]) == ("test", "honest", 0)
    assert (results["num_images"], results["default_kind"]) == (90, "trained")
    assert results["blocks"] == ["FC"]
    assert list(results["branches"]) == list(BRANCHES)
    saved = json.loads((workspace / "runs" / "avg_pool" / "results.json").read_text())
    assert saved == results


def test_eval_accuracies_are_those_computed_by_hand(judged):
    workspace, results = judged
    topology, default, _, _ = by_hand(workspace)
    expected = {"top1": np.mean(topology == 0), "top5": np.mean(topology < 5)}
    assert results["topology"] == pytest.approx(expected, abs=1e-12)
    for i, name in enumerate(BRANCHES):
        expected = {"top1": np.mean(default[:, i] == 0), "top5": np.mean(default[:, i] < 5)}
        assert results["branches"][name] == pytest.approx(expected, abs=1e-12)
    assert results["default"] == results["branches"]["original"]
    assert results["oracle_top1"] == pytest.approx(np.mean((default == 0).any(axis=1)))
    assert results["default"]["top1"] < results["oracle_top1"] < 1


def test_eval_types_and_gain_follow_from_the_images(judged):
    workspace, results = judged
    topology, default, _, _ = by_hand(workspace)
    right, was_right = topology == 0, default[:, 0] == 0
    type_a, type_b = int(np.sum(right & ~was_right)), int(np.sum(was_right & ~right))
    assert type_a > 0
    assert type_b > 0
    assert (results["type_a"], results["type_b"]) == (type_a, type_b)
    assert results["type_c"] == 90 - type_a - type_b
    assert results["mcnemar_p"] == pytest.approx(binomtest(type_a, type_a + type_b).pvalue)
    gain = results["gain"]
    assert gain["top1"] == pytest.approx((type_a - type_b) / 90)
    assert gain["ci95"][0] < gain["top1"] < gain["ci95"][1]
    rng = np.random.default_rng(8)
    drawn = rng.integers(0, 90, (4000, 90))
    differences = (right.astype(float) - was_right)[drawn].mean(axis=1)
    assert gain["ci95"] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.02)


def test_eval_predictions_hold_each_images_ranks_and_type(judged):
    workspace, _ = judged
    table = pq.read_table(workspace / "runs" / "avg_pool" / "predictions.parquet").to_pydict()
    topology, default, labels, ids = by_hand(workspace)
    assert table["id"] == ids
    assert table["label"] == labels.tolist()
    assert table["topology_rank"] == topology.tolist()
    for i, name in enumerate(BRANCHES):
        assert table[f"default_{name}_rank"] == default[:, i].tolist()
    right, was_right = topology == 0, default[:, 0] == 0
    types = np.select([right & ~was_right, was_right & ~right], ["A", "B"], "C")
    assert table["type"] == types.tolist()


def test_eval_json_on_stdout_is_the_results(workspace):
    result = invoke("eval", "--json", "-C", workspace)
    assert result.exit_code == 0, result.output
    saved = json.loads((workspace / "runs" / "avg_pool" / "results.json").read_text())
    assert json.loads(result.stdout) == saved


def test_eval_of_five_classes_gives_no_top5(tmp_path):
    workspace = make_workspace(tmp_path, classes=tuple("abcde"))
    train(workspace, epochs=1)
    results = judge(workspace)
    every = [results["default"], results["topology"], *results["branches"].values()]
    assert {accuracy["top5"] for accuracy in every} == {None}
    assert results["topology"]["top1"] is not None


def test_eval_val_is_marked_as_the_thesis_protocol_in_files_of_its_own(workspace):
    before = (workspace / "runs" / "avg_pool" / "results.json").read_bytes()
    results = judge(workspace, split="val")
    assert (results["split"], results["protocol"], results["num_images"]) == ("val", "thesis", 24)
    run_dir = workspace / "runs" / "avg_pool"
    assert json.loads((run_dir / "results-val.json").read_text()) == results
    assert (run_dir / "predictions-val.parquet").exists()
    assert (run_dir / "results.json").read_bytes() == before
    topology, _, _, _ = by_hand(workspace, "val")
    assert results["topology"]["top1"] == pytest.approx(np.mean(topology == 0))
    summary = json.loads((run_dir / "summary.json").read_text())
    assert results["topology"]["top1"] == pytest.approx(summary["best_val_top1"])
    assert results["default"]["top1"] == pytest.approx(summary["default_best_val_top1"])


def test_eval_again_has_nothing_to_do_and_loads_no_tensorflow(workspace):
    before = tree(workspace / "runs")
    output, modules = modules_loaded_by(workspace, "eval")
    assert "nothing to do: run avg_pool is judged" in output
    assert not {"tensorflow", "keras"} & modules
    assert tree(workspace / "runs") == before


def test_eval_other_seed_judges_again_and_moves_only_the_interval(workspace, judged, notes):
    results = judge(workspace, notes, seed=1)
    assert (results["seed"], notes.said) == (1, [])
    saved = json.loads((workspace / "runs" / "avg_pool" / "results.json").read_text())
    assert saved == results
    assert results["against"] != judged[1]["against"]
    assert without_resampling(results) == without_resampling(judged[1])


def test_eval_after_training_anew_judges_again(workspace, judged, notes):
    train(workspace, overwrite=True, gradients="all", epochs=1)
    results = judge(workspace, notes)
    assert not notes.said
    assert results["checkpoints_sha256"] != judged[1]["checkpoints_sha256"]
    topology, _, _, _ = by_hand(workspace)
    assert results["topology"]["top1"] == pytest.approx(np.mean(topology == 0))


def test_eval_takes_the_latest_run_or_the_one_named(workspace):
    train(workspace, run="second", epochs=1)
    assert judge(workspace)["run"] == "second"
    assert judge(workspace, run="avg_pool")["run"] == "avg_pool"


def test_eval_topology_without_original_is_held_against_the_original(workspace):
    train(workspace, run="late", branches=("q010", "q050"), gradients="all", epochs=1)
    results = judge(workspace)
    assert list(results["branches"]) == list(BRANCHES)
    assert results["default"] == results["branches"]["original"]
    weights, _ = checkpoints.load(Store.of(workspace / "runs" / "late", "topology").best)
    features, labels, _ = read_split(
        FeatureCache(workspace / "features" / "avg_pool"), "test", ["q010", "q050"]
    )
    logits = features.reshape(90, -1) @ weights["head/kernel"] + weights["head/bias"]
    assert results["topology"]["top1"] == pytest.approx(np.mean(logits.argmax(axis=1) == labels))


def test_eval_missing_predictions_are_made_again(workspace, judged):
    path = workspace / "runs" / "avg_pool" / "predictions.parquet"
    before = path.read_bytes()
    path.unlink()
    assert judge(workspace) == judged[1]
    assert path.read_bytes() == before


def test_eval_protocol_thesis_is_split_val(workspace):
    results = judge(workspace, protocol="thesis")
    assert (results["split"], results["protocol"]) == ("val", "thesis")
    assert results == judge(workspace, split="val")
    table = invoke("eval", "--protocol", "thesis", "-C", workspace).stdout
    assert "thesis protocol, on the images that the checkpoints were selected on" in table
    assert "selected on these same images" in table


def test_eval_writes_lists_of_the_images_with_their_paths(workspace):
    (workspace / "bottleneck.toml").write_text("[compress]\nimages = 'pets'\n")
    (workspace / "runs" / "avg_pool" / "results.json").unlink()
    assert invoke("eval", "-C", workspace).exit_code == 0
    folder = workspace / "runs" / "avg_pool" / "images"
    found = {name: pq.read_table(folder / f"type_{name}.parquet").to_pylist() for name in "abc"}
    results = json.loads((workspace / "runs" / "avg_pool" / "results.json").read_text())
    assert {name: len(rows) for name, rows in found.items()} == {
        name: results[f"type_{name}"] for name in "abc"
    }
    gained = found["a"][0]
    assert gained["path"] == str(workspace / "pets" / gained["id"])
    assert gained["topology_top5"].split("; ")[0] == gained["label"]
    assert gained["default_top5"].split("; ")[0] != gained["label"]


def all_but_lists(run_dir):
    return {path: data for path, data in tree(run_dir).items() if not path.startswith("images/")}


def test_eval_of_images_that_moved_writes_their_lists_again_and_nothing_else(workspace, notes):
    run_dir = workspace / "runs" / "avg_pool"
    before = all_but_lists(run_dir)
    for root in (None, workspace / "old", workspace / "new"):
        results = evaluate.run(workspace, EvalConfig(), 0, notes, images_dir=root)
        for kind in "abc":
            rows = pq.read_table(run_dir / "images" / f"type_{kind}.parquet").to_pylist()
            assert len(rows) == results[f"type_{kind}"]
            assert {row["path"] for row in rows} == {
                f"{root}/{row['id']}" if root else row["id"] for row in rows
            }
    assert notes.said.count("run avg_pool: its lists of images were written again") == 2
    assert notes.said.count("nothing to do: run avg_pool is judged") == 3
    assert all_but_lists(run_dir) == before


def test_eval_list_that_was_deleted_is_made_again(workspace):
    for name in ("type_a.parquet", "type_c.csv"):
        path = workspace / "runs" / "avg_pool" / "images" / name
        before = path.read_bytes()
        path.unlink()
        judge(workspace)
        assert path.read_bytes() == before


def test_run_made_anew_keeps_nothing_of_its_old_evaluation(workspace):
    run_dir = workspace / "runs" / "avg_pool"
    for name in ("folds/seed-0-fold-1.json", "explain/a.png", "report.html", "images-val/a"):
        (run_dir / name).parent.mkdir(exist_ok=True)
        (run_dir / name).touch()
    (run_dir / "notes.txt").touch()
    train(workspace, overwrite=True, epochs=1, gradients="all")
    left = {path.name for path in run_dir.iterdir()}
    assert "notes.txt" in left
    assert not {"folds", "explain", "images", "images-val", "report.html", "results.json"} & left


def test_eval_results_name_the_command_that_judges_again(workspace):
    results = judge(workspace, compare=("mean",), protocol="thesis", top_k=(2, 3))
    words = "--run avg_pool --protocol thesis --compare mean --top-k 2,3 --seed 0"
    assert " ".join(results["command"]) == f"bottleneck eval {words}"
    again = invoke(*results["command"][1:], "-C", workspace)
    assert "nothing to do: run avg_pool is judged" in again.stderr


def test_eval_killed_in_the_middle_leaves_no_results_of_other_predictions(workspace, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.evaluation.figures.figures", die)
        with pytest.raises(KeyboardInterrupt):
            judge(workspace, seed=1)
    assert not (workspace / "runs" / "avg_pool" / "results.json").exists()
    assert judge(workspace, seed=1)["seed"] == 1
