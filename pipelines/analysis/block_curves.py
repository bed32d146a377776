"""A picture of a chain of runs: what each block brought (thesis, figures 4.2 and 4.3).

`blocks_figure` builds a matplotlib Figure from data that are handed in, `blocks` writes it (see
`style`). Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.analysis import style
from pipelines.analysis.curves import COLOURS, MODELS, ZORDERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES_A_LETTER = 0.075
_PLOT_INCHES = 9.2  # of a picture's width, beside the numbers at its axis


@dataclass(frozen=True)
class BlockAccuracy:
    """The best validation accuracies of a run that trained one block more than the one before.

    Attributes:
        block: its name.
        top1: of topology and default model, 0..1.
        top5: the same within the five highest; None at five classes or fewer.
    """

    block: str
    top1: tuple[float, float]
    top5: tuple[float | None, float | None] = (None, None)


def blocks(data: Sequence[BlockAccuracy], path: Path) -> None:
    """Write `blocks_figure` as `path`, PNG or SVG.

    Raises:
        ValueError: `path` ends in neither .png nor .svg, or there are fewer than two blocks.
        ShardError: the file system refuses.
    """
    style.write(blocks_figure(data), path)


def blocks_figure(data: Sequence[BlockAccuracy]) -> Figure:
    """Draw the best accuracies on val by block, from the end of the network towards the front.

    The thesis's figures 4.2 and 4.3, with the default model beside it; the dashed line is the
    topology's linear trend, as there.

    Args:
        data: in the order of training.

    Raises:
        ValueError: there are fewer than two blocks.
    """
    from matplotlib.figure import Figure

    if len(data) < 2:
        raise ValueError(f"{style.count(len(data), 'block')}, expected two or more")
    panels = [("top-1", np.array([block.top1 for block in data], np.float64))]
    if all(None not in block.top5 for block in data):
        panels.append(("top-5", np.array([block.top5 for block in data], np.float64)))
    names = [block.block for block in data]
    is_turned = len(names) * (max(map(len, names)) + 2) * _INCHES_A_LETTER > _PLOT_INCHES
    with style.styled():
        height = 1.1 + 2.7 * len(panels) + (1.1 if is_turned else 0)
        figure = Figure((style.WIDTH_INCHES, height), layout="constrained")
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        style.set_title(figure, f"Best validation accuracy by block, {names[0]} to {names[-1]}")
        for axes, (what, shares) in zip(rows, panels, strict=True):
            _draw_by_block(axes, what, shares)
        rows[-1].set_xticks(range(len(names)), names)
        if is_turned:
            rows[-1].tick_params(axis="x", rotation=30)
            for label in rows[-1].get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        rows[-1].set_xlabel("block trained, and all behind it")
        handles, labels = rows[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))
    return figure


def _draw_by_block(axes: Axes, what: str, shares: np.ndarray) -> None:
    """Draw one accuracy of both models, float (block, model), with its numbers."""
    places = np.arange(len(shares))
    for number, name in enumerate(MODELS):
        look: dict[str, Any] = {"color": COLOURS[name], "zorder": ZORDERS[name]}
        axes.plot(places, shares[:, number], "o-", label=name, linewidth=1.5, **look)
        _write_numbers(axes, shares, number)
    if len(shares) > 2:
        slope, start = np.polyfit(places, shares[:, 0], 1)
        trend: dict[str, Any] = {"color": style.MUTED, "linewidth": 1, "zorder": 1.5}
        axes.plot(places, start + slope * places, "--", label="topology, linear trend", **trend)
    style.set_shares(axes, shares.ravel().tolist())
    low, high = axes.get_ylim()
    room = 0.1 * (high - low)  # for the numbers
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(-0.5, len(shares) - 0.5)
    axes.set_title(f"{what} on val")
    axes.grid(axis="y")


def _write_numbers(axes: Axes, shares: np.ndarray, number: int) -> None:
    """Write a model's numbers on the other side than the other model's; its best one is bold."""
    from matplotlib.patheffects import withStroke

    values, others = shares[:, number], shares[:, 1 - number]
    for place, (value, other) in enumerate(zip(values, others, strict=True)):
        is_above = value > other or (value == other and number == 0)
        words = axes.annotate(
            f"{value:.2%}",
            (place, value),
            (0, 6 if is_above else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if is_above else "top",
            color=COLOURS[MODELS[number]],
            fontweight="bold" if place == values.argmax() and np.ptp(values) else "normal",
            zorder=4,
        )
        words.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # keeps lines off
