"""The pictures of a report, small enough for a phone; legends stand beside them on the page.

The topology is a full line with dots, the default model a dashed one with squares, so that they can
be told apart without colours. Nothing here reads a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.analysis import style
from pipelines.analysis.curves import Point, best
from pipelines.reporting import svg
from pipelines.reporting.results import Bin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.7, 2.9  # inches
TOPOLOGY: dict[str, Any] = {"color": style.BLUE, "linestyle": "-", "marker": "o", "zorder": 3}
DEFAULT: dict[str, Any] = {"color": style.VERMILION, "linestyle": "--", "marker": "s", "zorder": 2}
_SETTLED = 10  # of so many evaluations or more, the first tenth may lie outside


@dataclass(frozen=True)
class Measured:
    """An accuracy with its interval, both as shares in 0..1."""

    top1: float
    ci95: tuple[float, float]


def by_block(names: Sequence[str], models: Mapping[str, Sequence[Measured]]) -> Figure:
    """Draw the accuracies of a chain of runs (thesis, figures 4.2 and 4.3), with intervals.

    Args:
        names: of the blocks, in the order of training.
        models: "topology" and "default", an accuracy a block each.
    """
    with _panel() as (figure, axes):
        shown: list[float] = []
        for (model, look), shift in zip(_looks(), (-0.06, 0.06), strict=True):
            values = models[model]
            places = np.arange(len(values)) + shift
            top1 = np.array([value.top1 for value in values])
            bounds = np.array([value.ci95 for value in values]).T
            error = np.abs(bounds - top1)
            axes.errorbar(places, top1, error, capsize=3, markersize=5, linewidth=1.4, **look)
            shown += [*bounds.ravel()]
        style.set_shares(axes, shown)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        if len(names) * max(map(len, names)) > 44:
            axes.tick_params(axis="x", rotation=25)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set_xlabel("block trained, and all behind it")
    return figure


def by_branch(
    names: Sequence[str], branches: Sequence[Measured], original: float, topology: float
) -> Figure:
    """Draw the default model's accuracy on each version, between two levels.

    Args:
        names: of the versions, as they stand at the axis.
        branches: the default model on each of them.
        original: the default model's top-1 on the original.
        topology: top-1 of the topology.
    """
    with _panel() as (figure, axes):
        places = np.arange(len(names))
        top1 = [branch.top1 for branch in branches]
        low, high = zip(*(branch.ci95 for branch in branches), strict=True)
        axes.fill_between(places, low, high, color=style.MUTED, alpha=0.16, linewidth=0)
        axes.plot(places, top1, "D-", color=style.MUTED, markersize=4, linewidth=1.4)
        levels: dict[str, Any] = {"linewidth": 1.8}
        axes.axhline(topology, color=style.BLUE, **levels)
        axes.axhline(original, color=style.VERMILION, linestyle="--", **levels)
        style.set_shares(axes, [*low, *high, original, topology])
        axes.set_xticks(places, names)
        if max(map(len, names), default=0) > 4:
            axes.tick_params(axis="x", rotation=40)
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.set_xlabel("quality factor" if all(map(str.isdigit, names)) else "version")
    return figure


def reliability(models: Mapping[str, Sequence[Bin]]) -> Figure:
    """Draw accuracy over confidence (Guo et al., 2017); larger marks stand for more images."""
    from matplotlib.ticker import PercentFormatter

    with _panel(height=3.4) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=1.2, zorder=1)
        for model, look in _looks():
            bins = [one for one in models.get(model, ()) if one.num_images]
            if not bins:
                continue
            sure: Any = [one.confidence for one in bins]
            right: Any = [one.accuracy for one in bins]
            total = sum(one.num_images for one in bins)
            sizes = [12 + 160 * one.num_images / total for one in bins]
            line = {key: value for key, value in look.items() if key != "marker"}
            axes.plot(sure, right, linewidth=1.2, **line)
            marks = {"color": look["color"], "marker": look["marker"], "zorder": look["zorder"]}
            axes.scatter(sure, right, s=sizes, alpha=0.75, linewidths=0, **marks)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("confidence of the best class")
        axes.set_ylabel("accuracy")
    return figure


def qualities(num_by_qf: Mapping[str, int]) -> Figure:
    """Draw how many originals were stored at each quality factor (thesis, figure 3.1)."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    with _panel() as (figure, axes):
        counts = {int(qf): num for qf, num in num_by_qf.items()}
        axes.bar(list(counts), list(counts.values()), width=0.9, color=style.BLUE)
        axes.set_xlim(0, 101)
        axes.set_ylim(0, 1.06 * max(counts.values(), default=1))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("quality factor of the original")
        axes.set_ylabel("images")
    return figure


def training(topology: Sequence[Point], default: Sequence[Point]) -> Figure:
    """Draw validation loss and top-1 over the steps; a ring marks the best checkpoint."""
    from matplotlib.figure import Figure

    with svg.styled():
        figure = Figure((WIDTH, 4.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        losses: list[float] = []
        shares: list[float] = []
        for (_, look), points in zip(_looks(), (topology, default), strict=True):
            if not points:
                continue
            _draw_learning(above, points, [point.val_loss for point in points], look)
            _draw_learning(below, points, [point.val_top1 for point in points], look)
            top = best(points)
            ring: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "zorder": 5}
            below.plot(top.step, top.val_top1, "o", color=look["color"], **ring)
            losses += _settled([point.val_loss for point in points])
            shares += [*_settled([point.val_top1 for point in points]), top.val_top1]
        style.set_range(above, losses, 0.01 * max(losses) or 1)
        style.set_shares(below, shares)
        above.set_ylabel("loss on val")
        below.set_ylabel("top-1 on val")
        below.set_xlabel("step")
        for axes in (above, below):
            axes.grid(axis="y")
    return figure


def _draw_learning(
    axes: Axes, points: Sequence[Point], values: Sequence[float], look: Mapping[str, Any]
) -> None:
    line = {key: look[key] for key in ("color", "linestyle", "zorder")}
    if len(points) == 1:  # a model that is not trained
        axes.axhline(values[0], linewidth=1.5, **line)
    else:
        axes.plot([point.step for point in points], values, linewidth=1.5, **line)


def _settled(values: Sequence[float]) -> Sequence[float]:
    return values[len(values) // _SETTLED if len(values) >= _SETTLED else 0 :]


def _looks() -> list[tuple[str, dict[str, Any]]]:
    return [("topology", TOPOLOGY), ("default", DEFAULT)]


@contextlib.contextmanager
def _panel(height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure of one plot, in the style of the page."""
    from matplotlib.figure import Figure

    with svg.styled():
        figure = Figure((WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y")
        yield figure, axes
