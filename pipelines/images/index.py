"""The index: which images take part, with which label and split, in which order.

    index/index.json           the settings it was made from, classes, counts, what was decided
    index/images.parquet       id, label, split, in the order of the plan
    index/hashes/*.parquet     SHA-256 of the files, only where no splits are given

Every variant set follows the same index, so that sets beside each other have the same splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ManifestError, PipelineError, SourceError
from pipelines.images import splits
from pipelines.images.folders import first_few
from pipelines.images.sources import Source
from pipelines.progress import Progress
from pipelines.storage import atomic, parquet
from pipelines.storage.fingerprint import check_same, digest

FOLDER = "index"  # in a workspace
HASHES = "hashes"  # in it
FORMAT_VERSION = 1
_HASH_CHUNK = 2_000  # files a hash shard: a few seconds of work that a kill can cost
_HASH_AT_ONCE = 32  # files that pass between threads at once
_UNREADABLE = "cannot be read: "  # no digest starts like this
_HASH_SCHEMA = pa.schema([("id", pa.string()), ("sha256", pa.string())])


@dataclass(frozen=True)
class Index:
    """The images that take part.

    Attributes:
        table: id (string), label (int32), split (string), in the order of the plan.
        info: index.json: fingerprint, classes, notes, problems.
    """

    table: pa.Table
    info: Mapping[str, Any]

    @property
    def fingerprint_sha256(self) -> str:
        """Digest of everything the index follows from."""
        return digest(self.info["fingerprint"])

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Entries of the source that are no readable files: (id, reason)."""
        return [(name, reason) for name, reason in self.info["problems"]]

    def num_rows(self) -> dict[str, int]:
        """Return the number of images of each split, in the order of the plan."""
        return self._counts

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts = {
            row["values"]: row["counts"] for row in self.table["split"].value_counts().to_pylist()
        }
        return {name: counts[name] for name in splits.SPLITS if name in counts}

    def rows(self, split: str, start: int, stop: int) -> list[tuple[str, int]]:
        """Return (id, label) of rows `start` to `stop` of a split."""
        first = 0
        for name, count in self.num_rows().items():
            if name == split:
                part = self.table.slice(first + start, stop - start)
                return list(zip(part["id"].to_pylist(), part["label"].to_pylist(), strict=True))
            first += count
        raise ValueError(f"no split {split}")


def open_index(
    folder: Path,
    source: Source,
    *,
    limit: int,
    seed: int,
    map_files: Callable[..., Any],
    progress: Progress,
) -> Index:
    """Read the index, or make it where there is none.

    Args:
        folder: the index's folder; made when missing.
        source: the images as they are listed now.
        limit: take only so many, stratified by label; 0 takes all.
        seed: fixes the choice, the splits and the order.
        map_files: `ordered_map` with its number of workers set.
        progress: told about the hash pass and what was decided.

    Raises:
        ManifestError: the index was made from other images or settings.
        SourceError: the images cannot be split.
    """
    fingerprint = {
        "images": source.describe(),
        "limit": limit,
        "seed": seed,
    }
    path = folder / "index.json"
    if path.exists():
        info = atomic.read_json(path)
        if info.get("format_version") != FORMAT_VERSION:
            raise ManifestError(f"{path}: format version {info.get('format_version')}, not 1")
        mend = "ask for that again, or start over with --overwrite"
        made = info["fingerprint"]
        if made["images"] != fingerprint["images"] and made["limit"] == limit == 0:
            mend = _changes(folder, info, source) + mend
        check_same(made, fingerprint, path, mend)
        return Index(parquet.read_table(folder / "images.parquet"), info)
    atomic.make_folder(folder)
    atomic.sweep(folder)
    return _make(folder, source, fingerprint, map_files, progress)


def _changes(folder: Path, info: Mapping[str, Any], source: Source) -> str:
    """Name the images that came and went since an index of all images was made."""
    made = parquet.read_table(folder / "images.parquet", ["id"])["id"].to_pylist()
    before = {*made, *(name for name, _ in info["problems"])}
    now = {*source.table["id"].to_pylist(), *(name for name, _ in source.problems)}
    words = [
        f"{word} {first_few(sorted(names))}; "
        for word, names in (("new", now - before), ("gone", before - now))
        if names
    ]
    return "".join(words)


