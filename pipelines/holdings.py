"""What caches and originals hold, counted: zeros, sizes, JPEG qualities.

Serves the tables of thesis 4.1 and 4.2 and its figure 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.images import quality
from pipelines.progress import Progress
from pipelines.storage import locks, variants
from pipelines.storage.cache import FeatureCache
from pipelines.storage.variants import ORIGINAL

_FLOAT32_BYTES, _POSITION_BYTES = 4, 4  # of the thesis's records (section 4.1.1)


def sizes(cache: FeatureCache) -> dict[str, Any]:
    """Sum up a cache's receipts, beside what its maps take in other forms.

    Returns:
        density, zeros_by_branch, bytes_per_map, dense_bytes_per_map, raw_sparse_bytes_per_map,
        shard_bytes, num_images, num_shards, dtype, encoding, format.
    """
    layout, receipts = cache.layout, cache.receipts
    num_images = sum(receipt.num_rows for receipt in receipts)
    num_branches = len(layout.branches)
    num_maps = max(1, num_images * num_branches)
    size_bytes = sum(receipt.size_bytes for receipt in receipts)
    nnz = sum(receipt.stats["nnz"] for receipt in receipts)
    zeros = None  # the first release did not count them by branch
    if all("nnz_by_branch" in receipt.stats for receipt in receipts):
        by_branch = np.array([receipt.stats["nnz_by_branch"] for receipt in receipts])
        shares = by_branch.sum(axis=0) / max(1, num_images * layout.num_values)
        zeros = {
            name: round(1 - float(share), 6)
            for name, share in zip(layout.branches, shares, strict=True)
        }
    return {
        "density": round(nnz / (num_maps * layout.num_values), 6),
        "zeros_by_branch": zeros,
        "bytes_per_map": round(size_bytes / num_maps, 1),
        "dense_bytes_per_map": layout.num_values * _FLOAT32_BYTES,
        "raw_sparse_bytes_per_map": round(nnz / num_maps * (_FLOAT32_BYTES + _POSITION_BYTES), 1),
        "shard_bytes": round(size_bytes / max(1, len(receipts))),
        "num_images": num_images,
        "num_shards": len(receipts),
        "dtype": layout.dtype,
        "encoding": layout.encoding,
        "format": layout.format,
    }


def qualities(folder: Path, limit: int, progress: Progress, what: str) -> dict[str, Any]:
    """Estimate the quality factors of the first originals from their quantisation tables.

    Args:
        folder: of a set of variants.
        limit: so many originals; 0 takes all.
        progress: told about them.
        what: its name for this work.

    Returns:
        A histogram as `quality.qf_histogram` gives it.

    Raises:
        ManifestError: the set is not there, or not whole.
        ShardError: a shard is damaged.
    """
    found = variants.open_set(folder, [ORIGINAL])
    total = sum(found.num_rows().values())
    progress.start(what, min(limit or total, total), "image")

    def originals() -> Iterator[bytes]:
        left = limit or total
        for split, num_rows in found.num_rows().items():
            for row in found.rows(split, 0, min(left, num_rows)):
                yield row.variants[0]
            left -= min(left, num_rows)

    with locks.reading(folder):
        return _histogram(originals(), progress)


def qualities_of_files(
    root: Path, ids: Iterable[str], num_images: int, progress: Progress, what: str
) -> dict[str, Any]:
    """Estimate the quality factors of images from their files; those that are gone are passed over.

    Args:
        root: the folder that names are relative to.
        ids: names of images.
        num_images: how many these are.
        progress: told about them.
        what: its name for this work.

    Returns:
        A histogram as `quality.qf_histogram` gives it.
    """
    progress.start(what, num_images, "image")

    def originals() -> Iterator[bytes]:
        for name in ids:
            try:
                data = (root / name).read_bytes()
            except (OSError, ValueError):
                progress.advance(1)
                continue
            yield data

    return _histogram(originals(), progress)


def _histogram(originals: Iterable[bytes], progress: Progress) -> dict[str, Any]:
    def estimates() -> Iterator[int | None]:
        for data in originals:
            yield quality.estimate_quality(data)
            progress.advance(1)

    return quality.qf_histogram(estimates())
