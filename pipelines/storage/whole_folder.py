"""Folders that are whole or not there: written beside their place under another name, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import ShardError
from pipelines.storage.atomic import make_folder, sync_folder

_SUFFIX = ".folder.tmp"


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `path` when the block ends without error.

    What killed attempts at `path` left is deleted first; what is at `path` goes last. A kill in
    between, of two renames, leaves nothing there, never a part.

    Args:
        path: of the folder; one that is there is replaced with all that it holds.

    Raises:
        ShardError: the file system refuses; `path` is as it was.
    """
    make_folder(path.parent)
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
    try:
        temporary.mkdir()
        with _held(temporary):
            yield temporary
            _sync_all(temporary)
            _replace(path, temporary)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ShardError(
            f"{path}: cannot be written: {error.strerror or error}; mend that and run again"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _replace(path: Path, temporary: Path) -> None:
    """Move the old folder away, the new one to its place, and delete the old one."""
    old = temporary.with_name(f"{temporary.name.removesuffix(_SUFFIX)}.old{_SUFFIX}")
    if path.exists():
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_all(folder: Path) -> None:
    """Make all files of a folder, and their names, survive a power failure."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def _sweep(path: Path) -> None:
    """Delete what attempts left whose processes have ended: nobody holds those any more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        with contextlib.suppress(OSError), _held(left) as is_ours:
            if is_ours:
                shutil.rmtree(left)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a folder for as long as this process lives and the block runs.

    Gives whether it is held: not where another process does, nor where there are no such locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_held = True
    except OSError:
        is_held = False
    try:
        yield is_held
    finally:
        os.close(descriptor)
