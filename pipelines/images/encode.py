"""Image files to a shard of variants; the work of a process, which loads nothing but this."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.errors import ImageError
from pipelines.images import decode
from pipelines.images.codecs import JpegCodec
from pipelines.storage import variants
from pipelines.storage.manifest import Receipt, Task

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
    """

    root: Path
    codec: JpegCodec
    max_megapixels: float

    def encode(self, name: str, label: int) -> tuple[variants.VariantRow, bool]:
        """Read, decode and encode one image.

        Returns:
            The row, and whether the file's extension names another format than its content is.

        Raises:
            ImageError: the file cannot be read or is no image that can be used.
        """
        data = self._read(self.root / name)
        pixels = decode.decode_original(data, max_megapixels=self.max_megapixels)
        versions = (data, *self.codec.encode(pixels))
        row = variants.VariantRow(name, label, hashlib.sha256(data).digest(), versions)
        return row, _has_wrong_extension(name, data)

    def _read(self, path: Path) -> bytes:
        try:
            size_bytes = path.stat().st_size
            if size_bytes > MAX_FILE_BYTES:
                raise ImageError(
                    f"the file has {size_bytes:,} bytes, over the limit of {MAX_FILE_BYTES:,}"
                )
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error


def make_shard(
    folder: Path,
    encoder: Encoder,
    work: tuple[Task, list[tuple[str, int]]],
    advance: Callable[[int], None],
) -> Receipt:
    """Encode the images of one shard and write it durably.

    Args:
        folder: the set's folder.
        encoder: makes the rows.
        work: the shard, and the id and label of each of its images.
        advance: called after each image.

    Returns:
        The receipt, with every image that was left out and why.

    Raises:
        ShardError: the disk refuses.
    """
    task, listed = work
    quarantined: list[tuple[str, str]] = []
    num_wrong_extension = 0

    def rows() -> Iterator[variants.VariantRow]:
        nonlocal num_wrong_extension
        for name, label in listed:
            try:
                row, has_wrong_extension = encoder.encode(name, label)
            except ImageError as error:
                quarantined.append((name, str(error)))
            else:
                num_wrong_extension += has_wrong_extension
                yield row
            advance(1)

    names = (variants.ORIGINAL, *encoder.codec.variant_names)
    receipt = variants.write_shard(folder, task, names, rows(), quarantined)
    return replace(receipt, stats={"num_wrong_extension": num_wrong_extension})


def _has_wrong_extension(name: str, data: bytes) -> bool:
    claimed = _FORMAT_OF_EXTENSION.get(Path(name).suffix.lower())
    return claimed is not None and claimed != decode.sniff(data)
