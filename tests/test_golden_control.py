"""The golden control set of variants format 1: a small one that must always read.

Its files were written once, by `golden/make_control_v1.py`. When a test here fails, the reader has
to change, and never the files.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import verify
from pipelines.images import codecs, decode
from pipelines.images.control_codec import ControlCodec
from pipelines.progress import Silent
from pipelines.storage import variants
from pipelines.storage.manifest import ShardFolder

GOLDEN = Path(__file__).parent / "golden"
V1 = GOLDEN / "control_v1"
TREE_SHA256 = "d624c367d3d9c4a8b83650392c79c29e1e39dd8ca12b21e92416298530a569e6"
NAMES = ("original", *(f"control_{number:02d}" for number in range(1, 11)))
SHAPES = {"train/0.png": (8, 8, 3), "train/1.png": (5, 7), "val/0.png": (6, 10, 3)}
# The first 16 digits of the SHA-256 of all ten versions' shapes and pixels.
VERSIONS = {
    "train/0.png": "cb88f5f2d38238bc",
    "train/1.png": "060ef572faf156f9",
    "val/0.png": "af8ca5a0c5e4077b",
}
# The first row of train/1.png, 41 at first and 29 more a column, modulo 256.
FIRST_ROW = {
    "original": [41, 70, 99, 128, 157, 186, 215],
    "control_01": [41, 56, 85, 114, 143, 172, 201],
    "control_02": [41, 70, 99, 128, 157, 186, 215],
    "control_06": [41, 70, 99, 128, 157, 186],
    "control_10": [18, 39, 65, 94, 126, 161, 199],
}


def read_golden() -> dict[str, dict[str, np.ndarray]]:
    """Decode every version of every image."""
    found = variants.open_set(V1 / "variants" / "control", ("all",))
    decode_version = codecs.decoder_of(found.plan.fingerprint["codec"])
    assert found.names == NAMES
    return {
        row.id: {
            name: decode.decode_original(data) if name == "original" else decode_version(data)
            for name, data in zip(NAMES, row.variants, strict=True)
        }
        for split, count in found.num_rows().items()
        for row in found.rows(split, 0, count)
    }


def test_golden_control_files_are_the_committed_ones():
    digest = hashlib.sha256()
    for path in sorted(V1.rglob("*")):
        if path.is_file() and not path.name.startswith(".lock"):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(V1).as_posix()} {content}\n".encode())
    assert digest.hexdigest() == TREE_SHA256


def test_golden_control_receipts_hold():
    shards = ShardFolder(V1 / "variants" / "control")
    plan, receipts = shards.read_manifest("variants", 1, "")
    assert shards.receipts(plan) == {receipt.shard: receipt for receipt in receipts}


def test_golden_control_set_is_whole_to_the_last_pixel(tmp_path):
    workspace = shutil.copytree(V1, tmp_path / "workspace")  # locks are put into what is read
    summary = verify.run(workspace, workspace / "features", True, False, Silent())
    assert (summary["num_shards"], summary["bad"]) == (2, [])


def test_golden_control_versions_are_the_written_ones():
    found = read_golden()
    assert list(found) == list(VERSIONS)
    for number, (name, versions) in enumerate(found.items()):
        y, x, *c = np.indices(SHAPES[name])
        expected = (29 * x + 17 * y + 60 * sum(c) + 41 * number) % 256
        np.testing.assert_array_equal(versions["original"], expected)
        digest = hashlib.sha256()
        for version in [versions[name] for name in NAMES[1:]]:
            digest.update(str(version.shape).encode() + version.tobytes())
        assert digest.hexdigest()[:16] == VERSIONS[name]


@pytest.mark.parametrize("name", FIRST_ROW)
def test_golden_control_first_row_is_these_numbers(name):
    assert read_golden()["train/1.png"][name][0].tolist() == FIRST_ROW[name]


def test_golden_control_codec_makes_the_same_versions_of_the_originals_today():
    found = variants.open_set(V1 / "variants" / "control", ("all",))
    codec = codecs.from_description(found.plan.fingerprint["codec"])
    assert codec == ControlCodec()
    for versions in read_golden().values():
        for name in NAMES[1:]:
            (made,) = codec.versions(versions["original"], [name])
            np.testing.assert_array_equal(made, versions[name])


def test_make_control_v1_files_there_already_refuses():
    command = [sys.executable, str(GOLDEN / "make_control_v1.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "golden files are never made again" in result.stderr
