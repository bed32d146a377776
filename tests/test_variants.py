"""Variants in Parquet shards: every row comes back, in any range; damage never gives wrong rows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import flip_bit

from pipelines.errors import ConfigError, ManifestError, ShardError
from pipelines.storage import parquet, variants
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Task, split_into_tasks
from pipelines.storage.variants import VariantRow, VariantSet

NAMES = ("original", "q010", "q050")
NUM_ROWS = {"train": 23, "val": 6}


def make_rows(split: str, count: int) -> list[VariantRow]:
    rng = np.random.default_rng(count)
    rows = []
    for i in range(count):
        images = tuple(rng.bytes(int(size)) for size in rng.integers(1, 60, len(NAMES)))
        sha256 = hashlib.sha256(images[0]).digest()
        rows.append(VariantRow(f"{split}/ü {i}.jpg", i % 3, sha256, images))
    return rows


ROWS = {split: make_rows(split, count) for split, count in NUM_ROWS.items()}


def write_set(folder: Path, num_shards: int = 5) -> None:
    tasks = split_into_tasks(NUM_ROWS, num_shards, variants.SUFFIX)
    plan = Plan("variants", variants.FORMAT_VERSION, {}, {"variants": list(NAMES)}, tasks)
    shards = ShardFolder(folder)
    shards.publish(plan)
    receipts = {}
    for task in tasks:
        rows = iter(ROWS[task.split][task.start : task.stop])
        receipts[task.shard] = variants.write_shard(folder, task, NAMES, rows, [])
    shards.finish(plan, receipts)


@pytest.fixture
def variants_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of five shards with several row groups each."""
    monkeypatch.setattr(variants, "GROUP_BYTES", 200)
    write_set(tmp_path / "jpeg")
    return tmp_path / "jpeg"


def open_all(folder: Path, asked: Sequence[str] = ("all",)) -> VariantSet:
    return variants.open_set(folder, asked)


def test_rows_all_come_back_as_written(variants_dir):
    found = open_all(variants_dir)
    assert found.num_rows() == NUM_ROWS
    assert found.names == NAMES
    for split, count in NUM_ROWS.items():
        assert list(found.rows(split, 0, count)) == ROWS[split]


def test_write_shard_without_variants_cuts_groups_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "LIST_ROWS", 3)
    task = Task("train-00000-of-00001.parquet", "train", 0, 7)
    rows = [dataclasses.replace(row, variants=()) for row in ROWS["train"][:7]]
    variants.write_shard(tmp_path, task, (), iter(rows), [])
    with pq.ParquetFile(tmp_path / task.shard) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [3, 3, 1]


def test_rows_every_range_is_that_part(variants_dir):
    found = open_all(variants_dir)
    for start in range(NUM_ROWS["train"] + 1):
        for stop in range(start, NUM_ROWS["train"] + 1):
            part = list(found.rows("train", start, stop))
            assert part == ROWS["train"][start:stop], (start, stop)


def test_rows_some_variants_are_in_the_sets_order(variants_dir):
    found = open_all(variants_dir, ("q050", "original"))
    assert found.names == ("original", "q050")
    (row,) = found.rows("val", 2, 3)
    whole = ROWS["val"][2]
    assert row == VariantRow(
        whole.id, whole.label, whole.sha256, (whole.variants[0], whole.variants[2])
    )


def test_open_set_unknown_variant_lists_those_there_are(variants_dir):
    with pytest.raises(ConfigError, match="no variant q030; it has original, q010, q050"):
        open_all(variants_dir, ("q010", "q030"))


def test_open_set_nothing_there_names_the_command(tmp_path):
    with pytest.raises(ManifestError, match="nothing here yet; run `bottleneck compress` first"):
        open_all(tmp_path)


def test_open_set_newer_format_is_an_error(variants_dir, monkeypatch):
    monkeypatch.setattr(variants, "FORMAT_VERSION", 0)
    with pytest.raises(ManifestError, match="format version 1, this program reads up to 0"):
        open_all(variants_dir)


def test_open_set_shard_cut_short_is_an_error(variants_dir):
    path = sorted(variants_dir.glob("*.parquet"))[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match=rf"{path.name}: \d+ bytes, its receipt says"):
        open_all(variants_dir)


