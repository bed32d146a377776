"""Who is at work in a folder: locks with a heartbeat, which hold across hosts and outlive no kill.

    .lock, .lock.3-of-8    someone works on all of the folder, on a share of it
    .lock.plan             someone plans what is to be made here
    .lock.read.<token>     someone reads what lies here
    .lock.new.<token>      one of these on its way to its name
    .lock.note.<token>     what the holder of that token tells of its progress (see `notes`)
    .lock.guard            empty, and stays: flock on it makes one step of looking and taking

The whole goes with nothing but readers, a share with the others of as many. One process at a time
plans, beside those at work on shares, or as the one that holds the whole.

A holder that is known to be dead, which only its own machine can tell, holds nothing any more; nor
does one that has been silent for `SILENT_S` by the file system's clock. Should that one come back,
`Lock.check` tells it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic, holders, notes
from pipelines.storage.holders import Holder
from pipelines.storage.standing import NEW, PLAN, READ, WHOLE, Standing, look, num_shares

SILENT_S = 60.0
HEARTBEAT_S = 5.0
_POLL_S = 0.02
_PLAN_POLL_S = 2.0  # at most: a plan may take minutes, and each look writes to a shared disk
_GUARD = ".lock.guard"


class Lock:
    """A lock that is held; a thread touches it until it is let go or taken over."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path, self._holder, self._lost = path, holder, ""
        self._note = notes.Note(path.parent, holder.token)
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

    def note(self, facts: Mapping[str, Any]) -> None:
        """Tell others how far this holder is, such as {"num_done": 120, "num_total": 600}.

        Kept in memory, and written with the next heartbeat; see `standing` for who reads it.

        Raises:
            TypeError: the facts hold what JSON cannot.
            ValueError: they hold a number that is not finite.
        """
        self._note.set(facts)

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a file server that stumbles: the next one counts
                self._touch()
            if not self._lost:
                self._note.write()
        if self._lost:
            self._note.delete()

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
            self._note.delete()
            with contextlib.suppress(OSError):
                _unlink_own(self._path, self._holder)


@contextlib.contextmanager
def hold(folder: Path, *, share: str = "", wait: bool = False) -> Iterator[Lock]:
    """Hold `folder` for this process; the whole goes with no share, a share with others of as many.

    Args:
        folder: made when missing.
        share: of the work in it, such as "3-of-8"; empty for the whole.
        wait: until others let go, for what takes a moment only.

    Raises:
        ManifestError: another process holds it, or a share of another number of shares.
        ShardError: the file system refuses.
    """
    if share and num_shares(share) is None:
        raise ValueError(f"share {share!r}: expected one such as '3-of-8'")
    atomic.make_folder(folder)
    while isinstance(lock := _take(folder, f"{WHOLE}.{share}" if share else WHOLE), Standing):
        if not wait:
            raise ManifestError(_refusal(folder, share, lock))
        time.sleep(_POLL_S)
    with _letting_go(folder, lock):
        yield lock


@contextlib.contextmanager
def planning(folder: Path, on_wait: Callable[[str], None] = lambda words: None) -> Iterator[Lock]:
    """Be the only one to plan what is made in `folder`; waits for another one that plans.

    Goes beside shares, and for the process that holds the whole. Look for a plan in the block, not
    before: the one that was waited for has published it. Who plans in several folders takes them in
    the same order as all others, or two wait for each other.

    Args:
        folder: made when missing.
        on_wait: told in words, once, who is waited for.

    Raises:
        ManifestError: another process holds the whole.
        ShardError: the file system refuses.
    """
    atomic.make_folder(folder)
    pause_s = 0.0
    while isinstance(lock := _take(folder, PLAN), Standing):
        if lock.name != PLAN:
            raise ManifestError(_refusal(folder, "", lock))
        if not pause_s:
            on_wait(f"{folder}: waiting for another command that plans here ({lock})")
        pause_s = min(_PLAN_POLL_S, 2 * pause_s or _POLL_S)
        time.sleep(pause_s)
    with _letting_go(folder, lock):
        yield lock


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[list[Lock]]:
    """Say that this process reads in `folder`, from before it looks what is there.

    Gives the mark, whose `check` tells when it was taken for dead; none where nothing can be
    written, so that nobody need know.
    """
    with contextlib.ExitStack() as stack:
        marks = []
        with contextlib.suppress(OSError), _new(folder) as (new, holder, _):
            marks.append(Lock(new.rename(new.with_name(READ + holder.token)), holder))
            stack.callback(marks[0].release)
        yield marks