def _make(
    folder: Path,
    source: Source,
    fingerprint: Mapping[str, Any],
    map_files: Callable[..., Any],
    progress: Progress,
) -> Index:
    labels, given, seed = source.labels, source.splits, fingerprint["seed"]
    kept = splits.limit_stratified(labels, given, fingerprint["limit"], seed)
    ids, labels, given = source.table["id"].take(pa.array(kept)), labels[kept], given[kept]
    problems = list(source.problems)
    groups = None
    if splits.needs_hashes(given):
        hashes = _hash_files(folder, source, ids.to_pylist(), map_files, progress)
        readable = np.array([not value.startswith(_UNREADABLE) for value in hashes])
        problems += [
            (name, value)
            for name, value in zip(ids.to_pylist(), hashes, strict=True)
            if value.startswith(_UNREADABLE)
        ]
        ids, labels, given = ids.filter(pa.array(readable)), labels[readable], given[readable]
        found = np.array(hashes)[readable]
        groups = np.unique(found, return_inverse=True)[1]
    final, note = splits.assign_splits(labels, given, groups, seed)
    _check_train(source, labels[final == splits.TRAIN], fingerprint["limit"])
    order = splits.plan_order(final, seed)
    table = pa.table(
        {
            "id": ids.take(pa.array(order)).cast(pa.string()),
            "label": pa.array(labels[order], pa.int32()),
            "split": pa.array(np.array(splits.SPLITS)[final[order]], pa.string()),
        }
    )
    info = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "classes": list(source.classes),
        "note": note,
        "problems": problems,
    }
    if note:
        progress.say(note)
    parquet.write_table(folder / "images.parquet", table)
    atomic.write_json(folder / "index.json", info)
    return Index(table, info)


def _check_train(source: Source, train_labels: np.ndarray, limit: int) -> None:
    """Check that every class can be learned."""
    missing = sorted(set(range(len(source.classes))) - set(train_labels.tolist()))
    if missing:
        names = first_few(source.classes[label] for label in missing)
        reason = f"limit {limit} is too small" if limit else "none of its images can be read"
        raise SourceError(f"{source.root}: no training image of {names}; {reason}")


def _hash_files(
    folder: Path,
    source: Source,
    ids: list[str],
    map_files: Callable[..., Any],
    progress: Progress,
) -> list[str]:
    """Hash every file, in chunks that a killed run need not do again.

    Returns:
        For each id the SHA-256 in hexadecimal, or why it cannot be read (from `_UNREADABLE` on).
    """
    hash_dir = folder / HASHES
    atomic.make_folder(hash_dir)
    atomic.sweep(hash_dir)

    def hash_one(name: str) -> str:
        try:
            sha256 = hashlib.sha256()
            with source.path_of(name).open("rb") as file:
                while block := file.read(1 << 20):
                    sha256.update(block)
            return sha256.hexdigest()
        except OSError as error:
            return f"{_UNREADABLE}{error.strerror}"

    done: list[str] = []
    progress.start("hash", len(ids), "image")
    for first in range(0, len(ids), _HASH_CHUNK):
        chunk = ids[first : first + _HASH_CHUNK]
        path = hash_dir / f"{first // _HASH_CHUNK:05d}.parquet"
        table = parquet.read_table(path) if path.exists() else None
        if table is None or table["id"].to_pylist() != chunk:
            parts = [chunk[i : i + _HASH_AT_ONCE] for i in range(0, len(chunk), _HASH_AT_ONCE)]
            values = [
                value
                for part in map_files(lambda names: [hash_one(name) for name in names], parts)
                for value in part
            ]
            table = pa.table([pa.array(chunk), pa.array(values)], schema=_HASH_SCHEMA)
            parquet.write_table(path, table)
        done += table["sha256"].to_pylist()
        progress.advance(len(chunk))
    if all(value.startswith(_UNREADABLE) for value in done):
        raise SourceError(f"{source.root}: none of its {len(done)} images can be read; {done[0]}")
    return done


def hashes(folder: Path) -> pa.Table:
    """Read the hashes of files that were taken when the index was made; damaged ones are left out.

    Args:
        folder: the index's folder.

    Returns:
        id (string) and sha256 (binary, 32 bytes) of those that could be read.
    """
    ids: list[str] = []
    found: list[bytes] = []
    for path in sorted((folder / HASHES).glob("*.parquet")):
        try:
            table = parquet.read_table(path)
        except PipelineError:
            continue
        is_hash = pc.invert(pc.starts_with(table["sha256"], _UNREADABLE))
        readable = table.filter(is_hash)
        ids += readable["id"].to_pylist()
        found += map(bytes.fromhex, readable["sha256"].to_pylist())
    return pa.table({"id": pa.array(ids, pa.string()), "sha256": pa.array(found, pa.binary(32))})
