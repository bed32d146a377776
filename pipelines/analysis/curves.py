"""A picture of a run: how its models learnt.

`training_figure` builds a matplotlib Figure from data that are handed in, `training` writes it (see
`style`). Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODELS = ("topology", "default model")
COLOURS = dict(zip(MODELS, (style.BLUE, style.VERMILION), strict=True))
ZORDERS = dict(zip(MODELS, (3, 2), strict=True))  # the topology in front
_MAX_DOTS = 40  # more evaluations than this are a line without dots
_LOG_RATIO = 10.001  # a learning rate that varies by more than ten has a logarithmic axis
_FIRST_PART = 10  # of so many evaluations or more, the first tenth may lie outside
_STEPS = [1, 2, 5, 10]  # multiples at which an axis may have its ticks


@dataclass(frozen=True)
class Point:
    """One evaluation of a model.

    Attributes:
        step: steps that lie behind.
        epoch: passes over the train split that lie behind.
        learning_rate: of the last step; None for a model that is not trained.
        train_loss: mean over the steps since the evaluation before; None where there are none.
        val_loss: mean cross entropy in nats.
        val_top1: accuracy, 0..1.
        val_top5: the same within the five highest; None at five classes or fewer.
    """

    step: int
    epoch: float
    learning_rate: float | None
    train_loss: float | None
    val_loss: float
    val_top1: float
    val_top5: float | None = None


@dataclass(frozen=True)
class Training:
    """How the models of a run learnt.

    Attributes:
        run: its name.
        node: whose cache it reads.
        topology: its evaluations, in their order; may be none.
        default: those of the default model.
    """

    run: str
    node: str
    topology: Sequence[Point]
    default: Sequence[Point]

    @property
    def models(self) -> list[tuple[str, Sequence[Point]]]:
        """Those that have been evaluated, by name."""
        both = zip(MODELS, (self.topology, self.default), strict=True)
        return [(name, points) for name, points in both if points]


def best(points: Sequence[Point]) -> Point:
    """Return the evaluation with the best top-1, the earliest among equals."""
    return max(points, key=lambda point: point.val_top1)


def training(data: Training, path: Path) -> None:
    """Write `training_figure` as `path`, PNG or SVG.

    Raises:
        ValueError: `path` ends in neither .png nor .svg, or there is no evaluation.
        ShardError: the file system refuses.
    """
    style.write(training_figure(data), path)


def training_figure(data: Training) -> Figure:
    """Draw losses, validation top-1 and learning rate over the steps, and over the epochs on top.

    Raises:
        ValueError: there is no evaluation.
    """
    from matplotlib.figure import Figure

    if not data.models:
        raise ValueError(f"run {data.run}: no evaluation yet, nothing to draw")
    grid = {"width_ratios": [10, 2.3], "height_ratios": [3, 3, 1.4]}
    with style.styled():
        figure = Figure((style.WIDTH_INCHES, 7), layout="constrained")
        axes = figure.subplots(3, 2, sharex="col", gridspec_kw=grid)
        style.set_title(figure, f"Run {data.run}, from node {data.node}")
        _draw_losses(axes[0, 0], data)
        _draw_accuracies(axes[1, 0], data)
        _draw_rates(axes[2, 0], data)
        for left in axes[:, 0]:
            left.grid(axis="both")
        _set_steps(axes[:, 0], data)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 1].legend(handles, labels, loc="upper left", borderaxespad=0)
        axes[0, 1].set_axis_off()
        style.draw_table(axes[1, 1], "best on val", _best_lines(data))
        axes[2, 1].set_axis_off()
    return figure


def _draw_losses(axes: Axes, data: Training) -> None:
    shown = []
    for name, points in data.models:
        look: dict[str, Any] = {"color": COLOURS[name], "zorder": ZORDERS[name]}
        learnt = [(p.step, p.train_loss) for p in points if p.train_loss is not None]
        if learnt:
            form = _form(data, "--")
            thin: dict[str, Any] = {"linewidth": 1, "markersize": 3, "markerfacecolor": "white"}
            axes.plot(*zip(*learnt, strict=True), form, label=f"{name}, train", **thin, **look)
        losses = [point.val_loss for point in points]
        _draw_line(axes, data, points, losses, label=f"{name}, val", **look)
        shown += [*_settled(losses), *_settled([loss for _, loss in learnt])]
    style.set_range(axes, shown, 0.01 * max(shown) or 1)
    axes.set_title("Loss (cross entropy, nats)")


def _draw_accuracies(axes: Axes, data: Training) -> None:
    shown: list[float] = []
    for name, points in data.models:
        look: dict[str, Any] = {"color": COLOURS[name]}
        shares = [point.val_top1 for point in points]
        _draw_line(axes, data, points, shares, zorder=ZORDERS[name], **look)
        top = best(points)
        if _is_trained(points):
            axes.axvline(top.step, linestyle=":", linewidth=1, **look)
            look |= {"markersize": 13, "markeredgecolor": "white", "clip_on": False, "zorder": 5}
            axes.plot(top.step, top.val_top1, "*", **look)
        shown += [*_settled(shares), top.val_top1]
    style.set_shares(axes, shown)
    axes.set_title("Top-1 accuracy on val; a star marks the best checkpoint")


def _draw_rates(axes: Axes, data: Training) -> None:
    rates: list[float] = []
    for (name, points), form in zip(data.models, ("-", "--"), strict=False):
        known = [(p.step, p.learning_rate) for p in points if p.learning_rate is not None]
        if known:
            look: dict[str, Any] = {"color": COLOURS[name], "drawstyle": "steps-pre"}
            form += "o" if len(known) == 1 else ""  # or it would not be seen
            axes.plot(*zip(*known, strict=True), form, markersize=3, linewidth=1.5, **look)
            rates += [rate for _, rate in known if rate > 0]
    if rates and max(rates) > _LOG_RATIO * min(rates):
        axes.set_yscale("log", nonpositive="mask")
    elif rates:
        axes.set_ylim(0, 1.15 * max(rates))
        axes.set_yticks([0, max(rates)])
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.set_title("Learning rate")


def _draw_line(
    axes: Axes, data: Training, points: Sequence[Point], values: Sequence[float], **look: Any
) -> None:
    """Draw what was measured at evaluations; of a model that is not trained, a level."""
    if _is_trained(points):
        steps = [point.step for point in points]
        axes.plot(steps, values, _form(data, "-"), markersize=3, linewidth=1.5, **look)
    else:
        axes.axhline(values[0], linewidth=1.5, **look)


def _form(data: Training, line: str) -> str:
    """Return matplotlib's word for a line, with a dot a point where both models have few."""
    most = max(len(points) for _, points in data.models)
    return f"o{line}" if most <= _MAX_DOTS else line


