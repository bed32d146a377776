"""Crews of the tests: a function of `work` done in so many workers."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import work

from pipelines.execution import local, slots
from pipelines.execution.engine import CrewSettings, Engine, Job, Piece, ignore

ROOT = Path(__file__).parents[1]


def pieces_of(bodies: Iterable[Any]) -> deque[Piece]:
    """Name pieces by what they are about: a number, or a file."""
    return deque(Piece(body.name if isinstance(body, Path) else str(body), body) for body in bodies)


def files_of(folder: Path, **numbers: int) -> deque[Piece]:
    """Make pieces of files that say how often something is to happen."""
    for name, number in numbers.items():
        (folder / name).write_text(str(number))
    return pieces_of(folder / name for name in numbers)


@contextlib.contextmanager
def crew_of(
    do: Job | Callable[..., Any],
    num_workers: int = 2,
    engine: Engine = local.open_crew,
    **settings: Any,
) -> Iterator[Any]:
    """Open a crew that does a job, or a function of `work`."""
    job = work.Doing(do) if callable(do) else do
    with engine(job, CrewSettings(slots.cpu_slots(num_workers), **settings)) as crew:
        yield crew


def done_by(
    do: Job | Callable[..., Any],
    todo: deque[Piece],
    num_workers: int = 2,
    advance: Callable[[int], None] = ignore,
    **settings: Any,
) -> dict[str, Any]:
    """Have all pieces done; returns the results by name."""
    with crew_of(do, num_workers, **settings) as crew:
        return {piece.name: result for piece, result in crew.run(todo, advance)}


def environment_for_programs() -> dict[str, str]:
    """Let a program find `work` and this very project."""
    return {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
