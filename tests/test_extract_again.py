"""Extract started again, with the same settings or others, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from caches import lite0, read_split
from conftest import BATCH_SIZE
from editing import edit
from processes import kill_when, modules_loaded_by, tree

from pipelines import compress, extract, train_tail
from pipelines.config import CompressConfig, TrainTailConfig
from pipelines.errors import ConfigError, ManifestError, NodeError, ShardError, WeightsError
from pipelines.execution import inline
from pipelines.extraction import finished, plans
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.storage.manifest import ShardFolder

MAPS = "block7a_expand_activation"
FLAGS = (
    *("--backbone", "efficientnet_lite0", "--batch-size", str(BATCH_SIZE)),
    *("--dtype", "float32", "--shards", "5"),
)
# Keras's `save_weights` calls np.array on its variables; NumPy 2 warns of their old __array__.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
    pytest.mark.usefixtures("networks_once"),
]


def run(workspace, extracted, seed=0, progress=None, **changed):
    config = extracted.config.model_copy(update=changed)
    return extract.run(workspace, config, seed, progress or Silent(), inline.open_crew)


def plan_of(workspace, node):
    return json.loads((workspace / "features" / node / "plan.json").read_text())


@pytest.mark.slow
def test_extract_one_node_alone_gives_the_bytes_of_both_in_one_pass(extracted, workspace):
    summary = run(workspace, extracted, node=("avgpool",), features_dir="alone", workers=64)
    assert list(summary["nodes"]) == ["avg_pool"]
    assert summary["num_workers"] == 5, "no more than shards"
    assert tree(workspace / "alone") == {
        f"avg_pool/{name}": data
        for name, data in tree(extracted.path / "features" / "avg_pool").items()
    }


@pytest.mark.slow
def test_extract_killed_and_started_again_ends_with_the_same_bytes(extracted, workspace):
    shutil.rmtree(workspace / "features")
    command = ("extract", *FLAGS, "--node", "avg_pool", "--node", MAPS, "--workers", "1")
    folder = workspace / "features" / MAPS

    def num_receipts():
        return len(list((folder / "receipts").glob("*.json")))

    kill_when(lambda: num_receipts() >= 3, workspace, *command)
    assert not (folder / "manifest.json").exists()
    assert run(workspace, extracted)["num_resumed_shards"] >= 6
    assert tree(workspace / "features") == tree(extracted.path / "features")


@pytest.mark.slow
def test_extract_manifest_damaged_is_written_again(extracted, workspace):
    before = tree(workspace / "features")
    manifest = workspace / "features" / MAPS / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    run(workspace, extracted)
    assert tree(workspace / "features") == before


@pytest.mark.slow
def test_extract_without_a_check_is_checked_when_that_is_asked(extracted, workspace):
    before = tree(workspace / "features")
    for node in ("avg_pool", MAPS):
        (workspace / "features" / node / "cut-check.json").unlink()
    summary = run(workspace, extracted, check_images=0)
    assert summary["nodes"]["avg_pool"]["cut_check"] is None
    summary = run(workspace, extracted)
    assert summary["nodes"]["avg_pool"]["cut_check"]["num_images"] == 32
    assert tree(workspace / "features") == before


def test_extract_started_again_has_nothing_to_do_and_loads_no_tensorflow(workspace):
    before = tree(workspace / "features")
    output, modules = modules_loaded_by(
        workspace, "extract", *FLAGS, "--node", "avgpool", "--node", MAPS
    )
    assert "nothing to do" in output
    assert not {"tensorflow", "keras"} & modules
    assert tree(workspace / "features") == before


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"dtype": "float16"}, "dtype float32, now float16"),
        ({"branches": ("q010", "original")}, "branches original,q010,q050, now original,q010"),
        ({"backbone": "inception_v3"}, "backbone efficientnet_lite0, now inception_v3"),
        ({"weights": "none"}, "weights imagenet, now none"),
        ({"batch_size": 3}, "batch_size 4, now 3"),
        ({"shards": 7}, "shards 5, now 7"),
        ({"shard_size": 7}, "shard_bytes 128000000, now 7"),
        ({"encoding": "dense"}, "encoding auto, now dense"),
        ({"format": "tfrecord"}, "format parquet, now tfrecord"),
        ({"threads": 3}, r"profile\.threads 2, now 3"),
        ({"precision": "mixed_float16"}, r"profile\.precision float32, now mixed_float16"),
    ],
)
def test_extract_other_settings_raise_naming_the_difference(
    extracted, workspace, changed, difference
):
    before = tree(workspace / "features")
    with pytest.raises(ManifestError, match=rf"{MAPS}: made with .*{difference}.*--overwrite"):
        run(workspace, extracted, node=(MAPS,), **changed)
    assert tree(workspace / "features") == before


@pytest.mark.parametrize(
    "changed",
    [
        {"check_images": 0},
        {"workers": 1, "hang_timeout": 0},
        {"devices": "cpu"},
        {"task_index": 1, "num_tasks": 2},
        {"batch_size": None},
        {"batch_size": None, "overwrite": True},
    ],
)
def test_extract_other_ways_of_working_are_no_other_settings(extracted, workspace, changed):
    before = tree(workspace / "features")
    summary = run(workspace, extracted, **changed)
    assert (summary["num_resumed_shards"], summary["is_whole"]) == (10, True)
    assert (summary["images_per_s"], summary["device"], summary["num_workers"]) == (None,) * 3
    assert tree(workspace / "features") == before


@pytest.mark.slow
def test_extract_overwrite_of_the_same_settings_goes_on_with_the_batch_size_of_the_plan(
    extracted, workspace
):
    before = tree(workspace / "features")
    folder = workspace / "features" / MAPS
    min(folder.glob("val-*")).unlink()
    (folder / "manifest.json").unlink()
    summary = run(workspace, extracted, batch_size=None, overwrite=True)
    assert summary["num_resumed_shards"] == 9
    assert tree(workspace / "features") == before


@pytest.mark.parametrize("named", [("avg_pool", MAPS), (MAPS, "avg_pool")])
def test_planned_batch_size_under_overwrite_is_that_of_a_cache_that_stays(named, workspace):
    features_dir = workspace / "features"
    asked = {
        key: value
        for key, value in plan_of(workspace, MAPS)["fingerprint"].items()
        if key not in ("batch_size", "node")
    }
    edit(
        features_dir / "avg_pool/plan.json",
        lambda plan: plan["fingerprint"].update(dtype="float16", batch_size=2),
    )
    assert finished.planned_batch_size(features_dir, named, asked, True) == BATCH_SIZE
    assert finished.planned_batch_size(features_dir, ["avg_pool"], asked, True) is None
    assert finished.planned_batch_size(features_dir, ["avg_pool"], asked, False) == 2


def test_extract_beside_a_cache_of_version_1_leaves_it(extracted, workspace):
    shutil.rmtree(workspace / "features" / MAPS)
    shutil.copytree(
        Path(__file__).parent / "golden/v1/features/sparse", workspace / "features" / MAPS
    )
    before = tree(workspace / "features")
    message = f"{MAPS}: format version 1, this program writes 2; train on it as it is, or make it"
    with pytest.raises(ManifestError, match=message):
        run(workspace, extracted, node=(MAPS,))
    assert tree(workspace / "features") == before


def test_extract_after_variants_made_anew_raises_naming_them(extracted, photos, workspace):
    images = CompressConfig(images=str(photos), qualities=(10, 90), shards=5, overwrite=True)
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    with pytest.raises(ManifestError, match=r"variants\.codec\.qualities 10,50, now 10,90"):
        run(workspace, extracted)


def test_extract_after_an_image_was_changed_and_compressed_anew_raises(
    extracted, photos, workspace, tmp_path
):
    changed = Path(shutil.copytree(photos, tmp_path / "changed"))
    first, second = sorted((changed / "brick").iterdir())[:2]
    shutil.copy(second, first)
    shutil.rmtree(workspace / "variants")
    images = CompressConfig(images=str(changed), qualities=(10, 50), shards=5)
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    plans = [p / "variants" / "jpeg" / "plan.json" for p in (workspace, extracted.path)]
    assert plans[0].read_bytes() == plans[1].read_bytes(), "settings alone would not tell"
    with pytest.raises(ManifestError, match=r"made with images_sha256 \w+, now"):
        run(workspace, extracted)


def test_extract_after_variants_were_cut_into_other_shards_has_nothing_to_do(
    extracted, photos, workspace
):
    shutil.rmtree(workspace / "variants")
    images = CompressConfig(images=str(photos), qualities=(10, 50), shards=9)
    assert compress.run(workspace, images, 0, Silent(), inline.open_crew)["num_shards"] == 9
    before = tree(workspace / "features")
    assert run(workspace, extracted)["num_resumed_shards"] == 10
    assert tree(workspace / "features") == before


@pytest.mark.slow
def test_extract_nodes_whose_shards_differ_are_not_mixed(extracted, workspace, monkeypatch):
    shutil.rmtree(workspace / "features")
    asked = {"shards": 0, "branches": ("original",), "check_images": 0}
    monkeypatch.setattr(plans, "_SHARD_ROWS", 8)
    run(workspace, extracted, node=("avg_pool",), **asked)
    monkeypatch.setattr(plans, "_SHARD_ROWS", 16)
    # A new cache follows one that is begun, not one that is whole; two that are begun must agree.
    before = tree(workspace / "features" / "avg_pool")
    run(workspace, extracted, node=("avg_pool", MAPS), **asked)
    assert tree(workspace / "features" / "avg_pool") == before
    tasks = {node: plan_of(workspace, node)["shards"] for node in ("avg_pool", MAPS)}
    assert len(tasks["avg_pool"]) > len(tasks[MAPS])
    for node, (first, *_) in tasks.items():
        (workspace / "features" / node / "receipts" / f"{first['shard']}.json").unlink()
    with pytest.raises(ManifestError, match=f"{MAPS}: has other shards than .*avg_pool"):
        run(workspace, extracted, node=("avg_pool", MAPS), **asked)
    (workspace / "features" / MAPS / "plan.json").unlink()
    (workspace / "features" / MAPS / "manifest.json").unlink()
    run(workspace, extracted, node=("avg_pool", MAPS), **asked)
    assert plan_of(workspace, MAPS)["shards"] == tasks["avg_pool"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("block7a_expand_activatoin", f"is no layer of the network; nearest nodes: {MAPS}"),
        ("mixed_9", "is no layer of the network; nearest nodes:"),
        ("block2b_expand_conv", "valid cut: an edge from 'block2a_project_bn' passes over it"),
        ("predictions", "is the decision layer or lies behind it"),
    ],
)
def test_extract_wrong_node_raises_and_leaves_no_folder(extracted, workspace, asked, message):
    before = tree(workspace / "features")
    with pytest.raises(NodeError, match=re.escape(message)):
        run(workspace, extracted, node=(asked,))
    assert tree(workspace / "features") == before
    assert {path.name for path in (workspace / "features").iterdir()} == {"avg_pool", MAPS}


def test_extract_missing_weights_file_raises(extracted, workspace):
    with pytest.raises(WeightsError, match=r"no/such\.weights\.h5': no such file"):
        run(workspace, extracted, weights="no/such.weights.h5", features_dir="other")
    assert not (workspace / "other").exists()


@pytest.mark.slow
def test_extract_weights_file_is_taken_and_recorded(extracted, workspace):
    lite0().model.save_weights(workspace / "my.weights.h5")
    changed = {"weights": "my.weights.h5", "features_dir": "other", "check_images": 0}
    run(workspace, extracted, node=("avg_pool",), **changed)
    plan = json.loads((workspace / "other" / "avg_pool" / "plan.json").read_text())
    made = plan_of(workspace, "avg_pool")["fingerprint"]
    assert plan["fingerprint"]["weights"] == "my.weights.h5"
    assert plan["fingerprint"]["weights_file_sha256"] != made["weights_file_sha256"]
    assert plan["fingerprint"]["weights_sha256"] == made["weights_sha256"]
    for split in ("train", "val", "test"):  # shards differ in the place that they name
        found, expected = (
            read_split(FeatureCache(workspace / folder / "avg_pool"), split)
            for folder in ("other", "features")
        )
        assert (found[0].tobytes(), found[2]) == (expected[0].tobytes(), expected[2])
    with (workspace / "my.weights.h5").open("ab") as file:
        file.write(b"changed")
    with pytest.raises(ManifestError, match="weights_file_sha256"):
        run(workspace, extracted, node=("avg_pool",), **changed)


@pytest.mark.slow
def test_extract_weights_without_classifier_can_be_trained_on_whatever_the_seed(
    extracted, workspace
):
    import keras

    model = lite0().model
    top = keras.Model(model.inputs[0], model.get_layer("avg_pool").output)
    top.save_weights(workspace / "top.weights.h5")
    changed = {"weights": "top.weights.h5", "features_dir": "other", "branches": ("original",)}
    run(workspace, extracted, seed=3, node=("avg_pool",), check_images=2, **changed)
    num_images = FeatureCache(workspace / "other" / "avg_pool").num_rows("train")
    config = TrainTailConfig(epochs=1, batch_size=num_images)
    summary = train_tail.run(workspace, workspace / "other", config, 3, Silent())
    assert summary["num_steps"] == 1


def test_extract_unknown_branch_raises(extracted, workspace):
    with pytest.raises(ConfigError, match="no variant q011; it has original, q010, q050"):
        run(workspace, extracted, branches=("q011",), features_dir="other")


def test_extract_without_variants_raises(extracted, tmp_path):
    with pytest.raises(ManifestError, match="nothing here yet; run `bottleneck compress` first"):
        run(tmp_path, extracted)


def test_extract_damaged_variants_shard_raises_naming_it(extracted, workspace):
    shard = max((workspace / "variants" / "jpeg").glob("train-*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=rf"{shard.name}: damaged: .*verify --repair"):
        run(workspace, extracted, node=("avg_pool",), features_dir="other")
    assert not (workspace / "other" / "avg_pool" / "manifest.json").exists()


@pytest.mark.parametrize("num_deleted", range(4))
def test_extract_overwrite_killed_while_clearing_leaves_no_receipts_of_another_plan(
    workspace, monkeypatch, num_deleted
):
    folder = workspace / "features" / "avg_pool"
    left = iter(range(num_deleted, -1, -1))
    unlink = Path.unlink

    def dying(path, **options):
        if next(left) == 0:
            raise KeyboardInterrupt
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises(KeyboardInterrupt):
        ShardFolder(folder).clear()
    has_receipts = any((folder / "receipts").glob("*"))
    assert (folder / "plan.json").exists() or not has_receipts
    assert not (folder / "manifest.json").exists() or num_deleted == 0
