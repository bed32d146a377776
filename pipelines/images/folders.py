"""Class folders as a listing: `<class>/*`, or `<split>/<class>/*`.

Every file counts, whatever its name ends in; litter of desktops and hidden entries do not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.errors import SourceError
from pipelines.images.lists import LIST_SUFFIXES, SPLIT_CODES, Listing
from pipelines.images.splits import NO_SPLIT

_LITTER = frozenset({"thumbs.db", "desktop.ini"})
_logger = logging.getLogger(__name__)
Problems = list[tuple[str, str]]


def read_folders(root: Path) -> tuple[Listing, Problems]:
    """List the files below class folders; links are followed, to each folder once.

    Args:
        root: a folder of class folders, or of folders named train, val or validation, and test
            that hold class folders. Files beside class folders are left out with a warning.

    Returns:
        The rows, with ids relative to `root`, and (id, reason) of entries that are no rows. Class
        folders come sorted; the order inside one is the file system's.

    Raises:
        SourceError: the folders have another shape, or a class folder holds no image.
    """
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
    listing = Listing(
        pa.chunked_array(ids), np.concatenate(labels), tuple(names), np.concatenate(splits)
    )
    return listing, problems


def reason_of(error: OSError | ValueError) -> str:
    """Say in a few words what the system refused, to stand behind a path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def first_few(names: Iterable[str]) -> str:
    """Quote the first three names for a message, and count the others."""
    names = list(names)
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


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
            f"{root}: splits and other folders ({first_few(others)}) side by side; "
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
        raise SourceError(f"{folder}: cannot be listed: {reason_of(error)}") from error
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
            problems.append((_shown(prefix), reason_of(error)))
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
        return reason_of(error)
    return "not a regular file"


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
