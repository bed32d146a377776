"""What train-tail refuses: the message says where and what, and nothing is written."""

from __future__ import annotations

import pytest
from caches import lite0, make_cache
from editing import replace
from pooled_runs import POOLED, best, make_pooled, train
from processes import tree

from pipelines.config import TrainTailConfig
from pipelines.errors import ConfigError, ManifestError, PipelineError, TrainingError

MAPS = "block7a_expand_activation"
pytestmark = pytest.mark.usefixtures("networks_once")


@pytest.fixture
def pooled(tmp_path):
    """A workspace with a cache and no run."""
    return make_pooled(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same with one finished run; not to be changed."""
    workspace = make_pooled(tmp_path_factory.mktemp("trained"))
    return workspace, train(workspace)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"epochs": 3}, "epochs 2, now 3"),
        ({"learning_rate": 0.5}, "learning_rate 0.001, now 0.5"),
        ({"gradients": "all"}, "gradients original, now all"),
        ({"branches": ("original", "q010")}, "branches original,q010,q050, now original,q010"),
        ({"seed": 1}, "seed 0, now 1"),
    ],
)
def test_train_tail_other_settings_raise_naming_them(trained, changed, difference):
    before = tree(trained[0] / "runs")
    with pytest.raises(ManifestError, match=rf"avg_pool: made with {difference}; .*--overwrite"):
        train(trained[0], **changed)
    assert tree(trained[0] / "runs") == before


def test_train_tail_dense_cache_cannot_be_expanded_on_the_device(pooled):
    with pytest.raises(ConfigError, match=r"--expand device: .*avg_pool is dense, and"):
        train(pooled, expand="device")


@pytest.mark.parametrize(
    "refused", [{"expand": "device"}, {"head_init": "pretrained"}, {"branches": ("q077",)}]
)
def test_train_tail_overwrite_that_is_refused_keeps_the_run(trained, refused):
    before = tree(trained[0] / "runs")
    with pytest.raises(PipelineError):
        train(trained[0], overwrite=True, **refused)
    assert tree(trained[0] / "runs") == before


def test_train_tail_without_node_among_several_caches_raises_listing_them(pooled):
    make_cache(pooled / "features" / MAPS, lite0(), (7, 7, 1152), rows={"train": 5})
    with pytest.raises(ManifestError, match=f"choose one with --node: avg_pool, {MAPS}"):
        train(pooled)


def test_train_tail_node_without_cache_raises_listing_the_others(pooled):
    with pytest.raises(ManifestError, match="no cache of node mixed_9; there are avg_pool; run"):
        train(pooled, node="mixed_9")


def test_train_tail_without_any_cache_raises(tmp_path):
    with pytest.raises(ManifestError, match="no cache here; run `bottleneck extract` first"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("rows", "classes", "words"),
    [
        ({"train": 20}, ("ant", "bee"), "no images to select the best checkpoint on: split val is"),
        (
            {"val": 20},
            ("ant", "bee"),
            "no images to learn from: split train is empty; there are va",
        ),
        ({"train": 9, "val": 9}, ("ant", "bee"), r"batch size 10: .* has 9 images to learn from; "),
        ({"train": 20, "val": 9}, ("ant",), r"1 class \(ant\); two or more are needed"),
    ],
)
def test_train_tail_cache_of_which_nothing_can_be_learnt_raises_before_anything_is_written(
    tmp_path, rows, classes, words
):
    make_cache(tmp_path / "features" / "avg_pool", lite0(), POOLED, rows=rows, classes=classes)
    with pytest.raises(PipelineError, match=words):
        train(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_train_tail_label_outside_the_classes_raises_naming_its_image(tmp_path):
    folder = tmp_path / "features" / "avg_pool"
    make_cache(folder, lite0(), POOLED, rows={"train": 20, "val": 9}, labels_of={"train/0007": 4})
    with pytest.raises(TrainingError, match="image train/0007 has label 4, of 4 classes; run"):
        train(tmp_path)


def test_train_tail_run_of_an_earlier_version_raises_and_overwrite_replaces_it(pooled):
    run_dir = pooled / "runs" / "avg_pool"
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text('{"format_version": 1, "fingerprint": {}}')
    with pytest.raises(
        ManifestError, match=r"format version 1, this program reads 2; restore it, or tr"
    ):
        train(pooled)
    assert train(pooled, overwrite=True, epochs=1)["num_steps"] > 0


def test_train_tail_run_that_cannot_be_read_raises_and_overwrite_replaces_it(pooled):
    run_dir = pooled / "runs" / "avg_pool"
    run_dir.mkdir(parents=True)
    for text in ("[]", '{"format_version": 2}', "{"):
        (run_dir / "run.json").write_text(text)
        with pytest.raises(ManifestError, match=r"run\.json: .*restore it, or train the run again"):
            train(pooled)
    assert train(pooled, overwrite=True, epochs=1)["num_steps"] > 0


@pytest.mark.parametrize("name", ["latest.json", "a/b", "..", "a\nb", " a"])
def test_train_tail_name_that_is_no_plain_one_raises(name):
    with pytest.raises(ValueError, match="not a plain name"):
        TrainTailConfig(run=name)


def test_train_tail_unknown_branch_raises(pooled):
    with pytest.raises(ConfigError, match="no branch q011; it has original, q010, q050"):
        train(pooled, branches=("original", "q011"))


def test_train_tail_cache_without_original_raises_before_anything_is_written(tmp_path):
    make_cache(tmp_path / "features" / "avg_pool", lite0(), POOLED, branches=("q010", "q050"))
    with pytest.raises(ConfigError, match="no branch original; it has q010, q050"):
        train(tmp_path, gradients="all")
    assert not (tmp_path / "runs").exists()


def test_train_tail_gradients_of_a_left_out_original_raise_before_anything_is_written(pooled):
    with pytest.raises(TrainingError, match="lack original; add it or use --gradients all"):
        train(pooled, branches=("q010", "q050"))
    assert not (pooled / "runs").exists()
    summary = train(pooled, branches=("q010", "q050"), gradients="all")
    assert best(pooled, "avg_pool")["head/kernel"].shape == (2 * 1280, 4)
    assert summary["num_steps"] > 0


@pytest.mark.parametrize("setting", [{"default": "pretrained"}, {"head_init": "pretrained"}])
def test_train_tail_pretrained_on_other_classes_raises_before_any_step(pooled, setting):
    with pytest.raises(
        TrainingError, match=r"4 classes \(ant, bee, cow, \.\.\.\) are not the 1,000"
    ):
        train(pooled, **setting)
    assert not (pooled / "runs" / "avg_pool" / "run.json").exists()
    assert train(pooled, epochs=1)["num_steps"] > 0  # the refused settings leave nothing in the way


def test_train_tail_weights_of_another_network_raise(pooled):
    for name in ("plan.json", "manifest.json"):
        replace(pooled / "features" / "avg_pool" / name, lite0().weights_sha256, "0" * 64)
    with pytest.raises(ManifestError, match="made with other weights than imagenet has now"):
        train(pooled)
