"""Files that are whole or not there: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.errors import ManifestError, ShardError

_SUFFIX = ".tmp"
_LEFTOVER = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.tmp")  # of a temporary name: its file's
_POLL_S = 0.02


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
        self._hashers = [self.sha256]
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes-like `data`; returns its length."""
        view = memoryview(data).cast("B")
        if self._file is not None:
            self._file.write(view)
            self.size_bytes += view.nbytes
            for hasher in self._hashers:
                hasher.update(view)
        return view.nbytes

    def also_into(self, hasher: hashlib._Hash) -> None:
        """Feed what is written from here on to one more hash."""
        self._hashers.append(hasher)

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
    """Write a small file durably (see `atomic_file`).

    Once more where another start, which cannot know whose it is, has swept it away half written.
    """
    for is_last in (False, True):
        try:
            with atomic_file(path) as file:
                file.write(data)
            return
        except ShardError as error:
            is_swept = isinstance(error.__cause__, FileNotFoundError) and path.parent.is_dir()
            if is_last or not is_swept:
                raise


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


def read_json(path: Path, mend: str = "delete it and run the stage again") -> Any:
    """Read a JSON file that this package wrote.

    Args:
        path: the file.
        mend: what the user can do, for the message.

    Raises:
        ManifestError: it cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}; {mend}") from error


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


def sweep(folder: Path, names: Container[str] | None = None) -> int:
    """Delete what killed attempts left in `folder` (not below it); returns how many files.

    Args:
        folder: may be missing.
        names: only of attempts at these files; None for all, where nobody else writes.
    """
    leftovers = [p for p in folder.glob(f".*{_SUFFIX}") if p.is_file()]
    if names is not None:
        targets = [(p, _LEFTOVER.fullmatch(p.name)) for p in leftovers]
        leftovers = [p for p, target in targets if target and target[1] in names]
    for path in leftovers:
        _unlink(path)
    return len(leftovers)


@contextlib.contextmanager
def alone(folder: Path, name: str, *, wait_s: float) -> Iterator[None]:
    """Run the block beside no other that is alone with this folder and name, in any process.

    Where the file system knows no flock, and after `wait_s`, the block runs all the same.

    Args:
        folder: must be there.
        name: of an empty file in it, which stays.
        wait_s: for how long to wait for another; a block is to take a moment only.

    Raises:
        ShardError: the file system refuses, here or in the block.
    """
    try:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + wait_s
            with contextlib.suppress(OSError):
                while not _flock(descriptor) and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
            yield
        finally:
            with contextlib.suppress(OSError):  # by hand: a forked child has the descriptor, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
    except OSError as error:
        raise ShardError(f"{folder}: cannot be locked: {error.strerror}") from error


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