def are_held(held: Sequence[Lock]) -> bool:
    """Tell whether this process still holds all of these."""
    try:
        check_all(held)
    except (ManifestError, ShardError):
        return False
    return True


def check_all(held: Sequence[Lock]) -> None:
    """Make sure that this process still holds all of these (see `Lock.check`)."""
    for lock in held:
        lock.check()


def check_alone(folder: Path) -> None:
    """Make sure that nobody else works or reads in `folder`, before its content goes.

    Call it under `hold`; who plans there is this process.

    Raises:
        ManifestError: someone does.
        ShardError: the file system refuses.
    """
    with _alone(folder), _new(folder) as (_, this, now_s):
        found = [other for other in _held(folder, now_s) if not other.name.startswith(NEW)]
    for other in found:
        is_own = other.holder is not None and other.holder.is_same_process(this)
        if other.name.startswith(READ) or not (is_own or other.name == PLAN):
            does = "reads" if other.name.startswith(READ) else "is at work"
            raise ManifestError(
                f"{folder}: another command {does} here ({other}); wait for it or stop it"
            )


def standing(folder: Path) -> list[Standing]:
    """List who holds what in `folder`, and what they note; nothing is written there.

    For who only wants to know: the file system's clock cannot be asked without writing, so that a
    clock of this host that is wrong by a minute takes the living for silent.

    Raises:
        ShardError: the file system refuses.
    """
    try:
        every = [found for _, found in look(folder, time.time(), SILENT_S) if found]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ShardError(f"{folder}: cannot be read: {error.strerror}") from error
    return [
        dataclasses.replace(found, note=notes.read(folder, found.holder.token))
        if found.holder
        else found
        for found in sorted(every, key=lambda found: (len(found.name), found.name))
        if not found.name.startswith(NEW)
    ]


def _refusal(folder: Path, share: str, other: Standing) -> str:
    """Say why a lock cannot be had, and what to do."""
    wanted, at_work = num_shares(share), num_shares(other.share)
    if wanted and at_work and wanted != at_work:
        return (
            f"{folder}: share {share} was asked for, and share {other.share} is at work ({other}); "
            "shares with different --num-tasks may not run at the same time; "
            f"wait for them, or give the same --num-tasks {at_work}"
        )
    return f"{folder}: another command is at work here ({other}); wait for it or stop it"


def _take(folder: Path, name: str) -> Lock | Standing:
    """Take a lock; returns who is in the way where that cannot be."""
    with _alone(folder), _new(folder) as (new, holder, now_s):
        path = new.with_name(name)
        while not (other := _in_the_way(folder, name, holder, now_s)):
            try:
                os.link(new, path)  # alone there, even if the guard should be none
            except FileExistsError:
                continue
            except OSError:  # a file system without links
                new.replace(path)
            # Where the guard is none, one that goes not with this may have come in between.
            if other := _in_the_way(folder, name, holder, now_s):
                _unlink_own(path, holder)
                return other
            return Lock(path, holder)
        return other


def _in_the_way(folder: Path, name: str, holder: Holder, now_s: float) -> Standing | None:
    """Find a lock that goes not with this one; sweep what the dead and the silent left."""
    found = _held(folder, now_s)
    notes.sweep(folder, {other.holder.token for other in found if other.holder})
    return next((other for other in found if other.excludes(name, holder)), None)


def _held(folder: Path, now_s: float) -> list[Standing]:
    """List the locks in `folder`, and delete those of the dead and the silent."""
    held = []
    for path, found in look(folder, now_s, SILENT_S):
        if found:
            held.append(found)
        else:
            path.unlink(missing_ok=True)
    return held


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[tuple[Path, Holder, float]]:
    """Write a lock under a passing name; yields it, its holder and the file system's time.

    A new name in the folder also makes an NFS client ask its server anew for the others.
    """
    holder = holders.this_process()
    path = folder.absolute() / (NEW + holder.token)
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


@contextlib.contextmanager
def _letting_go(folder: Path, lock: Lock) -> Iterator[None]:
    """Let go of a lock when the block ends, however it ends."""
    try:
        yield
    finally:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ShardError):
                stack.enter_context(_alone(folder))
            lock.release()


def _unlink_own(path: Path, holder: Holder) -> None:
    """Delete a lock, unless it is another's by now."""
    if holders.parse(path.read_bytes()) == holder:
        path.unlink()


def _alone(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Look and take in one step; whoever has the guard for longer than that is suspended, too."""
    return atomic.alone(folder, _GUARD, wait_s=SILENT_S)
