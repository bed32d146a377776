"""Pieces tried in processes of their own, in halves, until what ends a process is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import TypeVar

from pipelines.execution import spawning
from pipelines.execution.engine import Job, Piece, Slot
from pipelines.execution.spawning import Spawned

ItemT = TypeVar("ItemT")
_TRIES = 3  # somebody else may end a process, too
_OPEN_S = 600.0
_HANG_S = 60.0  # at most, of a part: there are many, each with a sign of life an item


def ending_of(job: Job, slot: Slot, hang_s: float, piece: Piece, is_alone: bool) -> str | None:
    """Try a piece in a new process; return how it ended that, None where it did not.

    An exception is no end: who raises it is alive. Nor is it the piece's doing when the process
    ends before it has the piece.

    Args:
        job: what the process opens.
        slot: its place.
        hang_s: seconds without a sign of life that a crew allows; 0 for any time.
        piece: what is tried; it writes nothing that stays.
        is_alone: whether it is of one item, which may take that long, or one of many parts.
    """
    limit_s = hang_s if is_alone else min(hang_s, _HANG_S)
    for _ in range(_TRIES):
        spawned = Spawned(job, slot)
        try:
            how = _try(spawned, piece, limit_s)
        finally:
            spawning.end_all([spawned])
        if how is None or (spawned.hand and spawned.is_own_fault):
            return how
    return None


def _try(spawned: Spawned, piece: Piece, hang_s: float) -> str | None:
    while True:
        limit = (hang_s if spawned.hand else _OPEN_S) or None
        found = wait([spawned.connection, spawned.words], limit)
        if not found:
            spawned.kill_hanging()
        if spawned.words in found and not spawned.listen():
            spawned.connection.poll(hang_s or None)  # it is about to end
        if found and spawned.connection not in found:
            continue
        message = spawned.receive()
        if message is None:
            return spawned.bury()
        if message[0] == "want" and not spawned.hand:
            spawned.give(piece)
        elif message[0] in ("done", "failed", "lost"):
            return None


def find(items: Sequence[ItemT], ends: Callable[[Sequence[ItemT]], str | None]) -> dict[int, str]:
    """Find which items end a process, by halving; they may be several.

    Args:
        items: to look through.
        ends: how a process ends that tries these, None where it does not.

    Returns:
        The position of each item that does so alone, twice, and how.
    """
    found: dict[int, str] = {}
    waiting = [range(len(items))] if items else []
    while waiting:
        part = waiting.pop()
        how = ends([items[i] for i in part])
        if how is None:
            continue
        if len(part) > 1:
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
        elif ends([items[part[0]]]):
            found[part[0]] = how
    return dict(sorted(found.items()))
