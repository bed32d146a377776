"""Which locks stand in a folder, who holds them, and which of them go together."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.storage import holders
from pipelines.storage.holders import Holder

WHOLE, PLAN, NEW, READ = ".lock", ".lock.plan", ".lock.new.", ".lock.read."
_SHARE = re.compile(r"\d+-of-(\d+)")
_OURS = re.compile(rf"\.lock(\.{_SHARE.pattern}|\.plan|\.(new|read)\.[0-9a-f]+)?")


@dataclasses.dataclass(frozen=True)
class Standing:
    """A lock whose holder is not known to be dead, and not silent.

    Attributes:
        name: of its file.
        holder: None where the file cannot be read.
        silent_s: since the last heartbeat.
        note: what the holder tells of its progress (see `Lock.note`), where it was asked for.
    """

    name: str
    holder: Holder | None
    silent_s: float
    note: Mapping[str, Any] | None = None

    @property
    def share(self) -> str:
        """What is held: "" for the whole, a share such as "3-of-8", "plan" or "read"."""
        return share_of(self.name)

    def __str__(self) -> str:
        who = self.holder or "cannot be read"
        return f"{self.name}: {who}, last heartbeat {self.silent_s:.0f} s ago"

    def excludes(self, name: str, holder: Holder) -> bool:
        """Tell whether `holder` cannot have the lock `name` as long as this one stands.

        The whole goes with nothing, a share with others of as many, planning with shares and for
        whoever holds the whole; and all of them with readers.
        """
        if self.holder == holder or self.name.startswith((NEW, READ)):
            return False
        if self.name == name:
            return True
        if PLAN in (self.name, name):
            is_own = self.holder is not None and self.holder.is_same_process(holder)
            return WHOLE in (self.name, name) and not is_own
        return WHOLE in (self.name, name) or num_shares(self.share) != num_shares(share_of(name))


def share_of(name: str) -> str:
    """Return what the lock of this name holds (see `Standing.share`)."""
    return name[len(WHOLE) + 1 :].partition(".")[0]


def num_shares(share: str) -> int | None:
    """Return of how many shares this is one; None where it is none."""
    found = _SHARE.fullmatch(share)
    return int(found[1]) if found else None


def look(
    folder: Path, now_s: float, silent_after_s: float
) -> Iterator[tuple[Path, Standing | None]]:
    """Give every lock in `folder`, with None for those of the dead and the silent.

    Args:
        folder: must be there.
        now_s: the time by the file system's clock.
        silent_after_s: without a heartbeat for so long, a lock holds nothing any more.
    """
    for path in sorted(folder.iterdir()):
        if not _OURS.fullmatch(path.name):
            continue
        try:
            with path.open("rb") as file:
                # Of the open file: NFS asks its server when a file is opened, not for every stat.
                silent_s = now_s - os.fstat(file.fileno()).st_mtime
                holder = holders.parse(file.read())
        except FileNotFoundError:
            continue
        # Far ahead is no heartbeat either: the clock was set back since.
        is_gone = abs(silent_s) > silent_after_s or (holder is not None and holder.is_dead())
        yield path, None if is_gone else Standing(path.name, holder, max(0.0, silent_s))
