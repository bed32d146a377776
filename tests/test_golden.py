"""Files of format version 1 as the first release wrote them: they read today and ever after.

`golden/make_v1.py` tells how they were made. They are never made again: where a test here
fails, the code is wrong, or the format needs a new version.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.storage import variants
from pipelines.storage.cache import FeatureCache, find_cache
from pipelines.storage.manifest import ShardFolder

GOLDEN = Path(__file__).parent / "golden"
V1 = GOLDEN / "v1"
TREE_SHA256 = "6a8894700cdbc6953fac6f36a6164c411c24b6f041bd5613b18f5f344ccfc022"
BRANCHES = ("original", "q010", "q090")
IMAGES = {
    # id: label and the first 16 digits of the SHA-256 of original, q010, q090
    "train/0.jpg": (0, "77f13fbc2e7a408d", "3b48b28aa73bba1e", "c1cda9ad83c5aca2"),
    "train/1.jpg": (1, "d66283680bdcde9d", "2c2b7791b7faca90", "6a367242ba5fa27f"),
    "train/2.jpg": (0, "6fd33c57bfd4dd17", "a5a6cc0d31b1bca6", "b0bd756a37e12739"),
    "val/0.jpg": (0, "9ee02c2c5d14f381", "f501ab91a709a0b6", "9eb1312396e15f80"),
    "val/1.jpg": (1, "c3ccfb83eed46e23", "3b5694ab586cc43d", "ed98f9cafb09f3e4"),
}
FIRST_MAP = [
    [[0.5, 0.75, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]],
    [[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]],
]
ROWS_OF_SPLIT = {"train": slice(0, 5), "val": slice(5, 8)}


def expected_maps(encoding: str) -> np.ndarray:
    """Say again what make_v1.py wrote: float32 (8 images, 3 branches, 2, 3, 5)."""
    maps = np.empty((8, 3, 2, 3, 5), np.float32)
    for i, b, y, x, c in np.ndindex(maps.shape):
        steps = (7 * i + 5 * b + 3 * y + 2 * x + c) % 13
        value = max(steps - 8, 0) / 4 if encoding == "sparse" else (steps - 6) / 3
        maps[i, b, y, x, c] = np.float32(value)
    return maps


def test_golden_files_are_the_committed_ones():
    digest = hashlib.sha256()
    for path in sorted(V1.rglob("*")):
        if path.is_file() and path.name != ".lock":
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(V1).as_posix()} {content}\n".encode())
    assert digest.hexdigest() == TREE_SHA256


@pytest.mark.parametrize("folder", ["variants", "features/sparse", "features/dense"])
def test_golden_receipts_hold_and_have_the_shards_hashes(folder):
    shards = ShardFolder(V1 / folder)
    kind = folder.split("/", maxsplit=1)[0]
    plan, receipts = shards.read_manifest(kind, 1, "")
    assert shards.receipts(plan) == {receipt.shard: receipt for receipt in receipts}
    for receipt in receipts:
        content = (V1 / folder / receipt.shard).read_bytes()
        assert receipt.sha256 == hashlib.sha256(content).hexdigest()


def test_golden_variants_are_the_written_images():
    found = variants.open_set(V1 / "variants", ("all",))
    assert found.names == BRANCHES
    assert found.num_rows() == {"train": 3, "val": 2}
    assert found.receipts[1].quarantined == (("train/3.jpg", "image file is truncated"),)
    rows = [*found.rows("train", 0, 3), *found.rows("val", 0, 2)]
    assert [row.id for row in rows] == list(IMAGES)
    for row in rows:
        digests = [hashlib.sha256(image).hexdigest()[:16] for image in row.variants]
        assert (row.label, *digests) == IMAGES[row.id]
        assert row.sha256 == hashlib.sha256(row.variants[0]).digest()


def test_golden_variants_decode_to_the_pictures():
    found = variants.open_set(V1 / "variants", ("q090",))
    (row,) = found.rows("train", 1, 2)
    with Image.open(io.BytesIO(row.variants[0])) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (8, 8), "RGB")
        found_pixels = np.asarray(image).astype(int)
    y, x, c = np.indices((8, 8, 3))
    pixels = (16 * x + 8 * y + 60 * c + 37) % 256
    assert np.median(np.abs(found_pixels - pixels)) < 16


@pytest.mark.parametrize("budget_bytes", [0, 1 << 20])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("encoding", "dtype"), [("sparse", "float16"), ("dense", "float32")])
def test_golden_features_are_the_formula(encoding, dtype, split, budget_bytes):
    cache = find_cache(V1 / "features", encoding)
    assert (cache.layout.encoding, cache.layout.dtype) == (encoding, dtype)
    assert (cache.layout.shape, cache.layout.branches) == ((2, 3, 5), BRANCHES)
    batches = list(cache.split(split, BRANCHES, budget_bytes).in_order(2))
    maps = np.concatenate([batch.features for batch in batches])
    np.testing.assert_array_equal(maps, expected_maps(encoding)[ROWS_OF_SPLIT[split]])
    labels = np.concatenate([batch.labels for batch in batches])
    assert labels.tolist() == [i % 2 for i in range(len(maps))]


@pytest.mark.parametrize("encoding", ["sparse", "dense"])
def test_golden_features_by_id_are_the_formula(encoding):
    cache = FeatureCache(V1 / "features" / encoding)
    found = cache.read(["val/0.jpg", "train/4.jpg", "train/0.jpg"], ("q090", "original"))
    np.testing.assert_array_equal(found, expected_maps(encoding)[[5, 4, 0]][:, [0, 2]])


@pytest.mark.parametrize("encoding", ["sparse", "dense"])
def test_golden_features_in_training_order_are_each_once(encoding):
    reader = FeatureCache(V1 / "features" / encoding).reader("train")
    batches = list(reader.epoch(2, seed=3, epoch=1))
    names = [name for batch in batches for name in batch.ids]
    assert sorted(names) == [f"train/{i}.jpg" for i in range(5)]
    rows = [int(name[6]) for name in names]
    maps = np.concatenate([batch.features for batch in batches])
    np.testing.assert_array_equal(maps, expected_maps(encoding)[rows])


def test_golden_sparse_maps_can_be_read_as_masks_and_values():
    reader = FeatureCache(V1 / "features" / "sparse").reader("val")
    (batch,) = reader.sparse_in_order(8)
    maps = expected_maps("sparse")[5:]
    assert batch.values.dtype == np.float16
    channels_first = maps.transpose(0, 1, 4, 2, 3).reshape(3, 3, -1)
    np.testing.assert_array_equal(batch.values, channels_first[channels_first != 0])


def test_golden_sparse_first_map_is_these_numbers():
    batch = next(FeatureCache(V1 / "features" / "sparse").split("train", ("q090",), 0).in_order(1))
    assert batch.ids == ["train/0.jpg"]
    assert batch.features[0, 0].tolist() == FIRST_MAP


def test_golden_sparse_shard_says_how_many_numbers_are_not_zero():
    manifest = json.loads((V1 / "features/sparse/manifest.json").read_text(encoding="utf-8"))
    maps = expected_maps("sparse")
    for entry, rows in zip(manifest["shards"], [(0, 3), (3, 5), (5, 8)], strict=True):
        part = maps[slice(*rows)]
        assert entry["stats"] == {"nnz": np.count_nonzero(part), "num_values": part.size}


def test_make_v1_files_there_already_refuses():
    command = [sys.executable, str(GOLDEN / "make_v1.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "golden files are never made again" in result.stderr
