"""What extract keeps: the network's own activations, in the encoding that its probe chose."""

from __future__ import annotations

import json

import numpy as np
import pytest
from caches import lite0, read_split
from conftest import BATCH_SIZE

from pipelines import extract
from pipelines.execution import inline
from pipelines.execution.threads import num_cores
from pipelines.images import decode, preprocess
from pipelines.images.jpeg import decode_jpeg
from pipelines.progress import Silent
from pipelines.storage import variants
from pipelines.storage.cache import FeatureCache
from pipelines.storage.fingerprint import digest

MAPS = "block7a_expand_activation"
pytestmark = pytest.mark.usefixtures("networks_once")


def run(workspace, extracted, seed=0, progress=None, **changed):
    config = extracted.config.model_copy(update=changed)
    return extract.run(workspace, config, seed, progress or Silent(), inline.open_crew)


def inputs_of(workspace, split, branch, ids):
    """Decode and resize images of a split as the network gets them, float32 and scaled."""
    source = variants.open_set(workspace / "variants" / "jpeg", [branch])
    rows = {row.id: row for row in source.rows(split, 0, source.num_rows()[split])}
    protocol = preprocess.for_backbone("lite", 224)
    read = decode.decode_original if branch == "original" else decode_jpeg
    options = {"max_megapixels": 1.0} if branch == "original" else {}
    pixels = [preprocess.to_input(read(rows[i].variants[0], **options), protocol) for i in ids]
    return preprocess.scale(np.stack(pixels).astype(np.float32), protocol)


def plan_of(workspace, node):
    return json.loads((workspace / "features" / node / "plan.json").read_text())


