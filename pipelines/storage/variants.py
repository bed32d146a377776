"""Variants on disk: Parquet shards, a row an image, a binary column a variant (format version 1).

id        string    the image's name within its source
label     int32     index into the manifest's `classes`
sha256    binary    of the original's bytes, 32 bytes
original  binary    the original's bytes as they are
q010 ...  binary    the image as JPEG at that quality factor; in the control set, control_01 ...,
                    the image under other changes, as PNG
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.errors import ConfigError
from pipelines.storage import parquet, set_folders
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Receipt, Task

FORMAT_VERSION = 1
ORIGINAL = "original"
SUFFIX = "parquet"
GROUP_BYTES = 8 << 20  # a row group is the most that a reader holds of a shard at once
LIST_ROWS = 4096  # of a row group without variants


@dataclass(frozen=True)
class VariantRow:
    """One image with all its variants.

    Attributes:
        id: the image's name within its source.
        label: class index.
        sha256: of the original's bytes (32 bytes).
        variants: encoded images; the first is the original as it is.
    """

    id: str
    label: int
    sha256: bytes
    variants: tuple[bytes, ...]


@dataclass(frozen=True)
class VariantSet:
    """A whole set of variants on disk, or some of its variants.

    Attributes:
        folder: where it is.
        plan: what it was made from.
        receipts: of its shards, in the plan's order.
        names: the variants that are read, `original` first where it is among them.
    """

    folder: Path
    plan: Plan
    receipts: Sequence[Receipt]
    names: tuple[str, ...]

    @property
    def num_quarantined(self) -> int:
        """Entries of the source that are not in the set."""
        left_out = sum(len(receipt.quarantined) for receipt in self.receipts)
        return left_out + int(self.plan.details.get("num_problems", 0))

    def num_rows(self) -> dict[str, int]:
        """Return the images of each split, in the plan's order."""
        splits = dict.fromkeys(task.split for task in self.plan.tasks)
        return {name: sum(r.num_rows for r in self._of_split(name)) for name in splits}

    def rows(self, split: str, start: int, stop: int) -> Iterator[VariantRow]:
        """Read rows `start` to `stop` of a split, with the variants that are stored.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        stored = stored_names(self.plan)
        names = tuple(name for name in self.names if name in stored)
        return read_rows(self.folder, self._of_split(split), names, start, stop)

    def _of_split(self, split: str) -> list[Receipt]:
        pairs = zip(self.plan.tasks, self.receipts, strict=True)
        return [receipt for task, receipt in pairs if task.split == split]


def open_set(folder: Path, asked: Sequence[str]) -> VariantSet:
    """Open a whole set; every shard is checked for presence and size.

    Args:
        folder: the set's folder.
        asked: names of variants in any order, or only "all".

    Raises:
        ManifestError: the set is not there, not finished, or of a newer format.
        ShardError: a shard is missing or cut short.
        ConfigError: a variant is not in the set.
    """
    plan, receipts = ShardFolder(folder).read_manifest(
        "variants", FORMAT_VERSION, f"bottleneck compress{set_folders.flag(folder)}"
    )
    known = plan.details["variants"]
    wanted = known if tuple(asked) == ("all",) else asked
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{folder}: no variant {name}; it has {', '.join(known)}")
    return VariantSet(folder, plan, receipts, tuple(name for name in known if name in wanted))


def stored_names(plan: Plan) -> tuple[str, ...]:
    """Name the variants that rows hold: all, or none in a set that only lists images."""
    return tuple(plan.details["variants"]) if plan.details.get("is_stored", True) else ()


def schema(variants: Sequence[str]) -> pa.Schema:
    """Return the columns of a shard with these variants, `original` first."""
    fixed = [("id", pa.string()), ("label", pa.int32()), ("sha256", pa.binary(32))]
    return pa.schema([*fixed, *((name, pa.binary()) for name in variants)])


def write_shard(
    folder: Path,
    task: Task,
    variants: Sequence[str],
    rows: Iterator[VariantRow],
    quarantined: list[tuple[str, str]],
) -> Receipt:
    """Write one shard durably and return its receipt.

    Args:
        folder: the set's folder.
        task: which shard.
        variants: names, `original` first.
        rows: the images that could be encoded, in the plan's order; read to the end.
        quarantined: filled by whoever makes `rows`; read after them.
    """
    columns = schema(variants)
    with parquet.table_writer(folder / task.shard, columns, "none") as writer:
        group: list[VariantRow] = []
        size_bytes = 0
        for row in rows:
            group.append(row)
            size_bytes += sum(map(len, row.variants))
            if size_bytes >= GROUP_BYTES or (not variants and len(group) >= LIST_ROWS):
                writer.write(_to_arrays(group, columns))
                group, size_bytes = [], 0
        if group:
            writer.write(_to_arrays(group, columns))
    file = writer.file
    return Receipt(
        task.shard, writer.num_rows, file.size_bytes, file.sha256.hexdigest(), tuple(quarantined)
    )


def read_rows(
    folder: Path, receipts: Sequence[Receipt], variants: Sequence[str], start: int, stop: int
) -> Iterator[VariantRow]:
    """Read rows `start` to `stop` of the given shards laid end to end, a row group at a time.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    columns = schema(variants)
    first = 0
    for receipt in receipts:
        last = first + receipt.num_rows
        if first < stop and start < last:
            yield from _read_shard(
                folder / receipt.shard,
                columns,
                receipt.num_rows,
                max(start - first, 0),
                min(stop, last) - first,
            )
        first = last


def _read_shard(
    path: Path, columns: pa.Schema, num_rows: int, start: int, stop: int
) -> Iterator[VariantRow]:
    with parquet.open_file(path, columns) as file:
        first = 0
        for group, count in enumerate(parquet.group_rows(path, file, num_rows)):
            last = first + count
            if first < stop and start < last:
                with parquet.reading(path):
                    table = file.read_row_group(group, columns=columns.names, use_threads=False)
                low, high = max(start - first, 0), min(stop, last) - first
                for row in zip(*(c.slice(low, high - low) for c in table.columns), strict=True):
                    id_, label, sha256, *images = (cell.as_py() for cell in row)
                    yield VariantRow(id_, label, sha256, tuple(images))
            first = last


def _to_arrays(rows: list[VariantRow], columns: pa.Schema) -> list[pa.Array]:
    fixed = [[r.id for r in rows], [r.label for r in rows], [r.sha256 for r in rows]]
    arrays = [pa.array(v, type=f.type) for v, f in zip(fixed, columns, strict=False)]
    for i in range(len(columns) - len(fixed)):
        arrays.append(_binary_array([row.variants[i] for row in rows]))
    return arrays


def _binary_array(cells: list[bytes]) -> pa.Array:
    """Make a binary array in one copy; pa.array grows its buffer as it goes."""
    offsets = np.zeros(len(cells) + 1, np.int32)
    np.cumsum([len(cell) for cell in cells], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(cells))]
    return pa.Array.from_buffers(pa.binary(), len(cells), buffers)
