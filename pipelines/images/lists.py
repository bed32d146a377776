"""Text files that name images or classes: CSV, TSV, JSON lines, a class list, elpv's labels."""

from __future__ import annotations

import csv
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SourceError
from pipelines.images.splits import NO_SPLIT, SPLITS

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl")
SPLIT_CODES = {"train": 0, "val": 1, "validation": 1, "test": 2}

_REQUIRED = ("path", "label")
# Python strings are turned into Arrow columns this many at a time: it bounds memory.
_CHUNK_ROWS = 65_536
_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class Listing:
    """The rows of a source before its classes have their final order.

    Attributes:
        ids: string (n,), POSIX paths, no two alike.
        labels: int32 (n,), indices into names.
        names: class names in the order of their first row.
        splits: int8 (n,), indices into SPLITS or NO_SPLIT.
    """

    ids: pa.ChunkedArray
    labels: np.ndarray
    names: tuple[str, ...]
    splits: np.ndarray


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str


@dataclass
class _Columns:
    chunks: list[pa.Array] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    labels: array[int] = field(default_factory=lambda: array("i"))
    splits: array[int] = field(default_factory=lambda: array("b"))
    lines: array[int] = field(default_factory=lambda: array("q"))

    def flush(self) -> None:
        self.chunks.append(pa.array(self.pending, type=pa.string()))
        self.pending = []


def read_list(path: Path) -> Listing:
    """Read a list of labelled images: columns or keys `path`, `label` and, if wanted, `split`.

    A path is kept as written, but for backslashes (a list written on Windows), `./` and doubled
    slashes. Space around labels and splits is dropped. Further columns are ignored.

    Args:
        path: a .csv or .tsv file with a header row, or a .jsonl file of objects; UTF-8, with or
            without a byte order mark.

    Raises:
        SourceError: the file or one of its lines is not like that; names the line.
    """
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _to_listing(path, _jsonl_rows(path))
    return _to_listing(path, _csv_rows(path, "\t" if suffix == ".tsv" else ","))


def read_elpv_labels(path: Path) -> Listing:
    """Read labels.csv of elpv-dataset: path, defect probability, cell type, parted by spaces.

    Under a probability of 0.5 a cell counts as functional, else as defective, the two classes of
    Deitsch et al., "Automatic classification of defective photovoltaic module cells in
    electroluminescence images", Solar Energy 185, 2019.

    Raises:
        SourceError: the file is missing or a line is not like that; names the line.
    """
    return _to_listing(path, _elpv_rows(path))


