"""Files that are whole or not there: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.errors import ManifestError, ShardError

_SUFFIX = ".tmp"


class HashingFile:
    """A binary file open for writing that counts and hashes what passes through.

    Attributes:
        size_bytes: bytes written so far.
        sha256: the running hash.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self.size_bytes = 0
        self.sha256 = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes-like `data`; returns its length."""
        view = memoryview(data).cast("B")
        if self._file is not None:
            self._file.write(view)
            self.sha256.update(view)
            self.size_bytes += view.nbytes
        return view.nbytes

    def abandon(self) -> None:
        """Drop whatever is still written: a Parquet writer writes its footer even when it dies."""
        self._file = None

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size_bytes

    def flush(self) -> None:
        """Hand buffered bytes to the operating system."""
        if self._file is not None:
            self._file.flush()

    def writable(self) -> bool:
        """Return True: pyarrow asks."""
        return True

    def readable(self) -> bool:
        """Return False: pyarrow asks."""
        return False

    def seekable(self) -> bool:
        """Return False: bytes only go forward, or the hash would lie."""
        return False

    def close(self) -> None:
        """Do nothing: `atomic_file` closes the file itself, after fsync."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[HashingFile]:
    """Open `path` for writing; it appears under its name only when the block ends without error.

    Raises:
        ShardError: the file system refuses (full, read-only, no such folder); nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            yield HashingFile(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _unlink(temporary)
        raise ShardError(
            f"{path}: cannot be written: {error.strerror or error}; "
            "mend that and run again: what is whole is kept"
        ) from error
    except BaseException:
        _unlink(temporary)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file durably (see `atomic_file`)."""
    with atomic_file(path) as file:
        file.write(data)


def update_bytes(path: Path, data: bytes) -> None:
    """Write a small file durably, unless it holds these bytes already."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def to_json(value: object) -> bytes:
    """Turn `value` into indented JSON with a stable key order."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as `to_json` gives it, durably."""
    write_bytes(path, to_json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file that this package wrote.

    Raises:
        ManifestError: it cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path}: cannot be read: {error}; delete it and run the stage again"
        ) from error


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents.

    Raises:
        ShardError: the file system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"{folder}: cannot be made: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> int:
    """Delete what killed attempts left in `folder` (not below it); returns how many files."""
    leftovers = [p for p in folder.glob(f".*{_SUFFIX}") if p.is_file()]
    for path in leftovers:
        _unlink(path)
    return len(leftovers)


@contextlib.contextmanager
def exclusive(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go when the process ends, however it ends.

    Args:
        folder: made when missing.
        wait: until another process lets go, for what takes a moment only.

    Raises:
        ManifestError: another process holds it.
        ShardError: the file system refuses.
    """
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((folder / ".lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ManifestError(
                f"{folder}: another command is at work here; wait for it or stop it"
            ) from None
        except OSError as error:
            raise ShardError(f"{folder}: cannot be locked: {error.strerror}") from error
        yield


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
