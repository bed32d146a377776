"""Labelled images in: class folders, a list file, or the packaged solar cells, as columns.

Nothing is opened or decoded here; a file is an image candidate whatever its name ends in.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SourceError
from pipelines.images.lists import (
    LIST_SUFFIXES,
    SPLIT_CODES,
    Listing,
    read_class_list,
    read_elpv_labels,
    read_list,
    sort_names,
)
from pipelines.images.splits import NO_SPLIT, SPLITS, TRAIN

_LITTER = frozenset({"thumbs.db", "desktop.ini"})
_DIGEST_ROWS = 10_000
_logger = logging.getLogger(__name__)
Problems = list[tuple[str, str]]


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
        kind, (root, listing, problems) = "elpv", _open_elpv()
    elif path.is_dir():
        kind, (root, listing, problems) = "folders", _open_folders(path)
    elif not path.exists():
        raise SourceError(
            f"{path}: does not exist; expected a folder with a folder for each class, "
            f"a {', '.join(LIST_SUFFIXES)} list, or the word elpv"
        )
    elif path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        kind, (root, listing, problems) = "list", _open_listed(path.parent, read_list(path))
    else:
        raise SourceError(
            f"{path}: not a folder, and not a list by its name; "
            f"expected a file that ends in {', '.join(LIST_SUFFIXES)}"
        )
    listing = _with_classes(path, listing, base_dir / classes_path if classes_path else None)
    _check_classes(path, listing, problems)
    return Source(kind, root, listing.names, _to_table(listing), tuple(sorted(problems)))


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


def _open_elpv() -> tuple[Path, Listing, Problems]:
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            "elpv: the package elpv-dataset is not installed; run pip install 'bottleneck[demo]'"
        )
    root = Path(spec.submodule_search_locations[0]) / "data"
    return _open_listed(root, read_elpv_labels(root / "labels.csv"))


def _open_listed(root: Path, listing: Listing) -> tuple[Path, Listing, Problems]:
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
                problems.append((image_id, _reason(error)))
            row += 1
    if problems:
        mask = pa.array(is_file)
        ids = listing.ids.filter(mask)
        listing = Listing(ids, listing.labels[is_file], listing.names, listing.splits[is_file])
    return root, listing, problems


def _open_folders(root: Path) -> tuple[Path, Listing, Problems]:
    """List `<class>/*` or `<split>/<class>/*`."""
    problems: Problems = []
    names: dict[str, int] = {}
    ids: list[pa.Array] = []
    labels: list[np.ndarray] = []
    splits: list[np.ndarray] = []
    for prefix, code in _split_folders(root):
        folder = root / prefix
        above = {_identity(root), _identity(folder)}
        for name in _class_folders(folder):
            found, wrong = _walk(os.path.join(folder, name), prefix + name, above)  # noqa: PTH118
            if not found:
                why = f" (first of {len(wrong)}: {': '.join(wrong[0])})" if wrong else ""
                raise SourceError(
                    f"{folder / name}: class folder without any image{why}; "
                    "put images there or remove the folder"
                )
            problems += wrong
            ids.append(pa.array(found, type=pa.string()))
            labels.append(np.full(len(found), names.setdefault(name, len(names)), dtype=np.int32))
            splits.append(np.full(len(found), code, dtype=np.int8))
    return (
        root,
        Listing(
            pa.chunked_array(ids), np.concatenate(labels), tuple(names), np.concatenate(splits)
        ),
        problems,
    )


def _split_folders(root: Path) -> list[tuple[str, int]]:
    """Give prefix and split of the folders that hold class folders."""
    names = _class_folders(root)
    codes = [SPLIT_CODES.get(name.lower()) for name in names]
    given = {code for code in codes if code is not None}
    if None not in codes:
        if len(given) < len(codes):
            raise SourceError(
                f"{root}: two folders mean one split, found {', '.join(names)}; "
                "keep one of val and validation"
            )
        return [(f"{name}/", SPLIT_CODES[name.lower()]) for name in names]
    if len(given) > 1:
        others = [name for name, code in zip(names, codes, strict=True) if code is None]
        raise SourceError(
            f"{root}: splits and other folders ({_few(others)}) side by side; "
            "move the others out, or name another folder"
        )
    return [("", NO_SPLIT)]


def _class_folders(folder: Path) -> list[str]:
    """Name the folders in a folder, sorted; at least one."""
    names: list[str] = []
    strays: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _is_litter(entry.name):
                    (names if _kind_of(entry) == "folder" else strays).append(entry.name)
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {_reason(error)}") from error
    if not names:
        found = f"{len(strays)} files but no class folders" if strays else "nothing in it"
        raise SourceError(
            f"{folder}: {found}; expected a folder for each class with its images, "
            f"or name a {', '.join(LIST_SUFFIXES)} list instead"
        )
    for name in names:
        if not _is_utf8(name):
            raise SourceError(f"{folder}: class folder {_shown(name)} is not UTF-8; rename it")
    if strays:
        _logger.warning(
            "%s: %d files beside the class folders are left out, the first is %s",
            folder,
            len(strays),
            _shown(min(strays)),
        )
    return sorted(names)


def _walk(top: str, prefix: str, above: set[tuple[int, int]]) -> tuple[list[str], Problems]:
    """Find the files below a class folder; links to folders are followed once each, last."""
    ids: list[str] = []
    problems: Problems = []
    seen = set(above)
    folders = [(top, prefix)]
    links: list[tuple[str, str]] = []
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        folder, prefix = folders.pop()
        inner: list[tuple[str, str]] = []
        try:
            identity = _identity(folder)
            if identity in seen:
                problems.append((_shown(prefix), "link to a folder that is listed already"))
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_litter(entry.name):
                        continue
                    image_id = f"{prefix}/{entry.name}"
                    kind = _kind_of(entry)
                    if kind == "file" and _is_utf8(image_id):
                        ids.append(image_id)
                    elif kind == "file":
                        problems.append((_shown(image_id), "name is not UTF-8; rename it"))
                    elif kind == "folder":
                        (links if entry.is_symlink() else inner).append((entry.path, image_id))
                    else:
                        problems.append((_shown(image_id), kind))
        except OSError as error:
            problems.append((_shown(prefix), _reason(error)))
        folders += sorted(inner, reverse=True)
    return ids, problems


def _kind_of(entry: os.DirEntry[str]) -> str:
    """Tell "file" or "folder", behind links too, or else what is wrong with the entry."""
    try:
        # These two ask the system again only for links.
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        entry.stat()
    except FileNotFoundError:
        return "link to nothing" if entry.is_symlink() else "vanished while listing"
    except OSError as error:
        return _reason(error)
    return "not a regular file"


def _with_classes(path: Path, listing: Listing, classes_path: Path | None) -> Listing:
    """Give the classes their final order."""
    classes = read_class_list(classes_path) if classes_path else sort_names(listing.names)
    unknown = sorted(set(listing.names) - set(classes))
    missing = [name for name in classes if name not in set(listing.names)]
    if unknown or missing:
        found, lacking = f"classes it does not name: {_few(unknown)}", f"none of {_few(missing)}"
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
            f"{path}: no file found for the images of {_few(bare)}, of {len(listing.names)} "
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
            f"{path}: no images in train for {_few(bare)}, only in val or test; "
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


def _identity(folder: str | Path) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _is_utf8(name: str) -> bool:
    # Names that are not come from the system with surrogates in them (PEP 383).
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _reason(error: OSError | ValueError) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