def _is_trained(points: Sequence[Point]) -> bool:
    return points[0].learning_rate is not None


def _settled(values: Sequence[float]) -> Sequence[float]:
    """Return what is to be in the picture: of many values, not the first few.

    A random head begins far from where it ends; with that in view nothing else could be told apart.
    """
    return values[len(values) // _FIRST_PART if len(values) >= _FIRST_PART else 0 :]


def _set_steps(column: np.ndarray, data: Training) -> None:
    """Count steps below, and epochs above where there are any."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    last = max((points[-1] for _, points in data.models), key=lambda point: point.step)
    margin = max(1, last.step) / 50
    column[0].set_xlim(-margin, max(1, last.step) + margin)
    column[-1].set_xlabel("step")
    column[-1].xaxis.set_major_locator(MaxNLocator(8, steps=_STEPS, integer=True))
    column[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if last.epoch > 0:
        a_pass = last.step / last.epoch
        functions = (lambda step: step / a_pass, lambda epoch: epoch * a_pass)
        above = column[0].secondary_xaxis("top", functions=functions)
        above.xaxis.set_major_locator(MaxNLocator(10, steps=_STEPS, integer=last.epoch >= 3))
        above.set_xlabel("epoch")


def _best_lines(data: Training) -> list[tuple[str, str]]:
    lines = []
    for name, points in data.models:
        top = best(points)
        lines.append((name, f"{top.val_top1:.2%}"))
        if top.val_top5 is not None:
            lines.append(("    top-5", f"{top.val_top5:.2%}"))
        if _is_trained(points):
            lines += [("    step", f"{top.step:,}"), ("    epoch", f"{round(top.epoch, 2):g}")]
    if len(data.models) == len(MODELS):
        topology, default = (best(points).val_top1 for _, points in data.models)
        lines.append(("difference", f"{100 * (topology - default):+.2f} pp"))
    return lines
