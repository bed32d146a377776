"""What callers ask of a cache, checked before anything is read: what is wrong is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.errors import ConfigError

ALL = "all"


def branches(asked: str | Sequence[str], known: Sequence[str], path: Path) -> tuple[str, ...]:
    """Turn "all", a name or several into names in the cache's order.

    Raises:
        ConfigError: one is not in the cache, or there is none.
    """
    names = [asked] if isinstance(asked, str) else list(asked)
    if names == [ALL]:
        return tuple(known)
    for name in names:
        if name not in known:
            raise ConfigError(f"{path}: no branch {name}; it has {', '.join(known)}")
    if not names:
        raise ConfigError(f"{path}: no branch is named; choose from {', '.join(known)}, or {ALL}")
    return tuple(name for name in known if name in names)


def rows(asked: np.ndarray, num_rows: int, path: Path) -> np.ndarray:
    """Return the numbers of the wanted images, int64, in rising order.

    Raises:
        ConfigError: they are no whole numbers, not all there, or one is there twice.
    """
    asked = np.asarray(asked)
    if asked.size and asked.dtype.kind not in "iu":
        raise ConfigError(
            f"{path}: rows are {asked.dtype}, expected whole numbers; "
            "np.flatnonzero makes them of a mask"
        )
    wanted = np.unique(asked).astype(np.int64)
    is_inside = not len(wanted) or 0 <= wanted[0] <= wanted[-1] < num_rows
    if asked.ndim != 1 or len(wanted) != len(asked) or not is_inside:
        raise ConfigError(f"{path}: rows are not from 0 to {num_rows - 1}, each once")
    return wanted


def check_steps(batch_size: int, **counted: int) -> None:
    """Check the numbers that say which batches: a size, and what counts from 0.

    Raises:
        ConfigError: one is no whole number, or too small.
    """
    for name, value in {"batch_size": batch_size, **counted}.items():
        least = int(name == "batch_size")
        if not isinstance(value, int | np.integer) or value < least:
            raise ConfigError(f"{name} is {value}, expected a whole number from {least} on")