def test_write_shard_receipt_is_of_the_file_and_of_the_rows(tmp_path):
    (task,) = split_into_tasks({"val": 8}, 1, variants.SUFFIX)
    quarantined: list[tuple[str, str]] = []

    def rows():
        yield from ROWS["val"]
        quarantined.extend([("a.jpg", "truncated"), ("b.jpg", "empty")])  # known only at the end

    receipt = variants.write_shard(tmp_path, task, NAMES, rows(), quarantined)
    content = (tmp_path / task.shard).read_bytes()
    assert receipt.num_rows == 6
    assert receipt.size_bytes == len(content)
    assert receipt.sha256 == hashlib.sha256(content).hexdigest()
    assert receipt.quarantined == (("a.jpg", "truncated"), ("b.jpg", "empty"))


def test_write_shard_row_groups_are_cut_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "GROUP_BYTES", 300)
    (task,) = split_into_tasks({"train": 23}, 1, variants.SUFFIX)
    variants.write_shard(tmp_path, task, NAMES, iter(ROWS["train"]), [])
    with parquet.open_file(tmp_path / task.shard) as file:
        groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
    assert len(groups) > 3
    for i, group in enumerate(groups):
        sizes = [
            sum(len(cell.as_py()) for cell in row) for row in zip(*group.columns[3:], strict=True)
        ]
        assert sum(sizes[:-1]) < 300
        assert sum(sizes) >= 300 or i == len(groups) - 1


def test_write_shard_images_are_not_compressed_again(tmp_path):
    (task,) = split_into_tasks({"val": 6}, 1, variants.SUFFIX)
    variants.write_shard(tmp_path, task, NAMES, iter(ROWS["val"]), [])
    with parquet.open_file(tmp_path / task.shard) as file:
        group = file.metadata.row_group(0)
        found = {group.column(i).compression for i in range(group.num_columns)}
    assert found == {"UNCOMPRESSED"}


def test_write_shard_no_rows_is_read_as_none(tmp_path):
    (task,) = split_into_tasks({"val": 2}, 1, variants.SUFFIX)
    receipt = variants.write_shard(tmp_path, task, NAMES, iter(()), [])
    assert receipt.num_rows == 0
    assert list(variants.read_rows(tmp_path, [receipt], NAMES, 0, 2)) == []


def test_write_shard_source_fails_leaves_nothing(tmp_path):
    (task,) = split_into_tasks({"val": 6}, 1, variants.SUFFIX)

    def rows():
        yield ROWS["val"][0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        variants.write_shard(tmp_path, task, NAMES, rows(), [])
    assert list(tmp_path.iterdir()) == []


def test_schema_is_the_one_of_format_version_1():
    assert variants.schema(["original", "q010"]).equals(
        pa.schema(
            [
                ("id", pa.string()),
                ("label", pa.int32()),
                ("sha256", pa.binary(32)),
                ("original", pa.binary()),
                ("q010", pa.binary()),
            ]
        )
    )


@pytest.mark.parametrize("seed", range(2))
def test_rows_any_bit_flipped_never_gives_wrong_rows(variants_dir, seed):
    path = sorted(variants_dir.glob("train-*.parquet"))[0]
    content = path.read_bytes()
    num_errors = 0
    for bit in np.random.default_rng(seed).integers(0, 8 * len(content), 120):
        path.write_bytes(flip_bit(content, int(bit)))
        try:
            rows = list(open_all(variants_dir).rows("train", 0, NUM_ROWS["train"]))
            assert rows == ROWS["train"], bit  # bits that mean nothing to a reader
        except ShardError as error:
            assert path.name in str(error)
            num_errors += 1
    assert num_errors > 40


def test_rows_column_lost_from_the_footer_is_an_error(variants_dir):
    path = sorted(variants_dir.glob("train-*.parquet"))[0]
    path.write_bytes(path.read_bytes().replace(b"label", b"lobel"))
    with pytest.raises(ShardError, match=rf"{path.name}: damaged: no int32 column label"):
        list(open_all(variants_dir).rows("train", 0, 1))


def test_read_rows_other_number_than_the_receipt_says_is_an_error(variants_dir):
    receipt = dataclasses.replace(open_all(variants_dir).receipts[0], num_rows=7)
    with pytest.raises(ShardError, match=r"\d+ rows, its receipt says 7; run `bottleneck verify"):
        list(variants.read_rows(variants_dir, [receipt], NAMES, 0, 3))
