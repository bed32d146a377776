"""Image files to a shard of variants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipelines.errors import ImageError
from pipelines.images import decode
from pipelines.images.codecs import Codec
from pipelines.images.jpeg import check_pixels
from pipelines.storage import variants
from pipelines.storage.content import KEY, ContentSum
from pipelines.storage.plan import Receipt, Task

MAX_FILE_BYTES = 512 << 20

_FORMAT_OF_EXTENSION = {
    **{f".{name}": name for name in ("jpeg", "png", "gif", "bmp", "tiff", "webp")},
    ".jpg": "jpeg",
    ".tif": "tiff",
    ".ppm": "ppm",
    ".pgm": "ppm",
}


@dataclass(frozen=True)
class Encoder:
    """Makes rows of the images of one source.

    Attributes:
        root: the folder that ids are relative to; an id that is an absolute path stays one.
        codec: how the variants are encoded.
        max_megapixels: an image whose header declares more is refused.
        is_stored: whether rows hold the images; without, they only say which can be used.
    """

    root: Path
    codec: Codec
    max_megapixels: float
    is_stored: bool = True

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the variants that rows hold."""
        return (variants.ORIGINAL, *self.codec.variant_names) if self.is_stored else ()

    def encode(self, name: str, label: int) -> tuple[variants.VariantRow, bool]:
        """Read, decode and encode one image.

        Returns:
            The row, and whether the file's extension names another format than its content is.

        Raises:
            ImageError: the file cannot be read or is no image that can be used.
        """
        data, pixels = self.read(name)
        versions = (data, *self.codec.encode(pixels)) if self.is_stored else ()
        row = variants.VariantRow(name, label, hashlib.sha256(data).digest(), versions)
        return row, _has_wrong_extension(name, data)

    def read(self, name: str) -> tuple[bytes, np.ndarray]:
        """Read and decode one image.

        Returns:
            The file's bytes, and uint8 pixels (height, width) or (height, width, 3).

        Raises:
            ImageError: the file cannot be read or is no image that can be encoded.
        """
        data = self._read_file(self.root / name)
        return data, self.decode(data)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode the bytes of one image.

        Returns:
            uint8 pixels (height, width) or (height, width, 3).

        Raises:
            ImageError: they are no image that can be encoded.
        """
        pixels = decode.decode_original(data, max_megapixels=self.max_megapixels)
        check_pixels(pixels)
        return pixels

    def _read_file(self, path: Path) -> bytes:
        try:
            size_bytes = path.stat().st_size
            if size_bytes > MAX_FILE_BYTES:
                raise ImageError(
                    f"the file has {size_bytes:,} bytes, over the limit of {MAX_FILE_BYTES:,}"
                )
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Listed:
    """The images of one shard.

    Attributes:
        task: the shard.
        rows: id and label of each.
        left_out: position and reason of those that are not to be touched.
    """

    task: Task
    rows: Sequence[tuple[str, int]]
    left_out: Mapping[int, str] = field(default_factory=dict)


def make_shard(
    folder: Path, encoder: Encoder, listed: Listed, advance: Callable[[int], None]
) -> Receipt:
    """Encode the images of one shard and write it durably.

    Args:
        folder: the set's folder.
        encoder: makes the rows.
        listed: the shard and its images.
        advance: called after each image.

    Returns:
        The receipt, with every image that was left out and why.

    Raises:
        ShardError: the disk refuses.
    """
    quarantined: list[tuple[str, str]] = []
    num_wrong_extension = 0
    content = ContentSum(listed.task.split)

    def rows() -> Iterator[variants.VariantRow]:
        nonlocal num_wrong_extension
        for i, (name, label) in enumerate(listed.rows):
            try:
                if i in listed.left_out:
                    raise ImageError(listed.left_out[i])
                row, has_wrong_extension = encoder.encode(name, label)
            except ImageError as error:
                quarantined.append((name, str(error)))
            else:
                num_wrong_extension += has_wrong_extension
                content.add(listed.task.start + i, name, label, row.sha256)
                yield row
            advance(1)

    receipt = variants.write_shard(folder, listed.task, encoder.variant_names, rows(), quarantined)
    stats = {"num_wrong_extension": num_wrong_extension, KEY: content.hexdigest()}
    return replace(receipt, stats=stats)


def _has_wrong_extension(name: str, data: bytes) -> bool:
    claimed = _FORMAT_OF_EXTENSION.get(Path(name).suffix.lower())
    return claimed is not None and claimed != decode.sniff(data)
