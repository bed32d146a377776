"""Pixels of images in some of their versions: as they are stored, or made again from the file.

The only place where this package meets variants on disk and their codecs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ImageError, PipelineError
from pipelines.images import codecs, decode, recorded
from pipelines.images.encode import Encoder
from pipelines.images.versions import Versions
from pipelines.storage import picking
from pipelines.storage.variants import ORIGINAL, VariantSet

_MEND = "bring the images back, or run `bottleneck compress`"


@dataclass(frozen=True)
class Pictures:
    """One image in some of its versions.

    Attributes:
        id: the image's name.
        pixels: uint8 (height, width) or (height, width, 3) by the version's name; empty where
            they cannot be had.
        problem: why not.
    """

    id: str
    pixels: Mapping[str, np.ndarray]
    problem: str = ""


@dataclass(frozen=True)
class Pixels:
    """Where the pixels of a run's images come from.

    Attributes:
        workspace_dir: the workspace, which may have a set of variants.
        made_from: fingerprint of the run's cache, which says how they were made.
        split: of the images.
        root: the folder that names of images are relative to; None where nobody knows.
    """

    workspace_dir: Path
    made_from: Mapping[str, Any]
    split: str
    root: Path | None

    def of(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[Pictures]:
        """Give the pixels of some images.

        Args:
            wanted: the versions of each image, by its name.

        Yields:
            An entry an image, in any order.
        """
        left = dict(wanted)
        names = tuple(dict.fromkeys(name for versions in wanted.values() for name in versions))
        found = recorded.open_stored(self.workspace_dir, self.made_from, names)
        if found is not None:
            try:
                for row in picking.pick(found, self.split, wanted, names):
                    cells = dict(zip(names, row.variants, strict=True))
                    pixels = {name: self._decode(name, cells[name]) for name in left[row.id]}
                    del left[row.id]
                    yield Pictures(row.id, pixels)
            except PipelineError:
                pass  # a damaged shard: what is left comes from the files
        known = self._hashes(left) if left else {}
        for image_id, asked in left.items():
            try:
                yield Pictures(image_id, self._made(image_id, asked, known.get(image_id)))
            except PipelineError as error:
                yield Pictures(image_id, {}, str(error))

    def stored(self) -> VariantSet | None:
        """Open the set that the cache was made from, where its images are still there."""
        return recorded.open_stored(self.workspace_dir, self.made_from)

    def _hashes(self, ids: Collection[str]) -> dict[str, bytes]:
        """Find the SHA-256 of images as they were, where anything still says so."""
        table = recorded.hashes(self.workspace_dir, self.made_from, (self.split,))
        some = table.filter(pc.is_in(table["id"], pa.array(sorted(ids), pa.string())))
        return dict(zip(some["id"].to_pylist(), some["sha256"].to_pylist(), strict=True))

    def _decode(self, name: str, data: bytes) -> np.ndarray:
        made = self.made_from["variants"]
        if name == ORIGINAL:
            return decode.decode_original(data, max_megapixels=float(made["max_megapixels"]))
        return codecs.decoder_of(made["codec"])(data)

    def _made(
        self, image_id: str, names: Sequence[str], sha256: bytes | None
    ) -> dict[str, np.ndarray]:
        """Make versions from the image's file, which must be what it was where that is known."""
        made = Versions.of_cache(self.made_from, tuple(names))
        if self.root is None:
            raise ImageError(f"{image_id}: no stored variants and no folder of images; {_MEND}")
        path = self.root / image_id
        try:
            data, original = Encoder(self.root, made.codec, made.max_megapixels).read(image_id)
        except ImageError as error:
            raise ImageError(f"{path}: {error}; {_MEND}") from error
        if sha256 is not None and hashlib.sha256(data).digest() != sha256:
            raise ImageError(
                f"{path}: is not the image that the cache was made from; bring that one back"
            )
        others = [name for name in names if name != ORIGINAL]
        pixels = dict(zip(others, made.codec.versions(original, others), strict=True))
        return {name: original if name == ORIGINAL else pixels[name] for name in names}
