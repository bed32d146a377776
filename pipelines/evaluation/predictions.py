"""predictions.parquet: what each image was taken for, one row an image in the plan's order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.evaluation.tally import Judged, Top
from pipelines.storage import parquet

GROUP_ROWS = 4096  # of a row group, at least; what is held until it is written
TYPES = ("A", "B", "C")
CONTROL_ORACLE = "control_oracle_rank"  # the label's best rank over the control set's branches


def types(default_right: np.ndarray, topology_right: np.ndarray) -> np.ndarray:
    """Sort images into gained (A), lost (B) and others (C) (thesis, section 4.4).

    Args:
        default_right: bool (images,), the default model is right.
        topology_right: bool (images,), the topology is.

    Returns:
        One letter an image.
    """
    gained, lost = topology_right & ~default_right, default_right & ~topology_right
    return np.where(gained, "A", np.where(lost, "B", "C"))


class Writer:
    """Collects rows and writes them as row groups."""

    def __init__(self, writer: parquet.TableWriter, columns: pa.Schema) -> None:
        self._writer, self._columns = writer, columns
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def add(self, judged: Judged) -> None:
        """Take the rows of a batch."""
        table = pa.table(self._arrays(judged), schema=self._columns)
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one row group."""
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._writer.write([column.combine_chunks() for column in table.columns])
        self._waiting, self._num_waiting = [], 0

    def _arrays(self, judged: Judged) -> list[pa.Array]:
        ranks = judged.ranks
        others = [name for name in ranks if name not in (TOPOLOGY, DEFAULT)]
        by_branch = zip(judged.default_ranks.T, judged.default_confidences.T, strict=True)
        return [
            pa.array(judged.ids, pa.string()),
            pa.array(judged.labels, pa.int32()),
            pa.array(types(ranks[DEFAULT] == 0, ranks[TOPOLOGY] == 0).tolist(), pa.string()),
            pa.array(ranks[TOPOLOGY], pa.int64()),
            pa.array(judged.confidences, pa.float32()),
            *_top(judged.top[TOPOLOGY]),
            *_top(judged.top[DEFAULT]),
            *(
                array
                for of_label, confidence in by_branch
                for array in (pa.array(of_label, pa.int64()), pa.array(confidence, pa.float32()))
            ),
            *(pa.array(ranks[name], pa.int64()) for name in others),
            *([] if judged.control is None else [pa.array(judged.control, pa.int64())]),
        ]


@contextlib.contextmanager
def open_writer(
    path: Path,
    branches: Sequence[str],
    others: Sequence[str],
    has_control: bool,
    check: Callable[[], None],
) -> Iterator[Writer]:
    """Write the table, whole or not at all.

    Args:
        path: the file.
        branches: that the default model was run on.
        others: further comparators, whose ranks have a column each.
        has_control: whether the control set has its oracle's column.
        check: called before the file takes its place; raises where the run is another's by now.

    Raises:
        ShardError: the disk refuses.
    """
    columns = schema(branches, others, has_control)
    with parquet.table_writer(path, columns, "zstd") as file:
        writer = Writer(file, columns)
        yield writer
        writer.flush()
        check()


def others(columns: Sequence[str]) -> list[str]:
    """Return the further comparators of a table, from the names of its columns."""
    ranks = [name.removesuffix("_rank") for name in columns if name.endswith("_rank")]
    known = {TOPOLOGY, CONTROL_ORACLE.removesuffix("_rank")}
    return [name for name in ranks if name not in known and not name.startswith(f"{DEFAULT}_")]


def rank_columns(path: Path) -> list[str]:
    """Return the names of a table's ranks.

    Raises:
        ShardError: it is missing or damaged.
    """
    with parquet.open_file(path) as file:
        return [name for name in file.schema_arrow.names if name.endswith("_rank")]


def schema(branches: Sequence[str], others: Sequence[str], has_control: bool) -> pa.Schema:
    """Return the columns of the table; see `open_writer` for the arguments."""
    tops = [
        (f"{model}_top5{what}", kind)
        for model in (TOPOLOGY, DEFAULT)
        for what, kind in (
            ("", pa.list_(pa.int32())),
            ("_confidence", pa.list_(pa.float32())),
        )
    ]
    return pa.schema(
        [
            ("id", pa.string()),
            ("label", pa.int32()),
            ("type", pa.string()),
            ("topology_rank", pa.int64()),
            ("topology_confidence", pa.float32()),
            *tops,
            *(
                column
                for name in branches
                for column in (
                    (f"default_{name}_rank", pa.int64()),
                    (f"default_{name}_confidence", pa.float32()),
                )
            ),
            *((f"{name}_rank", pa.int64()) for name in others),
            *([(CONTROL_ORACLE, pa.int64())] if has_control else []),
        ]
    )


def _top(top: Top) -> tuple[pa.Array, pa.Array]:
    """Return lists of classes and of their probabilities."""
    num_images, num = top.classes.shape
    offsets = pa.array(np.arange(num_images + 1, dtype=np.int32) * num)
    return tuple(
        pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), kind))
        for values, kind in ((top.classes, pa.int32()), (top.confidences, pa.float32()))
    )
