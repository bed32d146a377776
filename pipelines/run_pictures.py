"""The pictures of runs on disk: training.png of each, blocks.png of a chain up to it.

They follow from the histories alone, so that a run that was killed ends with the same ones. One
that cannot be drawn or written costs nothing but itself: that is told, and the training goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines import runs
from pipelines.analysis import block_curves, curves
from pipelines.analysis.block_curves import BlockAccuracy
from pipelines.analysis.curves import Point, Training
from pipelines.errors import PipelineError
from pipelines.training import evaluations

_logger = logging.getLogger(__name__)


def draw(
    workspace_dir: Path,
    name: str,
    check: Callable[[], None] = lambda: None,
    only_missing: bool = False,
) -> None:
    """Draw a run's training, and its chain where it is one of several blocks.

    Args:
        workspace_dir: the workspace.
        name: of the run.
        check: called before a picture is written; raises where the run is another process's by now.
        only_missing: leave the pictures that are there.
    """
    for picture, draw_one in ((runs.CURVES, _draw_training), (runs.BLOCKS, _draw_chain)):
        path = runs.folder_of(workspace_dir, name) / picture
        try:
            if not (only_missing and path.exists()):
                draw_one(workspace_dir, path, check)
        except PipelineError as error:
            _logger.warning("no picture: %s", error)
        except Exception as error:  # fonts, memory, matplotlib's own: nothing is worth a training
            _logger.warning("no picture: %s: %r", path, error)


def by_block(workspace_dir: Path, name: str) -> list[BlockAccuracy]:
    """Return the best accuracies of the runs of a chain, from its first one up to this one.

    Without those that are not there any more, or have not judged both models, and all before them.
    """
    found: list[BlockAccuracy] = []
    seen: set[str] = set()
    while name and name not in seen:
        seen.add(name)
        try:
            run = runs.read(workspace_dir, name)
            history = runs.folder_of(workspace_dir, name) / runs.HISTORY
            topology, default = (evaluations.read(history)[model] for model in evaluations.MODELS)
        except PipelineError:
            break
        if not topology or not default:
            break
        top1 = curves.best(topology).val_top1, curves.best(default).val_top1
        found.append(
            BlockAccuracy(run.blocks[0], top1, (_best_top5(topology), _best_top5(default)))
        )
        name = run.parent
    return found[::-1]


def _draw_training(workspace_dir: Path, path: Path, check: Callable[[], None]) -> None:
    name = path.parent.name
    found = evaluations.read(path.with_name(runs.HISTORY))
    if any(found.values()):
        node = runs.read(workspace_dir, name).node
        check()
        curves.training(Training(name, node, found["topology"], found["default"]), path)


def _draw_chain(workspace_dir: Path, path: Path, check: Callable[[], None]) -> None:
    accuracies = by_block(workspace_dir, path.parent.name)
    if len(accuracies) > 1:
        check()
        block_curves.blocks(accuracies, path)


def _best_top5(points: Sequence[Point]) -> float | None:
    return max((point.val_top5 for point in points if point.val_top5 is not None), default=None)
