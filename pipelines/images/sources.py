"""Labelled images in: class folders, a list file, or the packaged solar cells, as columns.

Nothing is opened or decoded here; a file is an image candidate whatever its name ends in.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ConfigError, SourceError
from pipelines.images.folders import Problems, first_few, read_folders, reason_of
from pipelines.images.lists import (
    LIST_SUFFIXES,
    Listing,
    read_class_list,
    read_elpv_labels,
    read_list,
    sort_names,
)
from pipelines.images.splits import NO_SPLIT, SPLITS, TRAIN

_DIGEST_ROWS = 10_000


@dataclass(frozen=True)
class Source:
    """Labelled images, a row each, in rising order of id.

    Attributes:
        kind: "folders", "list" or "elpv".
        root: the folder that ids are relative to.
        classes: class names; a label is an index into them.
        table: columns id (string, unique POSIX path), label (int32) and split (dictionary of
            string: train, val, test, or null in all rows).
        problems: (id, reason) of entries that are no rows, in rising order.
    """

    kind: str
    root: Path
    classes: tuple[str, ...]
    table: pa.Table
    problems: tuple[tuple[str, str], ...]

    @property
    def labels(self) -> np.ndarray:
        """Class index of each row; int32, (n,)."""
        return self.table["label"].to_numpy()

    @property
    def splits(self) -> np.ndarray:
        """Index into `splits.SPLITS` of each row, or NO_SPLIT; int8, (n,)."""
        codes = pc.index_in(self.table["split"].cast(pa.string()), pa.array(SPLITS))
        return pc.fill_null(codes, NO_SPLIT).to_numpy().astype(np.int8)

    def path_of(self, image_id: str) -> Path:
        """Give the file of a row; an absolute path of a list stays as it is."""
        return self.root / image_id

    def describe(self) -> dict[str, Any]:
        """Say for a fingerprint what the source is, wherever it lies: JSON-able.

        `rows_sha256` is over ids, labels and given splits, so one image more and another less
        shows; file contents are not part of it.
        """
        digest = hashlib.sha256()
        for start in range(0, self.table.num_rows, _DIGEST_ROWS):
            rows = self.table.slice(start, _DIGEST_ROWS).to_pydict()
            digest.update(json.dumps([rows["id"], rows["label"], rows["split"]]).encode())
        return {
            "kind": self.kind,
            "classes": list(self.classes),
            "num_images": self.table.num_rows,
            "rows_sha256": digest.hexdigest(),
        }


def open_source(images: str, *, base_dir: Path, classes_path: Path | None = None) -> Source:
    """List the labelled images that a workspace names.

    Args:
        images: path, relative to `base_dir` or absolute, of a folder (`<class>/*` or
            `<split>/<class>/*`, with splits named train, val or validation, and test) or of a
            .csv, .tsv or .jsonl list; or the word "elpv", unless a folder has that name.
        base_dir: the workspace.
        classes_path: a text file with a class name a line that sets the label indices, relative to
            `base_dir` or absolute. Without it classes are sorted by name.

    Returns:
        The rows and what had to be left out; paths that only fail when read are among the rows.

    Raises:
        SourceError: nothing to train on can be found there; says what was expected.
    """
    path = base_dir / images
    if images == "elpv" and not path.is_dir():
        kind, root = "elpv", _elpv_dir()
        listing, problems = _without_missing(root, read_elpv_labels(root / "labels.csv"))
    elif path.is_dir():
        kind, root = "folders", path
        listing, problems = read_folders(path)
    elif not path.exists():
        raise SourceError(
            f"{path}: does not exist; expected a folder with a folder for each class, "
            f"a {', '.join(LIST_SUFFIXES)} list, or the word elpv"
        )
    elif path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        kind, root = "list", path.parent
        listing, problems = _without_missing(root, read_list(path))
    else:
        raise SourceError(
            f"{path}: not a folder, and not a list by its name; "
            f"expected a file that ends in {', '.join(LIST_SUFFIXES)}"
        )
    listing = _with_classes(path, listing, base_dir / classes_path if classes_path else None)
    _check_classes(path, listing, problems)
    return Source(kind, root, listing.names, _to_table(listing), tuple(sorted(problems)))


def root_of(images: str, base_dir: Path) -> Path:
    """Return the folder that the names of a source's images are relative to; lists nothing.

    Args:
        images: as for `open_source`.
        base_dir: the workspace.

    Raises:
        SourceError: the setting is empty, or its package is not installed.
    """
    if not images:
        raise SourceError(f"{base_dir}: no images are named; set images in [compress]")
    path = base_dir / images
    if images == "elpv" and not path.is_dir():
        return _elpv_dir()
    return path.parent if path.suffix.lower() in LIST_SUFFIXES and not path.is_dir() else path


def summary(source: Source) -> dict[str, Any]:
    """Count what a source holds: images, classes, problems, images a split and a class."""
    splits = source.splits
    per_class = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    return {
        "num_images": source.table.num_rows,
        "num_classes": len(source.classes),
        "num_problems": len(source.problems),
        "splits": {
            name: int(np.sum(splits == code))
            for code, name in enumerate(SPLITS)
            if np.any(splits == code)
        },
        "classes": dict(zip(source.classes, per_class, strict=True)),
    }


def _elpv_dir() -> Path:
    """Find the files of elpv-dataset without importing it."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            "elpv: the package elpv-dataset is not installed; run pip install elpv-dataset"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _without_missing(root: Path, listing: Listing) -> tuple[Listing, Problems]:
    """Turn listed paths that are no files into problems."""
    problems: Problems = []
    is_file = np.ones(len(listing.labels), dtype=bool)
    row = 0
    for chunk in listing.ids.chunks:
        for image_id in chunk.to_pylist():
            try:
                if not stat.S_ISREG(os.stat(os.path.join(root, image_id)).st_mode):  # noqa: PTH116, PTH118
                    raise OSError(0, "not a regular file")
            except (OSError, ValueError) as error:
                is_file[row] = False
                problems.append((image_id, reason_of(error)))
            row += 1
    if problems:
        mask = pa.array(is_file)
        ids = listing.ids.filter(mask)
        listing = Listing(ids, listing.labels[is_file], listing.names, listing.splits[is_file])
    return listing, problems


