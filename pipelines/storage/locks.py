"""Who is at work in a folder: locks with a heartbeat, which hold across hosts and outlive no kill.

    .lock, .lock.3-of-8   someone works on all of the folder, on a share of it
    .lock.read.<token>    someone reads what lies here
    .lock.new.<token>     one of these on its way to its name
    .lock.guard           empty, and stays: flock on it makes one step of looking and taking

A holder that is known to be dead, which only its own machine can tell, holds nothing any more; nor
does one that has been silent for `SILENT_S` by the file system's clock. Should that one come back,
`Lock.check` tells it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic, holders
from pipelines.storage.holders import Holder

SILENT_S = 60.0
HEARTBEAT_S = 5.0
_POLL_S = 0.02
_GUARD, _WHOLE, _NEW, _READ = ".lock.guard", ".lock", ".lock.new.", ".lock.read."
_SHARE = re.compile(r"\d+-of-\d+")
_OURS = re.compile(rf"\.lock(\.{_SHARE.pattern}|\.(new|read)\.[0-9a-f]+)?")


class Lock:
    """A lock that is held; a thread touches it until it is let go or taken over."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path, self._holder, self._lost = path, holder, ""
        self._touched_s = time.time()
        self._ended = threading.Event()
        threading.Thread(target=self._keep, name=f"heartbeat {path}", daemon=True).start()

    def check(self) -> None:
        """Make sure that this process still holds the lock; for the moment before a receipt.

        Raises:
            ManifestError: another took it over while this process was suspended, or it is gone.
            ShardError: the file system refuses.
        """
        with _alone(self._path.parent):  # not between another's looking and taking
            self._touch()
        if self._lost:
            raise ManifestError(self._lost)

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a file server that stumbles: the next one counts
                self._touch()

    def _touch(self) -> None:
        holder = None
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            holder = holders.parse(file.read())
            if holder == self._holder:
                os.utime(file.fileno())  # of this very file, whatever bears its name by now
                self._touched_s = time.time()
                return
        self._lost = self._lost or (
            f"{self._path}: {f'was taken over by {holder}' if holder else 'is gone'}; this process "
            f"had been silent for {time.time() - self._touched_s:.0f} s; "
            "run again: what is whole is kept"
        )

    def release(self) -> None:
        """Let go, unless another holds it now, or this is a child that was forked meanwhile."""
        if self._holder.pid == os.getpid():
            self._ended.set()
            with contextlib.suppress(OSError):
                if holders.parse(self._path.read_bytes()) == self._holder:
                    self._path.unlink()


@contextlib.contextmanager
def hold(folder: Path, *, share: str = "", wait: bool = False) -> Iterator[Lock]:
    """Hold `folder` for this process; the whole goes with no share, a share with other shares.

    Args:
        folder: made when missing.
        share: of the work in it, such as "3-of-8"; empty for the whole.
        wait: until others let go, for what takes a moment only.

    Raises:
        ManifestError: another process holds it.
        ShardError: the file system refuses.
    """
    if share and not _SHARE.fullmatch(share):
        raise ValueError(f"share {share!r}: expected one such as '3-of-8'")
    atomic.make_folder(folder)
    while isinstance(lock := _take(folder, f"{_WHOLE}.{share}" if share else _WHOLE), str):
        if not wait:
            raise ManifestError(
                f"{folder}: another command is at work here ({lock}); wait for it or stop it"
            )
        time.sleep(_POLL_S)
    try:
        yield lock
    finally:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ShardError):
                stack.enter_context(_alone(folder))
            lock.release()


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[list[Lock]]:
    """Say that this process reads in `folder`, from before it looks what is there.

    Gives the mark, whose `check` tells when it was taken for dead; none where nothing can be
    written, so that nobody need know.
    """
    with contextlib.ExitStack() as stack:
        marks = []
        with contextlib.suppress(OSError), _new(folder) as (new, holder, _):
            marks.append(Lock(new.rename(new.with_name(_READ + holder.token)), holder))
            stack.callback(marks[0].release)
        yield marks


def check_all(held: Sequence[Lock]) -> None:
    """Make sure that this process still holds all of these (see `Lock.check`)."""
    for lock in held:
        lock.check()


def check_unread(folder: Path) -> None:
    """Make sure that nobody reads in `folder`; call it under `hold`, before its content goes.

    Raises:
        ManifestError: someone does.
        ShardError: the file system refuses.
    """
    with _alone(folder), _new(folder) as (_, _, now_s):
        readers = [who for name, who in _standing(folder, now_s).items() if name.startswith(_READ)]
    if readers:
        raise ManifestError(
            f"{folder}: another command reads here ({readers[0]}); wait for it or stop it"
        )


def _take(folder: Path, name: str) -> Lock | str:
    """Take a lock; returns who is in the way where that cannot be."""
    with _alone(folder), _new(folder) as (new, holder, now_s):
        for other, who in _standing(folder, now_s).items():
            if not other.startswith((_NEW, _READ)) and (_WHOLE in (name, other) or name == other):
                return who
        try:
            os.link(new, new.with_name(name))  # alone there, even if the guard should be none
        except FileExistsError:
            return "it began at this moment"
        except OSError:  # a file system without links
            new.replace(new.with_name(name))
        return Lock(new.with_name(name), holder)


def _standing(folder: Path, now_s: float) -> dict[str, str]:
    """Say who holds each lock in `folder`, and delete those of the dead and the silent."""
    found = {}
    for path in sorted(folder.iterdir()):
        if not _OURS.fullmatch(path.name):
            continue
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            # Of the open file: NFS asks its server when a file is opened, not for every stat.
            silent_s = now_s - os.fstat(file.fileno()).st_mtime
            holder = holders.parse(file.read())
            # Far ahead is no heartbeat either: the clock was set back since.
            if abs(silent_s) > SILENT_S or (holder is not None and holder.is_dead()):
                path.unlink()
                continue
            who = holder or "cannot be read"
            found[path.name] = f"{path.name}: {who}, last heartbeat {max(0, silent_s):.0f} s ago"
    return found


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[tuple[Path, Holder, float]]:
    """Write a lock under a passing name; yields it, its holder and the file system's time.

    A new name in the folder also makes an NFS client ask its server anew for the others.
    """
    holder = holders.this_process()
    path = folder.absolute() / (_NEW + holder.token)
    try:
        with path.open("xb") as file:
            file.write(holder.to_bytes())
            file.flush()
            os.fsync(file.fileno())
            os.utime(file.fileno())
            now_s = os.fstat(file.fileno()).st_mtime
        yield path, holder, now_s
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _alone(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Look and take in one step; whoever has the guard for longer than that is suspended, too."""
    return atomic.alone(folder, _GUARD, wait_s=SILENT_S)
