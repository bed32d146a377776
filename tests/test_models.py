from __future__ import annotations

import csv
import dataclasses
import json
import random

import numpy as np
import pytest
from caches import BRANCHES, lite0, make_cache, tiny
from commands import invoke
from images import photo, write_png

from pipelines import compress, evaluate, extract, train_tail
from pipelines.config import CompressConfig, EvalConfig, ExtractConfig, TrainTailConfig
from pipelines.errors import ManifestError, TrainingError
from pipelines.execution import inline
from pipelines.images import preprocess
from pipelines.networks import models
from pipelines.networks.topology import Design
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache

WNIDS = tuple(f"n{number:08d}" for number in range(1, 1001))
FIVE_WNIDS = WNIDS[:5]
NUM_TRAIN = 20
pytestmark = pytest.mark.usefixtures("networks_once")


@pytest.fixture
def cache(tmp_path):
    return make_cache(tmp_path / "first", tiny(), (8, 8, 6), classes=FIVE_WNIDS, rows={"val": 4})


def test_load_backbone_gives_the_network_of_the_cache(tmp_path):
    made = make_cache(tmp_path / "avg_pool", lite0(), (1280,), rows={"val": 2})
    backbone = models.load_backbone(made, tmp_path)
    assert (backbone.name, backbone.weights_sha256) == (
        "efficientnet_lite0",
        lite0().weights_sha256,
    )


def test_load_backbone_weights_changed_since_raises(tmp_path):
    other = dataclasses.replace(lite0(), weights_sha256="0" * 64)
    made = make_cache(tmp_path / "avg_pool", other, (1280,), rows={"val": 2})
    with pytest.raises(ManifestError, match="made with other weights than imagenet has now; bring"):
        models.load_backbone(made, tmp_path)


def test_build_random_head_has_a_class_each_of_the_images(cache):
    weights = models.build(tiny(), cache, Design(BRANCHES), 3).weights()
    assert weights["head/kernel"].shape == (3 * 7, 5)
    assert (weights["head/kernel"] != 0).all()


def test_build_pretrained_head_stands_on_the_original_alone(cache):
    weights = models.build(
        tiny(), cache, Design(BRANCHES, gradients="all", head_init="pretrained"), 3
    ).weights()
    kernel, bias = tiny().model.get_layer("predictions").get_weights()
    np.testing.assert_array_equal(weights["head/kernel"][:7], kernel)
    assert not weights["head/kernel"][7:].any()
    np.testing.assert_array_equal(weights["head/bias"], bias)


def test_build_pretrained_head_without_original_raises(cache):
    with pytest.raises(TrainingError, match="head-init pretrained, but the branches lack original"):
        models.build(tiny(), cache, Design(("q010",), "concat", "all", "pretrained"), 3)


def test_build_pretrained_head_of_other_classes_raises(tmp_path):
    made = make_cache(tmp_path / "first", tiny(), (8, 8, 6), rows={"val": 4})
    with pytest.raises(TrainingError, match=r"4 classes .* are not the 5 that the network was"):
        models.build(tiny(), made, Design(BRANCHES, head_init="pretrained"), 3)


def test_check_own_classes_takes_wordnet_ids_in_ascending_order():
    models.check_own_classes(tiny(), FIVE_WNIDS)


@pytest.mark.parametrize(
    "classes",
    [
        FIVE_WNIDS[:4],
        (*FIVE_WNIDS, "n00000006"),
        FIVE_WNIDS[::-1],
        ("ant", "bee", "cow", "doe", "eel"),
        (*FIVE_WNIDS[:4], "n000000050"),
    ],
)
def test_check_own_classes_other_classes_raise(classes):
    with pytest.raises(TrainingError, match="use --default trained and --head-init random"):
        models.check_own_classes(tiny(), classes)


def test_check_own_classes_without_trained_classifier_raises():
    backbone = dataclasses.replace(tiny(), has_classifier=False)
    with pytest.raises(TrainingError, match="its weights came without a classifier"):
        models.check_own_classes(backbone, FIVE_WNIDS)


