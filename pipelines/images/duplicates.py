"""The same bytes more than once: across splits they flatter, under two labels they mislead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.images import splits


def notes(split_names: Sequence[str], tables: Sequence[pa.Table]) -> list[str]:
    """Say in words which contents stand where they should not.

    Args:
        split_names: for each table, the split its rows belong to.
        tables: with the columns id, label and sha256 (binary).

    Returns:
        A sentence for each kind of trouble found; none where there is none.
    """
    found = []
    table = pa.concat_tables(tables)
    codes = np.repeat(
        [splits.SPLITS.index(name) for name in split_names], [part.num_rows for part in tables]
    )
    sha256s = np.array(table["sha256"].to_pylist(), object)
    num_across, example = splits.duplicates_across_splits(sha256s, codes)
    if example:
        names = " and ".join(table["id"][row].as_py() for row in example)
        found.append(
            f"images whose bytes stand in more than one split: {num_across} (first: {names}); "
            "the splits stay as they are, but accuracies on them may flatter"
        )
    labels_of: dict[bytes, set[int]] = defaultdict(set)
    for sha256, label in zip(sha256s, table["label"].to_pylist(), strict=True):
        labels_of[sha256].add(label)
    conflicting = [sha256 for sha256, labels in labels_of.items() if len(labels) > 1]
    if conflicting:
        first = table["id"][int(np.argmax(sha256s == conflicting[0]))].as_py()
        found.append(
            f"images whose bytes stand under different labels: {len(conflicting)} (first: {first})"
        )
    return found