def read_class_list(path: Path) -> tuple[str, ...]:
    """Read class names, one a line, in the order of their label index; empty lines are skipped.

    Raises:
        SourceError: the file cannot be read, is empty, or names a class twice.
    """
    names: dict[str, int] = {}
    for number, text in _text_lines(path):
        name = text.strip()
        if name in names:
            raise SourceError(
                f"{path}, line {number}: class {name!r} stands already in line {names[name]}; "
                "remove one of the two"
            )
        if name:
            names[name] = number
    if not names:
        raise SourceError(f"{path}: no class names found; expected one a line")
    return tuple(names)


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: by value if all of them are integers, else by code point."""
    names = list(names)
    if all(_INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _to_listing(path: Path, rows: Iterable[_Row]) -> Listing:
    columns = _Columns()
    codes: dict[str, int] = {}
    for row in rows:
        for key, value in (("path", row.path), ("label", row.label)):
            if not value.strip():
                raise SourceError(f"{path}, line {row.line}: the {key} is empty; fill it in")
        columns.pending.append(PurePosixPath(row.path.replace("\\", "/")).as_posix())
        columns.labels.append(codes.setdefault(row.label.strip(), len(codes)))
        columns.splits.append(_split_code(path, row))
        columns.lines.append(row.line)
        if len(columns.pending) >= _CHUNK_ROWS:
            columns.flush()
    columns.flush()
    listing = Listing(
        ids=pa.chunked_array(columns.chunks, type=pa.string()),
        labels=np.array(columns.labels, dtype=np.int32),
        names=tuple(codes),
        splits=np.array(columns.splits, dtype=np.int8),
    )
    lines = np.array(columns.lines, dtype=np.int64)
    if not len(lines):
        raise SourceError(f"{path}: no images listed; expected a row for each image")
    _check_splits(path, listing, lines)
    _check_unique(path, listing, lines)
    return listing


def _split_code(path: Path, row: _Row) -> int:
    name = row.split.strip().lower()
    if not name:
        return NO_SPLIT
    if name not in SPLIT_CODES:
        raise SourceError(
            f"{path}, line {row.line}: unknown split {row.split!r}; "
            f"expected {', '.join(SPLITS)}, or nothing in all rows"
        )
    return SPLIT_CODES[name]


def _check_splits(path: Path, listing: Listing, lines: np.ndarray) -> None:
    without = listing.splits == NO_SPLIT
    if without.any() and not without.all():
        raise SourceError(
            f"{path}, line {lines[np.argmax(without)]}: no split, but line "
            f"{lines[np.argmin(without)]} has one; give every row a split, or none"
        )


def _check_unique(path: Path, listing: Listing, lines: np.ndarray) -> None:
    # A stable sort puts equal paths side by side in file order, without a dict of all paths.
    order = pc.sort_indices(listing.ids)
    in_order = listing.ids.take(order)
    is_repeat = pc.equal(in_order[1:], in_order[:-1]).to_numpy()
    if not is_repeat.any():
        return
    rows = order.to_numpy()
    repeats = np.flatnonzero(is_repeat)
    at = repeats[np.argmin(rows[repeats + 1])]
    first, second = int(rows[at]), int(rows[at + 1])
    name = listing.ids[second].as_py()
    labels = [listing.names[listing.labels[row]] for row in (first, second)]
    where = f"{path}, line {lines[second]}: path {name!r}"
    if labels[0] != labels[1]:
        raise SourceError(
            f"{where} is labelled {labels[1]!r}, but {labels[0]!r} in line {lines[first]}; "
            "keep the one that is right"
        )
    raise SourceError(f"{where} is listed already in line {lines[first]}; remove one of the two")


def _csv_rows(path: Path, delimiter: str) -> Iterator[_Row]:
    reader = csv.reader((text for _, text in _text_lines(path)), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        at = _columns_of(path, header)
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise SourceError(
                    f"{path}, line {line}: {len(fields)} fields, expected {len(header)} as in "
                    "the header; quote values that hold the separator"
                )
            if fields:
                split = fields[at["split"]] if "split" in at else ""
                yield _Row(line, fields[at["path"]], fields[at["label"]], split)
            line = reader.line_num + 1
    except csv.Error as error:
        raise SourceError(f"{path}, line {line}: not readable as a table: {error}") from error


def _columns_of(path: Path, header: list[str]) -> dict[str, int]:
    """Find the place of each column that is needed."""
    for name in _REQUIRED:
        if name not in header:
            raise SourceError(
                f"{path}, line 1: no column {name!r}; expected path, label and perhaps split, "
                f"found {', '.join(map(repr, header)) or 'nothing'}; add a header row"
            )
    for name in (*_REQUIRED, "split"):
        if header.count(name) > 1:
            raise SourceError(f"{path}, line 1: column {name!r} stands there twice; remove one")
    return {name: header.index(name) for name in (*_REQUIRED, "split") if name in header}


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    for number, text in _text_lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise SourceError(
                f"{path}, line {number}: found {type(row).__name__}, expected an object "
                "with the keys path and label"
            )
        for key in _REQUIRED:
            if key not in row:
                raise SourceError(
                    f"{path}, line {number}: no key {key!r}; found "
                    f"{', '.join(map(repr, row)) or 'nothing'}"
                )
        values = [_json_text(path, number, key, row.get(key)) for key in (*_REQUIRED, "split")]
        yield _Row(number, *values)


def _json_text(path: Path, number: int, key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "label" and type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise SourceError(
            f"{path}, line {number}: the {key} is {value!r}, expected text"
            + (" or an integer" if key == "label" else "")
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{path}, line {number}: the {key} {value!a} is no valid Unicode; "
            "half a surrogate pair names no file"
        ) from error
    return value


def _elpv_rows(path: Path) -> Iterator[_Row]:
    for number, text in _text_lines(path):
        fields = text.split()
        if not fields:
            continue
        try:
            name, probability = fields[0], float(fields[1])
        except (IndexError, ValueError) as error:
            raise SourceError(
                f"{path}, line {number}: expected a path and a defect probability, "
                f"found {text.strip()!r}; install elpv-dataset again"
            ) from error
        yield _Row(number, name, "functional" if probability < 0.5 else "defective", "")


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, with its end, so that a wrong byte has a line number."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
