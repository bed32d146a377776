"""The images gained (A), lost (B) and left as they were (C), as lists for people and programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.errors import ShardError
from pipelines.evaluation.predictions import TYPES
from pipelines.storage import atomic, parquet

_BETWEEN = "; "  # class names of an image's likeliest five


def write(
    folder: Path,
    predictions_path: Path,
    branches: Sequence[str],
    classes: Sequence[str],
    images_dir: Path | None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write type_a, type_b and type_c, each as .csv and .parquet, from the predictions.

    Args:
        folder: of the lists; made when missing.
        predictions_path: the table of all images, which is read a row group at a time.
        branches: that the default model was run on.
        classes: names in the order of the labels.
        images_dir: the folder that the images' names are relative to, but for absolute ones; None
            where it is not known.
        check: called before the files take their places.

    Raises:
        ShardError: the predictions are damaged, or the disk refuses.
    """
    atomic.make_folder(folder)
    atomic.sweep(folder)
    columns = schema(branches)
    names = pa.array(list(classes), pa.string())
    with contextlib.ExitStack() as stack:
        writers = {kind: stack.enter_context(_open(folder, kind, columns)) for kind in TYPES}
        for table in _groups(predictions_path):
            rows = _rows(table, names, images_dir, columns)
            for kind, write_rows in writers.items():
                some = rows.filter(pc.equal(table["type"], kind))
                if some.num_rows:
                    write_rows(some)
        check()


def have_paths(folder: Path, images_dir: Path | None) -> bool:
    """Tell whether lists are whole and have the paths of this folder, each by its first image.

    Args:
        folder: of the lists.
        images_dir: as `write` takes it.
    """
    for path in (folder / f"{_stem(kind)}.parquet" for kind in TYPES):
        try:
            with parquet.reading(path), parquet.open_file(path) as file:
                table = file.read_row_group(0, ["id", "path"]) if file.num_row_groups else None
        except ShardError:
            return False
        if table is not None:
            ids, paths = (table[name].combine_chunks()[:1] for name in ("id", "path"))
            if not paths.equals(_paths(ids, images_dir)):
                return False
    return all((folder / f"{_stem(kind)}.csv").exists() for kind in TYPES)


def schema(branches: Sequence[str]) -> pa.Schema:
    """Return the columns of a list."""
    by_branch = (
        column
        for name in branches
        for column in (
            (f"default_{name}_rank", pa.int64()),
            (f"default_{name}_confidence", pa.float32()),
        )
    )
    return pa.schema(
        [
            ("id", pa.string()),
            ("path", pa.string()),
            ("label", pa.string()),
            ("default_top5", pa.string()),
            ("topology_top5", pa.string()),
            ("topology_rank", pa.int64()),
            ("topology_confidence", pa.float32()),
            *by_branch,
        ]
    )


def _groups(path: Path) -> Iterator[pa.Table]:
    with parquet.reading(path), parquet.open_file(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _rows(
    table: pa.Table, names: pa.Array, images_dir: Path | None, columns: pa.Schema
) -> pa.Table:
    ids = table["id"].combine_chunks()
    made = {
        "path": _paths(ids, images_dir),
        "label": names.take(table["label"].combine_chunks()),
        **{
            f"{model}_top5": _joined(table[f"{model}_top5"].combine_chunks(), names)
            for model in (DEFAULT, TOPOLOGY)
        },
    }
    arrays = [
        made.get(name, table[name] if name in table.column_names else None)
        for name in columns.names
    ]
    return pa.table(arrays, schema=columns)


def _paths(ids: pa.Array, images_dir: Path | None) -> pa.Array:
    """Return where images are, as `Source.path_of` has it."""
    root = "" if images_dir is None else f"{images_dir.as_posix()}/"
    below = pc.binary_join_element_wise(root, ids, "")
    return pc.if_else(pc.starts_with(ids, "/"), ids, below)


def _joined(lists: pa.ListArray, names: pa.Array) -> pa.Array:
    """Turn lists of class numbers into names in one text."""
    named = pa.ListArray.from_arrays(lists.offsets, names.take(lists.values))
    return pc.binary_join(named, _BETWEEN)


def _stem(kind: str) -> str:
    return f"type_{kind.lower()}"


@contextlib.contextmanager
def _open(folder: Path, kind: str, columns: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Open both files of a type; give a function that appends rows to them."""
    stem = _stem(kind)
    with (
        parquet.table_writer(folder / f"{stem}.parquet", columns, "zstd") as writer,
        atomic.atomic_file(folder / f"{stem}.csv") as file,
        pa_csv.CSVWriter(cast(IO[bytes], file), columns) as lines,
    ):

        def write_rows(rows: pa.Table) -> None:
            writer.write([column.combine_chunks() for column in rows.columns])
            lines.write(rows)

        yield write_rows