def predicted(pictures):
    """Give the class that the whole network finds in each picture."""
    protocol = preprocess.for_backbone("lite", 224)
    pixels = np.stack([preprocess.to_input(picture, protocol) for picture in pictures])
    images = preprocess.scale(pixels.astype(np.float32), protocol)
    return lite0().model.predict_on_batch(images).argmax(axis=1)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A workspace of 1,000 classes, and the top-1 that the network itself has on val and test.

    Nothing is learnt, so that of most classes the one image in train is cut short: it is left out,
    and its class stays. In val and test some labels are what the network finds in the picture, the
    others are not.
    """
    from skimage import data

    workspace = tmp_path_factory.mktemp("thousand")
    rows = []
    for label, name in enumerate(WNIDS):
        folder = workspace / "images" / name
        folder.mkdir(parents=True)
        path = write_png(folder / "train.png", photo(label, (12, 12)))
        if label >= NUM_TRAIN:
            path.write_bytes(path.read_bytes()[:-60])
        rows.append((path, name, "train"))
    photographs = [data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    pictures = [picture[i : i + 250, i : i + 250] for picture in photographs for i in (0, 60, 120)]
    found = predicted(pictures)
    labels = [int(c) if i % 3 else (int(c) + 500) % 1000 for i, c in enumerate(found)]
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        split = ("val", "test")[i % 2]
        path = write_png(workspace / "images" / WNIDS[label] / f"{split}{i}.png", picture)
        rows.append((path, WNIDS[label], split))
    random.Random(0).shuffle(rows)
    with (workspace / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    right = found == labels
    (workspace / "bottleneck.toml").write_text("")
    images = CompressConfig(images=str(workspace / "images.csv"), qualities=(50,), max_bad_share=1)
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    config = ExtractConfig(backbone="efficientnet_lite0", node=("avg_pool",), dtype="float32")
    extract.run(workspace, config, 0, Silent(), inline.open_crew)
    cache = FeatureCache(workspace / "features" / "avg_pool")
    assert (cache.num_rows("train"), cache.classes) == (NUM_TRAIN, WNIDS)
    return workspace, {"val": right[::2].mean(), "test": right[1::2].mean()}


@pytest.mark.slow
def test_pretrained_default_has_the_networks_own_accuracy(thousand):
    workspace, top1 = thousand
    assert 0 < top1["val"] < 1
    assert 0 < top1["test"] < 1
    config = TrainTailConfig(run="default", default="pretrained", epochs=1, batch_size=10)
    summary = train_tail.run(workspace, workspace / "features", config, 0, Silent())
    assert summary["default_best_val_top1"] == pytest.approx(top1["val"])
    for split in ("val", "test"):
        results = evaluate.run(workspace, EvalConfig(run="default", split=split), 0, Silent())
        assert results["default_kind"] == "pretrained"
        assert results["default"]["top1"] == pytest.approx(top1[split])
        assert results["default"] == results["branches"]["original"]


@pytest.mark.slow
def test_pretrained_head_starts_at_the_default_model(thousand):
    workspace, top1 = thousand
    result = invoke(
        *("train-tail", "-C", workspace),
        *("--run", "head", "--head-init", "pretrained", "--default", "pretrained"),
        *("--epochs", "1", "--learning-rate", "1e-30", "--batch-size", "10"),
    )
    assert result.exit_code == 0, result.stderr
    results = evaluate.run(workspace, EvalConfig(run="head"), 0, Silent())
    assert results["topology"]["top1"] == pytest.approx(top1["test"])
    assert (results["type_a"], results["type_b"], results["mcnemar_p"]) == (0, 0, 1.0)
    history = (workspace / "runs" / "head" / "history.jsonl").read_text(encoding="utf-8")
    first = json.loads(history.splitlines()[0])
    assert (first["step"], first["val_top1"]) == (0, pytest.approx(top1["val"]))