def test_extract_summary_has_the_contracts_keys(extracted):
    summary = extracted.summary
    assert list(summary) == [
        *("stage", "num_images", "num_quarantined", "num_shards", "num_planned_shards"),
        *("size_bytes", "seconds", "num_resumed_shards", "num_other_shards", "is_whole"),
        *("images_per_s", "device", "num_workers", "on_the_fly", "nodes"),
    ]
    assert (summary["stage"], summary["num_images"], summary["num_shards"]) == ("extract", 40, 10)
    assert (summary["num_quarantined"], summary["num_resumed_shards"]) == (0, 0)
    assert (summary["num_planned_shards"], summary["is_whole"]) == (10, True)
    assert (summary["num_workers"], summary["on_the_fly"]) == (min(10, num_cores() // 2 or 1), None)
    assert list(summary["device"]) == ["busy", "wait_decode", "wait_disk", "wait_write"]
    assert sum(summary["device"].values()) == pytest.approx(1, abs=1e-3)
    assert sum(summary["device"].values()) == pytest.approx(1, abs=1e-3)
    assert summary["device"]["busy"] > 0
    pool, maps = summary["nodes"]["avg_pool"], summary["nodes"][MAPS]
    assert list(pool) == [
        *("density", "encoding", "reason", "dtype", "format", "size_bytes", "num_branches"),
        *("shape", "clipped_share", "cut_check"),
    ]
    assert (pool["format"], pool["clipped_share"]) == ("parquet", None)
    assert (pool["shape"], pool["num_branches"], pool["dtype"]) == ([1280], 3, "float32")
    assert maps["shape"] == [7, 7, 1152]
    for name, node in summary["nodes"].items():
        shards = (extracted.path / "features" / name).glob("*.parquet")
        assert node["size_bytes"] == sum(path.stat().st_size for path in shards)
    assert summary["size_bytes"] == pool["size_bytes"] + maps["size_bytes"]


def test_extract_stores_sparse_what_its_probe_found_smaller_so(extracted):
    for node in ("avg_pool", MAPS):
        details = plan_of(extracted.path, node)["details"]
        sizes = details["probe"]["size_bytes"]
        assert details["encoding"] == "sparse"
        assert sizes["sparse"] < 0.95 * sizes["dense"]
        assert details["probe"]["num_images"] == 40  # all there are
        assert extracted.summary["nodes"][node]["reason"] == details["probe"]["reason"]


def test_extract_cut_check_finds_the_networks_own_scores(extracted):
    for node in ("avg_pool", MAPS):
        found = extracted.summary["nodes"][node]["cut_check"]
        path = extracted.path / "features" / node / "cut-check.json"
        assert {**found, "check_sha256": digest(found)} == json.loads(path.read_text())
        assert (found["num_images"], found["bound"], found["same_top1"]) == (32, 1e-5, 1)
        assert found["max_difference"] <= 1e-5


def test_extract_density_is_the_share_of_values_that_are_not_zero(extracted):
    for name, node in extracted.summary["nodes"].items():
        cache = FeatureCache(extracted.path / "features" / name)
        maps = np.concatenate([read_split(cache, s)[0] for s in ("train", "val", "test")])
        assert node["density"] == pytest.approx(np.count_nonzero(maps) / maps.size, abs=1e-6)


@pytest.mark.parametrize("branch", ["original", "q010"])
def test_extract_stores_the_networks_own_activations(extracted, branch):
    import keras

    backbone = lite0()
    layers = [backbone.model.get_layer(name).output for name in ("avg_pool", MAPS)]
    plain = keras.Model(backbone.model.inputs[0], layers)
    for i, node in enumerate(("avg_pool", MAPS)):
        cache = FeatureCache(extracted.path / "features" / node)
        stored, _, ids = read_split(cache, "val", [branch])
        expected = plain.predict_on_batch(inputs_of(extracted.path, "val", branch, ids))[i]
        assert np.abs(stored[:, 0] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_extract_same_batch_shape_gives_the_stored_bits(extracted):
    import keras
    import tensorflow as tf

    backbone, branches = lite0(), ("original", "q010", "q050")
    layer = backbone.model.get_layer(MAPS).output
    plain = tf.function(keras.Model(backbone.model.inputs[0], layer))
    cache = FeatureCache(extracted.path / "features" / MAPS)
    stored, _, ids = read_split(cache, "val")
    images = np.stack([inputs_of(extracted.path, "val", name, ids) for name in branches], axis=1)
    protocol = preprocess.for_backbone("lite", 224)
    black = preprocess.scale(np.zeros((1, 224, 224, 3), np.float32), protocol)
    task = next(task for task in plan_of(extracted.path, MAPS)["shards"] if task["split"] == "val")
    num_rows = task["stop"]  # of the first shard; a batch never takes rows of the next one
    assert num_rows % BATCH_SIZE
    for start in range(0, num_rows, BATCH_SIZE):
        some = images[start : min(start + BATCH_SIZE, num_rows)].reshape(-1, 224, 224, 3)
        padding = np.repeat(black, BATCH_SIZE * len(branches) - len(some), axis=0)
        maps = plain(np.concatenate([some, padding]), training=False).numpy()[: len(some)]
        found = stored[start : start + len(some) // len(branches)].reshape(maps.shape)
        np.testing.assert_array_equal(found, maps)


@pytest.mark.slow
def test_extract_overwrite_makes_it_anew_in_float16(extracted, workspace):
    run(workspace, extracted, dtype="float16", overwrite=True, check_images=0)
    for node in ("avg_pool", MAPS):
        small = FeatureCache(workspace / "features" / node)
        exact = FeatureCache(extracted.path / "features" / node)
        assert (small.layout.dtype, exact.layout.dtype) == ("float16", "float32")
        found, expected = read_split(small, "train")[0], read_split(exact, "train")[0]
        np.testing.assert_array_equal(found.astype(np.float16), expected.astype(np.float16))
    assert not list((workspace / "features").rglob("*.tmp"))


@pytest.mark.slow
def test_extract_uint8_in_tfrecord_is_half_a_step_off_the_same_numbers(extracted, workspace):
    kind = {"dtype": "uint8", "format": "tfrecord", "encoding": "dense", "shards": 0}
    kind |= {"features_dir": "other", "shard_size": 200_000}
    summary = run(workspace, extracted, **kind)
    for node in ("avg_pool", MAPS):
        small = FeatureCache(workspace / "other" / node)
        exact = FeatureCache(extracted.path / "features" / node)
        assert (small.layout.dtype, small.layout.format) == ("uint8", "tfrecord")
        assert small.layout.encoding == "dense"
        assert {path.suffix for path in small.path.glob("*-of-*")} == {".tfrecord"}
        scales = np.array(small.layout.scales, np.float32)
        for split in ("train", "val", "test"):
            (found, _, ids), (expected, _, names) = (read_split(c, split) for c in (small, exact))
            assert ids == names
            assert (np.abs(found - expected) <= 0.5001 * scales).all()
            assert (found[expected == 0] == 0).all()
        found = summary["nodes"][node]
        assert found["clipped_share"] == 0  # the probe has seen every image
        assert found["cut_check"]["max_difference"] <= found["cut_check"]["bound"] == 0.1
    # The larger of the two caches has shards of about the size that was asked for.
    sizes = [receipt.size_bytes for receipt in FeatureCache(workspace / "other" / MAPS).receipts]
    assert 8 < len(sizes) < 40
    assert 100_000 < np.mean(sizes) < 250_000
