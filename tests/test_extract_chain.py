"""Extract from the cache of a node in front: the same maps, the same refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from caches import lite0, make_cache, read_split
from conftest import BATCH_SIZE
from processes import modules_loaded_by, tree

from pipelines import extract
from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError, ManifestError, NodeError
from pipelines.execution import inline
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache

MAPS = "block7a_expand_activation"
BEHIND = "block7a_project_bn"


def run(workspace: Path, progress=None, **changed):
    kind = {"dtype": "float32", "batch_size": BATCH_SIZE, "shards": 5, "from_node": MAPS}
    config = ExtractConfig(backbone="efficientnet_lite0", **{**kind, **changed})
    return extract.run(workspace, config, 0, progress or Silent(), inline.open_crew)


@pytest.fixture(scope="module")
def chained(extracted, tmp_path_factory):
    """The workspace without variants and pool, which were extracted again from the other cache."""
    workspace = tmp_path_factory.mktemp("chained")
    shutil.copytree(extracted.path / "features" / MAPS, workspace / "features" / MAPS)
    (workspace / "bottleneck.toml").touch()
    return workspace, run(workspace, node=("avg_pool", BEHIND))


@pytest.fixture
def workspace(chained, tmp_path):
    return Path(shutil.copytree(chained[0], tmp_path / "workspace"))


def test_extract_from_node_gives_the_maps_that_the_images_give(extracted, chained):
    found = FeatureCache(chained[0] / "features" / "avg_pool")
    expected = FeatureCache(extracted.path / "features" / "avg_pool")
    assert found.splits == expected.splits
    for split in found.splits:
        maps, labels, ids = read_split(found, split)
        wanted = read_split(expected, split)
        assert np.abs(maps - wanted[0]).max() <= 1e-5 * np.abs(wanted[0]).max()
        assert (labels.tolist(), ids) == (wanted[1].tolist(), wanted[2])


def test_extract_from_node_summary_counts_the_caches_images(chained):
    summary = chained[1]
    assert (summary["num_images"], summary["num_quarantined"]) == (40, 0)
    assert list(summary["nodes"]) == ["avg_pool", BEHIND]
    for node in summary["nodes"].values():
        check = node["cut_check"]
        assert (check["start"], check["num_images"], check["same_top1"]) == (MAPS, 32, 1)
        assert check["max_difference"] <= 1e-5


def test_extract_from_node_output_of_a_convolution_is_dense(chained):
    assert chained[1]["nodes"][BEHIND]["encoding"] == "dense"
    assert chained[1]["nodes"][BEHIND]["density"] == 1


def test_extract_from_node_cache_knows_what_it_was_made_from(extracted, chained):
    plans = [
        json.loads((path / "features" / "avg_pool" / "plan.json").read_text())
        for path in (chained[0], extracted.path)
    ]
    start = json.loads((chained[0] / "features" / MAPS / "plan.json").read_text())
    made, direct = (plan["fingerprint"] for plan in plans)
    assert made["from_node"]["node"] == MAPS
    assert made["from_node"]["dtype"] == start["details"]["dtype"] == "float32"
    for key in ("variants", "images_sha256", "protocol", "weights_sha256", "branches"):
        assert made[key] == direct[key]
    for key in ("classes", "split_note", "blocks", "weights", "feeds_decision"):
        assert plans[0]["details"][key] == plans[1]["details"][key]


def test_extract_from_node_again_has_nothing_to_do_and_loads_no_tensorflow(workspace):
    before = tree(workspace / "features")
    flags = ("--backbone", "efficientnet_lite0", "--batch-size", str(BATCH_SIZE))
    flags += ("--dtype", "float32", "--shards", "5", "--from-node", "Block7aExpandActivation")
    output, modules = modules_loaded_by(workspace, "extract", *flags, "--node", "avg_pool")
    assert "nothing to do" in output
    assert not {"tensorflow", "keras"} & modules
    assert tree(workspace / "features") == before


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"branches": ("original",)}, "branches original,q010,q050, now original"),
        ({"dtype": "float16"}, "dtype float32, now float16"),
    ],
)
def test_extract_from_node_other_settings_raise_naming_the_difference(
    workspace, changed, difference
):
    with pytest.raises(ManifestError, match=rf"avg_pool: made with .*{difference}.*--overwrite"):
        run(workspace, node=("avg_pool",), **changed)


def test_extract_from_images_over_one_from_a_node_raises(extracted, workspace):
    shutil.copytree(extracted.path / "variants", workspace / "variants")
    message = r"avg_pool: made with .*from_node.* --overwrite"
    with pytest.raises(ManifestError, match=message):
        run(workspace, node=("avg_pool",), from_node="")


def test_extract_from_node_made_anew_since_raises(workspace):
    kind = {"classes": ("brick", "coffee", "grass", "gravel"), "rows": {"train": 20, "val": 20}}
    shutil.rmtree(workspace / "features" / MAPS)
    make_cache(workspace / "features" / MAPS, lite0(), (7, 7, 1152), **kind)
    with pytest.raises(ManifestError, match=r"avg_pool: made with from_node\.sha256 \w{12}, now"):
        run(workspace, node=("avg_pool",))


@pytest.mark.parametrize("node", [MAPS, "block6a_expand_activation"])
def test_extract_from_node_to_one_that_lies_not_behind_raises(workspace, node):
    with pytest.raises(NodeError, match=f"node {node} does not lie behind {MAPS}; extract it from"):
        run(workspace, node=(node,), features_dir="features", overwrite=node == MAPS)
    assert (workspace / "features" / MAPS / "manifest.json").exists()


def test_extract_from_node_without_its_cache_lists_those_there_are(workspace):
    with pytest.raises(
        ManifestError, match=f"no cache of node mixed_9; there are avg_pool, {MAPS}"
    ):
        run(workspace, node=("avg_pool",), from_node="mixed_9")


def test_extract_from_node_unknown_branch_raises(workspace):
    with pytest.raises(ConfigError, match="no branch q090; it has original, q010, q050"):
        run(workspace, node=("avg_pool",), branches=("q090",))


def test_extract_from_node_of_another_network_raises(workspace):
    with pytest.raises(
        ManifestError, match="made with efficientnet_lite0, this run asks for vgg16"
    ):
        extract.run(
            workspace,
            ExtractConfig(backbone="vgg16", from_node=MAPS),
            0,
            Silent(),
            inline.open_crew,
        )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_extract_from_node_with_other_weights_raises(workspace):
    model = lite0().model
    before = model.get_weights()
    try:
        model.set_weights([value * 1.01 for value in before])
        model.save_weights(workspace / "other.weights.h5")
    finally:
        model.set_weights(before)
    with pytest.raises(ManifestError, match="weights"):
        run(workspace, node=("top_activation",), weights="other.weights.h5", check_images=0)
