"""Beginning to work in folders: nobody else plans there meanwhile, then each has its share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage import locks
from pipelines.storage.disk import check_disk
from pipelines.storage.locks import Lock


@dataclass(frozen=True)
class Holding:
    """What a start holds.

    Attributes:
        held: a lock for each folder.
        planned: call it when the plans are published: others may come in.
    """

    held: Sequence[Lock]
    planned: Callable[[], None]


@contextlib.contextmanager
def begun(folders: Sequence[Path], share: str, say: Callable[[str], None]) -> Iterator[Holding]:
    """Hold folders, or a share of the work in each, and be the only one that plans there.

    Args:
        folders: made when missing.
        share: such as "3-of-8"; empty for all of the work.
        say: told in words who is waited for.

    Raises:
        ManifestError: another command is at work that does not go with this one.
        ShardError: the file system refuses.
    """
    with contextlib.ExitStack() as kept, planning(folders, say) as plans:
        held = [kept.enter_context(locks.hold(folder, share=share)) for folder in folders]
        for folder in folders:
            check_disk(folder)
        yield Holding(held, plans.close)


@contextlib.contextmanager
def planning(folders: Sequence[Path], say: Callable[[str], None]) -> Iterator[contextlib.ExitStack]:
    """Be the only one that plans in several folders; gives what ends that before the block does."""
    with contextlib.ExitStack() as plans:
        for folder in sorted(folders):  # all take them in one order, so that none waits in a ring
            plans.enter_context(locks.planning(folder, say))
        yield plans
