"""Shards of a cache as TFRecord: a tf.train.Example an image, a bytes feature a cell.

Written and read without TensorFlow. A record is its length (uint64) with a checksum, the payload,
and the payload's checksum (TensorFlow, tensorflow/core/lib/io/record_writer.h); cells are deflated
(zlib), which `tf.io.decode_compressed` undoes. The file has no end mark and no index: the receipt
says how many records there are, and a reader hops over their lengths to the one it wants.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from pipelines.errors import ShardError
from pipelines.storage import atomic
from pipelines.storage.cells import Cells
from pipelines.storage.example import Example
from pipelines.storage.rows import Rows, Shard

SUFFIX = "tfrecord"
_LEVEL = 1
_HEADER, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")
_HEAD_BYTES = 4096  # of a record: hold id, label and place, which are written first
_MEND = "run `bottleneck verify --repair`, then `bottleneck extract` again"


class Writer:
    """A shard being written."""

    footer_sha256 = None

    def __init__(self, file: atomic.HashingFile, place: str) -> None:
        self.file = file
        self._place = place
        self._num_rows = 0

    def write(self, rows: Rows) -> None:
        """Append a record an image."""
        for i, (name, label) in enumerate(zip(rows.ids, rows.labels, strict=True)):
            head, body = Example(), Example()
            features = head.features.feature
            features["id"].bytes_list.value.append(name.encode("utf-8", "surrogateescape"))
            features["label"].int64_list.value.append(int(label))
            place = f"{self._place}/{self._num_rows}"
            features["place"].bytes_list.value.append(place.encode())
            for column, cells in rows.cells.items():
                cell = zlib.compress(cells[i].data, _LEVEL)
                body.features.feature[column].bytes_list.value.append(cell)
            # Two messages end to end are one with the fields of both, in this order.
            payload = b"".join(m.SerializeToString(deterministic=True) for m in (head, body))
            self.file.write(_HEADER.pack(len(payload), _masked(struct.pack("<Q", len(payload)))))
            self.file.write(payload)
            self.file.write(_CHECKSUM.pack(_masked(payload)))
            self._num_rows += 1


@contextlib.contextmanager
def open_writer(shard: Shard) -> Iterator[Writer]:
    """Write a shard atomically.

    Raises:
        ShardError: the disk refuses.
    """
    with atomic.atomic_file(shard.path) as file:
        yield Writer(file, shard.place)


def read_group(shard: Shard, group: int, branches: Sequence[str]) -> Rows:
    """Read one group of records; of the cells, only those of some branches are unpacked.

    Raises:
        ShardError: the shard is missing or damaged.
    """
    first, num_rows = group * shard.layout.rows_per_group, shard.group_rows(group)
    names = shard.layout.columns(branches)
    columns: list[list[bytes]] = [[] for _ in names]
    labels, ids = np.empty(num_rows, np.int32), []
    with _reading(shard):
        for i, features in enumerate(_read_records(shard, first, num_rows)):
            labels[i] = features["label"].int64_list.value[0]
            ids.append(_name(features))
            for cells, name in zip(columns, names, strict=True):
                cells.append(_inflated(features, name))
    by_name = {name: _to_cells(column) for name, column in zip(names, columns, strict=True)}
    return Rows(labels, by_name, ids)


def read_ids(shard: Shard) -> list[str]:
    """Read the names of all images, from the beginning of each record alone.

    Raises:
        ShardError: the shard is missing or damaged.
    """
    with _reading(shard), shard.path.open("rb") as file:
        spans = itertools.pairwise(map(int, _starts(shard)))
        return [_name(_read_head(shard, file, span, row)) for row, span in enumerate(spans)]


def check_names(shard: Shard) -> None:
    """Read every record whole, for `read_ids` passes over their checksums.

    Raises:
        ShardError: the shard is missing or damaged.
    """
    with _reading(shard):
        for row in range(shard.num_rows):
            next(_read_records(shard, row, 1))


def compressed_size(column: Cells) -> int:
    """Return the bytes that a column takes on disk; each of its cells is deflated by itself."""
    every = (column[i] for i in range(len(column)))
    return sum(len(zlib.compress(cell.data, _LEVEL)) for cell in every)


def _read_records(shard: Shard, first: int, num_rows: int) -> Iterator[Any]:
    """Give the features of some records, each checked for damage and for its place."""
    starts = _starts(shard)[first : first + num_rows + 1]
    with shard.path.open("rb") as file:
        file.seek(starts[0])
        data = file.read(int(starts[-1] - starts[0]))
    for row, (start, stop) in enumerate(itertools.pairwise(starts - starts[0]), first):
        payload = data[start + _HEADER.size : stop - _CHECKSUM.size]
        (checksum,) = _CHECKSUM.unpack(data[stop - _CHECKSUM.size : stop])
        if checksum != _masked(payload):
            raise ValueError(f"record {row} does not have its checksum")
        yield _parse(shard, payload, row)


def _read_head(shard: Shard, file: BinaryIO, span: tuple[int, int], row: int) -> Any:
    """Parse the first of the two messages that a record consists of."""
    start, stop = span[0] + _HEADER.size, span[1] - _CHECKSUM.size
    file.seek(start)
    head = file.read(min(_HEAD_BYTES, stop - start))
    size_bytes, used = 0, 1  # behind the tag comes the length, seven bits a byte
    while True:
        size_bytes |= (head[used] & 0x7F) << 7 * (used - 1)
        used += 1
        if head[used - 1] < 0x80:
            break
    if used + size_bytes > stop - start:  # nothing that was read so far is checked
        raise ValueError(f"record {row} is longer inside than outside")
    more = file.read(max(0, used + size_bytes - len(head)))
    return _parse(shard, (head + more)[: used + size_bytes], row)


def _parse(shard: Shard, payload: bytes, row: int) -> Any:
    features = Example.FromString(payload).features.feature
    found = features["place"].bytes_list.value[0].decode("utf-8", "replace")
    if found != f"{shard.place}/{row}":
        raise ShardError(
            f"{shard.path}: record {row} is {found}, expected {shard.place}/{row}; {_MEND}"
        )
    return features


def _starts(shard: Shard) -> np.ndarray:
    """Return where each record begins, and where the last one ends."""
    state = shard.path.stat()
    starts = _find_records(shard.path, state.st_size, state.st_mtime_ns)
    if len(starts) != shard.num_rows + 1:
        raise ValueError(f"{len(starts) - 1} records, its receipt says {shard.num_rows}")
    return starts


@functools.lru_cache(maxsize=4096)
def _find_records(path: Path, size_bytes: int, _mtime_ns: int) -> np.ndarray:
    """Hop over the lengths of all records; int64 (records + 1,)."""
    starts = [0]
    with path.open("rb", buffering=0) as file:
        while starts[-1] < size_bytes:
            header = os.pread(file.fileno(), _HEADER.size, starts[-1])
            if len(header) < _HEADER.size:
                raise ValueError(f"cut short in record {len(starts) - 1}")
            length, checksum = _HEADER.unpack(header)
            if checksum != _masked(header[:8]):
                raise ValueError(f"the length of record {len(starts) - 1} is damaged")
            starts.append(starts[-1] + _HEADER.size + length + _CHECKSUM.size)
    if starts[-1] != size_bytes:
        raise ValueError(f"cut short in record {len(starts) - 2}")
    return np.array(starts, np.int64)


@contextlib.contextmanager
def _reading(shard: Shard) -> Iterator[None]:
    """Turn complaints about a damaged file into one that names it.

    Raises:
        ShardError: the block met damage.
    """
    try:
        yield
    except (OSError, ValueError, IndexError, struct.error, zlib.error, DecodeError) as error:
        raise ShardError(f"{shard.path}: damaged: {error}; {_MEND}") from error


def _name(features: Any) -> str:
    return features["id"].bytes_list.value[0].decode("utf-8", "surrogateescape")


def _inflated(features: Any, column: str) -> bytes:
    values = features[column].bytes_list.value
    if len(values) != 1:
        raise ValueError(f"no column {column}")
    return zlib.decompress(values[0])


def _to_cells(cells: Sequence[bytes]) -> Cells:
    data = np.frombuffer(b"".join(cells), np.uint8)
    return Cells.of_sizes(data, np.array([len(cell) for cell in cells]))


def _masked(data: bytes) -> int:
    """Return the CRC-32C as TFRecord writes it (tensorflow/core/lib/hash/crc32c.h)."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
