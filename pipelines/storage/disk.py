"""Whether a folder's file system does what shards, receipts and locks rely on.

Most do. On one that does not, which a network or a container may lend, files would be lost or two
processes would hold one lock, hours later. Locks on open files (flock) are not asked for: `locks`
does without them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ShardError
from pipelines.storage import atomic

_PREFIX = ".disk."
_OURS = re.compile(rf"{re.escape(_PREFIX)}[0-9a-f]+")
_OLD_S = 60.0
_CLOCK_S = 3.0  # FAT counts in steps of two seconds, most file systems in a few milliseconds
_POLL_S = 0.001
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # at any step; says nothing of what it can do


@dataclass(frozen=True)
class Operations:
    """What is asked of a file system.

    Attributes:
        create: makes an empty file of a new name; FileExistsError where it is taken.
        replace: renames a file over another one.
        touch: gives a file the time of now.
        sync: makes the names in a folder survive a power failure.
    """

    create: Callable[[Path], object] = lambda path: path.touch(exist_ok=False)
    replace: Callable[[Path, Path], object] = os.replace
    touch: Callable[[Path], object] = os.utime
    sync: Callable[[Path], object] = atomic.sync_folder


def check_disk(folder: Path, operations: Operations | None = None) -> None:
    """Make sure, in a few milliseconds, that what is written to `folder` will be safe there.

    Leaves nothing behind; what a killed one left is swept.

    Args:
        folder: must be there.
        operations: of this folder's file system, where they are not those of this machine.

    Raises:
        ShardError: something does not work, or nothing can be written; says what to do.
    """
    place = folder / f"{_PREFIX}{secrets.token_hex(8)}"
    try:
        place.mkdir()
        _sweep(folder, place.stat().st_mtime)
        for works, fault in _STEPS:
            _ask(works, fault, place, operations or Operations())
    except OSError as error:
        raise ShardError(
            f"{folder}: cannot be written: {error.strerror}; mend that and run again: "
            "what is whole is kept"
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _sweep(folder: Path, now_s: float) -> None:
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another's, which has just ended
            if _OURS.fullmatch(path.name) and now_s - path.stat().st_mtime > _OLD_S:
                shutil.rmtree(path, ignore_errors=True)


def _ask(
    works: Callable[[Path, Operations], bool], fault: str, place: Path, operations: Operations
) -> None:
    """Try one thing out.

    Raises:
        ShardError: the file system cannot do it.
        OSError: it can do nothing now, being full or read-only.
    """
    reason = ""
    try:
        if works(place, operations):
            return
    except OSError as error:
        if error.errno in _REFUSED:
            raise
        reason = f" ({error.strerror})"
    raise ShardError(
        f"{place.parent}: on this file system {fault}{reason}; "
        "put the workspace on another one, such as a local disk or NFS"
    )


def _creates_alone(place: Path, operations: Operations) -> bool:
    operations.create(place / "taken")
    try:
        operations.create(place / "taken")
    except FileExistsError:
        return True
    return False


def _replaces_whole(place: Path, operations: Operations) -> bool:
    old, new = place / "old", place / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"the new one")
    operations.replace(new, old)
    return old.read_bytes() == b"the new one" and not new.exists()


def _touches(place: Path, operations: Operations) -> bool:
    path = place / "touched"
    path.touch()
    operations.touch(path)
    first_ns, deadline_s = path.stat().st_mtime_ns, time.monotonic() + _CLOCK_S
    while path.stat().st_mtime_ns <= first_ns:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
        operations.touch(path)
    return True


def _syncs(place: Path, operations: Operations) -> bool:
    operations.sync(place)
    return True


_STEPS = (
    (_creates_alone, "a name that is taken can be created again"),
    (_replaces_whole, "a file renamed over another does not take its place at once"),
    (_touches, "a file that is touched keeps its old time"),
    (_syncs, "a folder cannot be made durable with fsync"),
)
