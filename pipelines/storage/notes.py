"""What a holder tells of its progress, beside its lock; whoever asks who is at work reads it.

    .lock.note.<token>        a few facts as a JSON object, from the holder of that token
    .lock.note.<token>.new    the same on its way there

A note is worth nothing that would have to be waited for: it is not fsynced, and a disk that refuses
it disturbs nobody.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipelines.storage import atomic

_PREFIX, _NEW = ".lock.note.", ".new"
_NAME = re.compile(rf"{re.escape(_PREFIX)}([0-9a-f]+)({re.escape(_NEW)})?")


class Note:
    """The note of one holder: kept in memory until its heartbeat writes it."""

    def __init__(self, folder: Path, token: str) -> None:
        self._path = folder / (_PREFIX + token)
        self._content = self._written = b""
        self._is_over = False
        self._mutex = threading.Lock()

    def set(self, facts: Mapping[str, Any]) -> None:
        """Take `facts` for the next `write`.

        Raises:
            TypeError: they hold what JSON cannot.
            ValueError: they hold a number that is not finite.
        """
        self._content = atomic.to_json(facts)

    def write(self) -> None:
        """Write what was set since the last time, if the disk lets it."""
        with self._mutex:
            content, new = self._content, self._path.with_name(self._path.name + _NEW)
            if self._is_over or content == self._written:
                return
            try:
                new.write_bytes(content)
                new.replace(self._path)
                self._written = content
            except OSError:
                _unlink(new)

    def delete(self) -> None:
        """Delete the note; nothing is written after that."""
        with self._mutex:  # not in the middle of a heartbeat
            self._is_over = True
            if self._written:
                _unlink(self._path)


def read(folder: Path, token: str) -> Mapping[str, Any] | None:
    """Return what the holder of a token tells; None where it tells nothing that can be read."""
    try:
        value = json.loads((folder / (_PREFIX + token)).read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sweep(folder: Path, tokens: Collection[str]) -> None:
    """Delete the notes, and what is on its way to be one, of all but the holders of `tokens`."""
    for path in folder.glob(f"{_PREFIX}*"):
        found = _NAME.fullmatch(path.name)
        if found and found[1] not in tokens:
            _unlink(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
