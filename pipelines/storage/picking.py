"""Rows of a set of variants by the names of their images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage import parquet, variants
from pipelines.storage.variants import VariantRow, VariantSet


def pick(
    found: VariantSet, split: str, ids: Collection[str], names: Sequence[str]
) -> Iterator[VariantRow]:
    """Read some images of a split; of other row groups, names alone are read.

    Args:
        found: a set that holds its variants.
        split: where they are.
        ids: of the images; those that are not in the split are passed over.
        names: of the variants, each in the set.

    Yields:
        The rows with these variants in this order, in the set's order.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    columns = variants.schema(names)
    wanted = pa.array(sorted(ids), pa.string())
    left = len(wanted)
    for task, receipt in zip(found.plan.tasks, found.receipts, strict=True):
        if task.split != split or not left:
            continue
        path = found.folder / receipt.shard
        with parquet.open_file(path, columns) as file:
            for group, _ in enumerate(parquet.group_rows(path, file, receipt.num_rows)):
                with parquet.reading(path):
                    here = file.read_row_group(group, columns=["id"])["id"]
                    rows = np.flatnonzero(pc.is_in(here, wanted).to_numpy())
                    if not len(rows):
                        continue
                    table = file.read_row_group(group, columns=columns.names)
                for row in table.take(pa.array(rows)).to_pylist():
                    left -= 1
                    images = tuple(row[name] for name in names)
                    yield VariantRow(row["id"], row["label"], row["sha256"], images)
