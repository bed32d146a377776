"""Other ways to keep feature maps: written and read whole, one thread, to dense float32.

Each class writes `maps`, float32 (images, branches, height, width, channels), into a folder, and
reads them back in batches of images as dense float32 arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import blosc2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class Baseline(Protocol):
    """A way to keep feature maps."""

    name: str

    def write(self, maps: np.ndarray, folder: Path) -> None:
        """Write all maps."""

    def read(self, folder: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[np.ndarray]:
        """Give float32 (images, branches, *map) batch by batch."""


class RawSparseRecords:
    """Value float32 and position int32 in bytes features, as the thesis keeps them (4.1.1)."""

    name = "TFRecord of values f32 and positions i32 (the thesis)"

    def write(self, maps: np.ndarray, folder: Path) -> None:
        """Write a record an image, two features a branch."""
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(folder / "a.tfrecord")) as writer:
            for image in maps:
                features = {}
                for i, branch in enumerate(image):
                    positions = np.flatnonzero(branch).astype(np.int32)
                    features[f"{i}.values"] = _bytes(branch.reshape(-1)[positions])
                    features[f"{i}.positions"] = _bytes(positions)
                writer.write(_example(features))

    def read(self, folder: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[np.ndarray]:
        """Parse record by record, scatter with NumPy."""
        for records in _batches_of_records(folder / "a.tfrecord", batch_size):
            out = np.zeros((len(records), shape[1], int(np.prod(shape[2:]))), np.float32)
            for image, features in zip(out, records, strict=True):
                for i, branch in enumerate(image):
                    positions = np.frombuffer(_value(features, f"{i}.positions"), np.int32)
                    branch[positions] = np.frombuffer(_value(features, f"{i}.values"), np.float32)
            yield out.reshape(len(records), *shape[1:])


class DenseRecords:
    """Dense float32 in bytes features."""

    name = "TFRecord of dense float32"

    def write(self, maps: np.ndarray, folder: Path) -> None:
        """Write a record an image, a feature a branch."""
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(folder / "a.tfrecord")) as writer:
            for image in maps:
                writer.write(_example({f"{i}": _bytes(b) for i, b in enumerate(image)}))

    def read(self, folder: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[np.ndarray]:
        """Parse record by record."""
        for records in _batches_of_records(folder / "a.tfrecord", batch_size):
            out = np.empty((len(records), *shape[1:]), np.float32)
            for image, features in zip(out, records, strict=True):
                for i, branch in enumerate(image):
                    branch.flat = np.frombuffer(_value(features, f"{i}"), np.float32)
            yield out


class TextFiles:
    """One text file a map, as TensorFlow's first retrain script kept bottlenecks."""

    name = "a text file a map (TensorFlow's first retrain script)"

    def write(self, maps: np.ndarray, folder: Path) -> None:
        """Write numbers with commas between them."""
        for i, image in enumerate(maps):
            for j, branch in enumerate(image):
                text = ",".join(str(x) for x in branch.reshape(-1).tolist())
                (folder / f"{i}-{j}.txt").write_text(text)

    def read(self, folder: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[np.ndarray]:
        """Parse each file as that script does."""
        for start in range(0, shape[0], batch_size):
            images = range(start, min(start + batch_size, shape[0]))
            yield np.array([[self.read_one(folder, i, j) for j in range(shape[1])] for i in images])

    @staticmethod
    def read_one(folder: Path, image: int, branch: int) -> list[float]:
        """Parse one file."""
        text = (folder / f"{image}-{branch}.txt").read_text()
        return [float(x) for x in text.split(",")]


class MemoryMap:
    """A dense float32 .npy file."""

    name = "dense float32 .npy, memory map"

    def write(self, maps: np.ndarray, folder: Path) -> None:
        """Save the array."""
        np.save(folder / "a.npy", maps)

    def read(self, folder: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[np.ndarray]:
        """Copy batches out of the map."""
        maps = np.load(folder / "a.npy", mmap_mode="r")
        for start in range(0, shape[0], batch_size):
            yield np.array(maps[start : start + batch_size])


class ParquetLists:
    """Values and positions as list columns, with pyarrow's defaults."""

    name = "Parquet lists of values f32 and positions i32, pyarrow's defaults"

    def write(self, maps: np.ndarray, folder: Path) -> None:
        """Write two list columns a branch."""
        columns = {}
        for i in range(maps.shape[1]):
            flat = maps[:, i].reshape(len(maps), -1)
            kept = [np.flatnonzero(row).astype(np.int32) for row in flat]
            columns[f"{i}.values"] = pa.array(
                [row[at] for row, at in zip(flat, kept, strict=True)], pa.list_(pa.float32())
            )
            columns[f"{i}.positions"] = pa.array(kept, pa.list_(pa.int32()))
        pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=16)

    def read(self, folder: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[np.ndarray]:
        """Read batches, scatter with NumPy."""
        with pq.ParquetFile(folder / "a.parquet", pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size, use_threads=False):
                out = np.zeros((len(batch), shape[1], int(np.prod(shape[2:]))), np.float32)
                for i in range(shape[1]):
                    values, positions = batch[f"{i}.values"], batch[f"{i}.positions"]
                    counts = positions.value_lengths().to_numpy()
                    rows = np.repeat(np.arange(len(batch)), counts)
                    out[rows, i, positions.flatten().to_numpy()] = values.flatten().to_numpy()
                yield out.reshape(len(batch), *shape[1:])


class Blosc:
    """Dense float32 through blosc2: bit-shuffle and zstd, a frame an image."""

    name = "blosc2, dense float32, bit-shuffle, zstd 1"

    def write(self, maps: np.ndarray, folder: Path) -> None:
        """Compress each image."""
        blosc2.set_nthreads(1)
        for i, image in enumerate(maps):
            data = blosc2.compress2(
                image,
                typesize=4,
                nthreads=1,
                filters=[blosc2.Filter.BITSHUFFLE],
                codec=blosc2.Codec.ZSTD,
                clevel=1,
            )
            (folder / f"{i}.blosc").write_bytes(data)

    def read(self, folder: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[np.ndarray]:
        """Decompress image by image."""
        for start in range(0, shape[0], batch_size):
            stop = min(start + batch_size, shape[0])
            out = np.empty((stop - start, *shape[1:]), np.float32)
            for i in range(start, stop):
                blosc2.decompress2((folder / f"{i}.blosc").read_bytes(), dst=out[i - start])
            yield out


BASELINES: tuple[Baseline, ...] = (
    RawSparseRecords(),
    DenseRecords(),
    TextFiles(),
    MemoryMap(),
    ParquetLists(),
    Blosc(),
)


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _example(features: dict[str, bytes]) -> bytes:
    import tensorflow as tf

    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
                for name, data in features.items()
            }
        )
    ).SerializeToString()


def _batches_of_records(path: Path, batch_size: int) -> Iterator[list[dict]]:
    import tensorflow as tf

    batch: list[dict] = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        batch.append(tf.train.Example.FromString(record).features.feature)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _value(features: dict, name: str) -> bytes:
    return features[name].bytes_list.value[0]
