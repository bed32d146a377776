"""Files of cache format version 2 as the first release of it wrote them: read ever after.

`golden/make_v2.py` tells how they were made. They are never made again: where a test here
fails, the code is wrong, or the format needs a new version.
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.storage.cache import FeatureCache, find_cache
from pipelines.storage.example import Example
from pipelines.storage.manifest import ShardFolder

GOLDEN = Path(__file__).parent / "golden"
V2 = GOLDEN / "v2"
TREE_SHA256 = "35a5762457012d5246e7e41977df3d17e88e7984a4a80cf4ff4407282003e7b5"
BRANCHES = ("original", "q010", "q090")
SHAPE = (3, 5, 7)
SCALES = (2**-10, 0.25, 0.25, 0.25, 0.1, 0.25, 0.25)
ZERO_POINTS = (0, 0, 0, 0, 0, 128, 4)
ROWS = {"train": range(5), "val": range(5, 8)}
SHARDS = {"train-00000-of-00002": (0, 3), "train-00001-of-00002": (3, 5), "val-00000": (5, 8)}
FORMATS = ("parquet", "tfrecord")
KINDS = ("sparse-float16", "sparse-float32", "sparse-uint8", "dense-float32")
IDS = [f"train/{i}.jpg" for i in range(5)] + [f"val/{i}.jpg" for i in range(3)]
FIRST_CELLS = {
    "mask": "03e00071800c6006b1010f7f38000000",
    "byte0": "ffffffff03010204040201030103020402050a0208ff010305fbfdfdff010305fc0305",
}
in_both_formats = pytest.mark.parametrize("format", FORMATS)
of_all_kinds = pytest.mark.parametrize("kind", KINDS)


def activation(kind: str, i: int, b: int, y: int, x: int, c: int) -> np.float32:
    """Say again what make_v2.py gave to the writer."""
    steps = (7 * i + 5 * b + 3 * y + 2 * x + c) % 13
    if kind == "dense-float32":
        return np.float32(steps - 6) / np.float32(3)
    if (i, b) == (4, 1):
        return np.float32(0)
    if kind == "sparse-float32" and steps == 3:
        return np.float32(-0.0)
    if kind == "sparse-uint8" and c >= 5:
        return np.float32((steps - 6) / 4 if steps % 2 else 0)
    return np.float32(max(steps - 8, 0)) / np.float32(4 if kind == "sparse-uint8" else 3)


def counted_step(value: np.float32, c: int) -> int:
    """Count from the zero point, as if there were no bounds."""
    return round(float(value / np.float32(SCALES[c])))


def stored(kind: str, value: np.float32, c: int) -> tuple[bytes, np.float32]:
    """Return a number's bytes, the lowest first, and what a reader makes of them."""
    if kind == "sparse-float16":
        return struct.pack("<e", value), np.float32(np.float16(value))
    if kind == "sparse-uint8":
        step = min(max(counted_step(value, c), -ZERO_POINTS[c]), 255 - ZERO_POINTS[c])
        return bytes([step % 256]), np.float32(step) * np.float32(SCALES[c])
    return struct.pack("<f", value), value


def expected_maps(kind: str) -> np.ndarray:
    """Return what a reader gives: float32 (8 images, 3 branches, 3, 5, 7)."""
    maps = np.empty((8, 3, *SHAPE), np.float32)
    for i, b, y, x, c in np.ndindex(maps.shape):
        maps[i, b, y, x, c] = stored(kind, activation(kind, i, b, y, x, c), c)[1]
    return maps


def expected_cells(kind: str, i: int, b: int) -> dict[str, bytes]:
    """Encode one map, number by number, as the format's page says."""
    height, width, channels = SHAPE
    bits, numbers = 0, []
    if kind.startswith("dense"):
        for y, x, c in np.ndindex(SHAPE):
            numbers.append(stored(kind, activation(kind, i, b, y, x, c), c)[0])
    else:
        for position, (c, y, x) in enumerate(np.ndindex(channels, height, width)):
            number = stored(kind, activation(kind, i, b, y, x, c), c)[0]
            if any(number):
                bits |= 1 << position
                numbers.append(number)
    itemsize = {"float16": 2, "float32": 4, "uint8": 1}[kind.partition("-")[2]]
    planes = {f"byte{k}": bytes(number[k] for number in numbers) for k in range(itemsize)}
    return planes if kind.startswith("dense") else {"mask": bits.to_bytes(16, "little"), **planes}


