"""How all pictures look, and how one becomes a file.

A file is PNG or SVG by its name: whole or not at all, and the same bytes for the same data and
matplotlib. Nothing here touches pyplot and its global figures.

Lines have colours of Okabe and Ito (Color Universal Design, 2008), maps are `viridis` and `RdBu`:
they can be told apart, and keep their order, under the common kinds of colour blindness.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.storage import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#222222", "#6b6b6b", "#c4c4c4"
BLUE, VERMILION = "#0072B2", "#D55E00"
WIDTH_INCHES = 10.0
_TITLE_LETTERS = 72  # in a line
_MIN_SPAN = 0.002  # of an axis of accuracies

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.dpi": 150,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.hashsalt": "bottleneck",  # without it the ids in an SVG are random
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
# Matplotlib would write its version and, into an SVG, the time.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Creator": None, "Date": None},
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Set matplotlib's own style under ours for a while, whatever a user's matplotlibrc says."""
    import matplotlib.style

    with matplotlib.style.context("default"), matplotlib.rc_context(_STYLE):
        yield


def write(figure: Figure, path: Path) -> None:
    """Write a figure.

    Raises:
        ValueError: `path` ends in neither .png nor .svg.
        ShardError: the file system refuses.
    """
    kind = path.suffix.lower()
    if kind not in _METADATA:
        raise ValueError(f"{path}: ends in {kind or 'nothing'!r}, expected .png or .svg")
    file = io.BytesIO()
    with styled():  # again: some parts are made only now, such as ticks
        figure.savefig(file, format=kind[1:], metadata=_METADATA[kind])
    atomic.write_bytes(path, file.getvalue())


def set_title(figure: Figure, words: str) -> None:
    """Write a figure's title, in several lines where names are long."""
    lines = textwrap.wrap(words, _TITLE_LETTERS)
    figure.suptitle("\n".join(lines), x=0.006, horizontalalignment="left")


def draw_table(axes: Axes, title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Draw words on the left and their values on the right, line by line, in place of a plot."""
    look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    for number, (words, value) in enumerate(lines):
        down = -6 - 15 * number
        axes.annotate(words, (0, 1), (0, down), color=MUTED, **look)
        axes.annotate(value, (1, 1), (0, down), ha="right", **look)
    axes.set_title(title)
    axes.set_axis_off()


def set_range(axes: Axes, values: Sequence[float], min_span: float) -> None:
    """Let an axis of values show these, over so much at least."""
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, 0.58 * max(high - low, min_span)
    axes.set_ylim(middle - half, middle + half)


def set_shares(axes: Axes, shares: Sequence[float]) -> None:
    """Let an axis show accuracies as percentages; small differences are not stretched."""
    from matplotlib.ticker import PercentFormatter

    set_range(axes, shares, _MIN_SPAN)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02 * (high - low)), min(high, 1 + 0.02 * (high - low)))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def count(num: int, one: str, many: str | None = None) -> str:
    """Format a number of things: 1 image, 2 images."""
    return f"{num:,} {one if num == 1 else many or one + 's'}"