def _with_classes(path: Path, listing: Listing, classes_path: Path | None) -> Listing:
    """Give the classes their final order."""
    classes = read_class_list(classes_path) if classes_path else sort_names(listing.names)
    unknown = sorted(set(listing.names) - set(classes))
    missing = [name for name in classes if name not in set(listing.names)]
    if unknown or missing:
        found = f"classes it does not name: {first_few(unknown)}"
        lacking = f"none of {first_few(missing)}"
        raise SourceError(
            f"{path}: does not fit the class list {classes_path}: found "
            + " and ".join([found] * bool(unknown) + [lacking] * bool(missing))
            + "; make the two agree"
        )
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[name] for name in listing.names], dtype=np.int32)[listing.labels]
    return Listing(listing.ids, labels, classes, listing.splits)


def _check_classes(path: Path, listing: Listing, problems: Problems) -> None:
    """Refuse what no classifier can be trained on."""

    def without_rows(labels: np.ndarray) -> list[str]:
        counts = np.bincount(labels, minlength=len(listing.names))
        return [listing.names[label] for label in np.flatnonzero(counts == 0)]

    bare = without_rows(listing.labels)
    if bare:
        image_id, reason = problems[0]
        raise SourceError(
            f"{path}: no file found for the images of {first_few(bare)}, of {len(listing.names)} "
            f"classes (first of {len(problems)} problems: {image_id}: {reason}); correct the paths"
        )
    if len(listing.names) < 2:
        raise SourceError(
            f"{path}: one class only, {listing.names[0]!r}; expected two or more: "
            "name the folder that holds the class folders, or add images of another class"
        )
    is_train = listing.splits == TRAIN
    if is_train.any() and (bare := without_rows(listing.labels[is_train])):
        raise SourceError(
            f"{path}: no images in train for {first_few(bare)}, only in val or test; "
            "add some to train or remove the class"
        )


def _to_table(listing: Listing) -> pa.Table:
    order = pc.sort_indices(listing.ids)
    splits = listing.splits[order.to_numpy()]
    return pa.table(
        {
            "id": listing.ids.take(order),
            "label": listing.labels[order.to_numpy()],
            "split": pa.DictionaryArray.from_arrays(
                pa.array(splits, mask=splits == NO_SPLIT), pa.array(SPLITS)
            ),
        }
    )


def check_apart(workspace_dir: Path, images_dir: Path) -> None:
    """Refuse a workspace inside its class folders: its own files would be taken for a class.

    Raises:
        ConfigError: the workspace is the folder of images or lies below it.
    """
    workspace_dir, images_dir = workspace_dir.resolve(), images_dir.resolve()
    if images_dir == workspace_dir or images_dir in workspace_dir.parents:
        raise ConfigError(
            f"{workspace_dir}: lies inside its folder of images {images_dir}, where its own files "
            "would be taken for a class; make the workspace elsewhere"
        )