def read_json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def identity_of(folder: Path) -> str:
    plan = read_json(folder, "plan.json")
    del plan["plan_sha256"]
    return hashlib.sha256(to_line(plan)).hexdigest()[:16]


def to_line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def records(path: Path) -> Iterator[Any]:
    """Give the features of each record of a file, checksums checked."""
    content = path.read_bytes()
    while content:
        length, head_crc = struct.unpack("<QI", content[:12])
        payload, (crc,) = content[12 : 12 + length], struct.unpack_from("<I", content, 12 + length)
        assert (head_crc, crc) == (masked_crc(content[:8]), masked_crc(payload))
        yield Example.FromString(payload).features.feature
        content = content[16 + length :]


def raw_cells(path: Path, column: str) -> list[bytes]:
    """Read a column of a shard without the project's reader."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            return file.read([column])[column].to_pylist()
    return [zlib.decompress(row[column].bytes_list.value[0]) for row in records(path)]


def shard_path(format: str, kind: str, shard: str) -> Path:
    (path,) = (V2 / "features" / f"{format}-{kind}").glob(f"{shard}*.{format}")
    return path


def test_golden_files_are_the_committed_ones():
    digest = hashlib.sha256()
    for path in sorted(V2.rglob("*")):
        if path.is_file() and not path.name.startswith(".lock"):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(V2).as_posix()} {content}\n".encode())
    assert digest.hexdigest() == TREE_SHA256


def test_golden_caches_are_all_there():
    names = {path.name for path in (V2 / "features").iterdir()}
    assert names == {f"{format}-{kind}" for format in FORMATS for kind in KINDS}


@in_both_formats
@of_all_kinds
def test_golden_receipts_hold_and_have_the_shards_hashes(format, kind):
    folder = V2 / "features" / f"{format}-{kind}"
    shards = ShardFolder(folder)
    plan, receipts = shards.read_manifest("features", 2, "")
    assert shards.receipts(plan) == {receipt.shard: receipt for receipt in receipts}
    assert len(receipts) == 3
    for receipt in receipts:
        content = (folder / receipt.shard).read_bytes()
        assert receipt.sha256 == hashlib.sha256(content).hexdigest()
        value = read_json(folder, f"receipts/{receipt.shard}.json")
        assert value.pop("receipt_sha256") == hashlib.sha256(to_line(value)).hexdigest()


@of_all_kinds
def test_golden_parquet_footers_have_the_receipts_hashes(kind):
    for shard in SHARDS:
        path = shard_path("parquet", kind, shard)
        content = path.read_bytes()
        footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
        receipt = read_json(path.parent, f"receipts/{path.name}.json")
        assert receipt["footer_sha256"] == hashlib.sha256(footer).hexdigest()


@pytest.mark.parametrize("budget_bytes", [0, 1 << 20])
@pytest.mark.parametrize("split", ROWS)
@in_both_formats
@of_all_kinds
def test_golden_features_are_the_formula(format, kind, split, budget_bytes):
    cache = find_cache(V2 / "features", f"{format}-{kind}")
    layout = cache.layout
    assert (layout.format, f"{layout.encoding}-{layout.dtype}") == (format, kind)
    assert (layout.shape, layout.branches, cache.classes) == (SHAPE, BRANCHES, ("ant", "bee"))
    batches = list(cache.split(split, BRANCHES, budget_bytes).in_order(2))
    maps = np.concatenate([batch.features for batch in batches])
    expected = expected_maps(kind)[ROWS[split]]
    np.testing.assert_array_equal(maps, expected)
    np.testing.assert_array_equal(np.signbit(maps), np.signbit(expected))
    assert [name for batch in batches for name in batch.ids] == [IDS[i] for i in ROWS[split]]
    labels = np.concatenate([batch.labels for batch in batches])
    assert labels.tolist() == [i % 2 for i in range(len(maps))]


@in_both_formats
@of_all_kinds
def test_golden_features_by_name_are_the_formula(format, kind):
    cache = FeatureCache(V2 / "features" / f"{format}-{kind}")
    found = cache.read([IDS[7], IDS[0], IDS[4], IDS[0]], ("q010", "q090"))
    np.testing.assert_array_equal(found, expected_maps(kind)[[7, 0, 4, 0]][:, [1, 2]])


@pytest.mark.parametrize("shard", SHARDS)
@in_both_formats
@of_all_kinds
def test_golden_cells_are_those_of_the_formats_page(format, kind, shard):
    path, images = shard_path(format, kind, shard), range(*SHARDS[shard])
    for b, branch in enumerate(BRANCHES):
        expected = [expected_cells(kind, i, b) for i in images]
        for part in expected[0]:
            assert raw_cells(path, f"{branch}.{part}") == [cells[part] for cells in expected]


@in_both_formats
def test_golden_sparse_first_cells_are_these_bytes(format):
    path = shard_path(format, "sparse-uint8", "train-00000")
    found = {part: raw_cells(path, f"q090.{part}")[0] for part in ("mask", "byte0")}
    assert {part: cell.hex() for part, cell in found.items()} == FIRST_CELLS


@in_both_formats
def test_golden_map_of_zeros_has_a_mask_alone(format):
    path = shard_path(format, "sparse-float16", "train-00001")
    found = {part: raw_cells(path, f"q010.{part}")[1] for part in ("mask", "byte0", "byte1")}
    assert found == {"mask": bytes(16), "byte0": b"", "byte1": b""}


@pytest.mark.parametrize("shard", SHARDS)
@of_all_kinds
def test_golden_parquet_shard_holds_its_place(kind, shard):
    path = shard_path("parquet", kind, shard)
    identity = identity_of(path.parent)
    place = pq.read_metadata(path).metadata[b"bottleneck.place"]
    assert place == f"{identity}/{path.name}".encode()


@pytest.mark.parametrize("shard", SHARDS)
@of_all_kinds
def test_golden_tfrecord_records_hold_their_place_and_names(kind, shard):
    path, images = shard_path("tfrecord", kind, shard), range(*SHARDS[shard])
    identity = identity_of(path.parent)
    rows = list(records(path))
    places = [row["place"].bytes_list.value[0].decode() for row in rows]
    assert places == [f"{identity}/{path.name}/{i}" for i in range(len(images))]
    assert [row["id"].bytes_list.value[0].decode() for row in rows] == [IDS[i] for i in images]


@in_both_formats
@of_all_kinds
def test_golden_shards_say_how_many_numbers_are_not_zero_and_clipped(format, kind):
    folder = V2 / "features" / f"{format}-{kind}"
    manifest = read_json(folder, "manifest.json")
    for entry, rows in zip(manifest["shards"], SHARDS.values(), strict=True):
        nnz, num_clipped = [0, 0, 0], 0
        for i, b, y, x, c in np.ndindex(8, 3, *SHAPE):
            if i in range(*rows):
                value = activation(kind, i, b, y, x, c)
                nnz[b] += int(value != 0 or np.signbit(value))  # -0.0 is stored as float32
                if kind == "sparse-uint8":
                    step = counted_step(value, c) + ZERO_POINTS[c]
                    num_clipped += not 0 <= step <= 255
        assert entry["stats"] == {
            "nnz": sum(nnz),
            "nnz_by_branch": nnz,
            "num_values": len(range(*rows)) * 3 * 105,
            "num_clipped": num_clipped,
        }
        assert (num_clipped > 0) == (kind == "sparse-uint8")


def test_make_v2_files_there_already_refuses():
    command = [sys.executable, str(GOLDEN / "make_v2.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "golden files are never made again" in result.stderr
