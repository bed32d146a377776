"""A picture of one image: it and its best version, what differs, and what that does to the label.

What thesis figures 4.4 to 4.12 and tables 4.9 to 4.12 show of some images. Nothing here reads a
file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.analysis import style
from pipelines.reporting import differences, words
from pipelines.reporting.predictions import ImagePrediction
from pipelines.storage.variants import ORIGINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TYPES = {"A": "gained", "B": "lost", "C": "neither gained nor lost"}
_CROP_SHARE, _MIN_CROP = 0.25, 32  # of the shorter side; pixels
_MAX_LETTERS = 34
_NUM_BEST = 5


@dataclass(frozen=True)
class Portrait:
    """What is drawn.

    Attributes:
        image: what both models say of it.
        class_names: in label order.
        pixels: uint8 (height, width) or (height, width, 3) of the original and the best version.
        run: the run's name.
        note: that its results need; empty for none.
    """

    image: ImagePrediction
    class_names: Sequence[str]
    pixels: Mapping[str, np.ndarray]
    run: str
    note: str = ""


@dataclass(frozen=True)
class Changed:
    """What the best version changes.

    Attributes:
        original: uint8 (height, width, 3).
        best: the same of the best version, in the original's size.
        difference: uint8, the version minus the original on a middle gray, amplified.
        factor: so many times.
        crop: top, left, height and width of the square that is changed most.
    """

    original: np.ndarray
    best: np.ndarray
    difference: np.ndarray
    factor: int
    crop: tuple[int, int, int, int]


def changed(data: Portrait) -> Changed | None:
    """Compare the image with its best version; None where it has no other version."""
    name = data.image.best_branch
    if name is None:
        return None
    original = differences.to_rgb(data.pixels[ORIGINAL])
    best = differences.fitted(differences.to_rgb(data.pixels[name]), original.shape)
    difference, factor = differences.difference(original, best)
    side = max(_MIN_CROP, round(_CROP_SHARE * min(original.shape[:2])))
    crop = differences.most_changed(original, best, side)
    return Changed(original, best, difference, factor, crop)


def figure(data: Portrait, change: Changed | None) -> Figure:
    """Draw an image: versions and difference, enlarged crops, and how the label fares."""
    from matplotlib.figure import Figure

    image, name = data.image, data.image.best_branch
    label = data.class_names[image.label]
    with style.styled():
        drawn = Figure((style.WIDTH_INCHES, 8.6 if change else 4.6), layout="constrained")
        title = f"{image.id}: {label}, {_TYPES[image.type]} by run {data.run}"
        style.set_title(drawn, title + (f" ({data.note})" if data.note else ""))
        parts: Any = drawn.subfigures(2 if change else 1, 1, squeeze=False)[:, 0]
        if change is None:
            left, *others = parts[0].subplots(1, 2)
            _show(left, differences.to_rgb(data.pixels[ORIGINAL]), "original")
            _draw_best(others[0], data)
            return drawn
        version = words.branch(name or "")
        pictures = parts[0].subplots(2, 3, gridspec_kw={"height_ratios": [1.25, 1]})
        top, left, height, width = change.crop
        inside = slice(top, top + height), slice(left, left + width)
        shown = (change.original, change.best, change.difference)
        titles = ("original", version, f"difference, amplified {change.factor}×")
        for column, (pixels, title) in enumerate(zip(shown, titles, strict=True)):
            _show(pictures[0, column], pixels, title)
            _frame(pictures[0, column], change.crop)
            _show(pictures[1, column], pixels[inside], "")
        pictures[1, 0].set_title(f"where they differ most, {width}×{height} pixels")
        curve, table = parts[1].subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
        _draw_confidences(curve, image)
        _draw_best(table, data)
    return drawn


def _show(axes: Axes, pixels: np.ndarray, title: str) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


def _frame(axes: Axes, crop: tuple[int, int, int, int]) -> None:
    from matplotlib.patches import Rectangle

    top, left, height, width = crop
    for colour, line in (("white", 2.6), (style.VERMILION, 1.2)):
        place = (left - 0.5, top - 0.5)
        axes.add_patch(
            Rectangle(place, width, height, fill=False, edgecolor=colour, linewidth=line)
        )


def _draw_confidences(axes: Axes, image: ImagePrediction) -> None:
    """Draw the label's confidence on each version, with its rank beside each point."""
    from matplotlib.ticker import PercentFormatter

    names = [name for name in image.confidences if name != ORIGINAL]
    shares = [image.confidences[name] for name in names]
    places = range(len(names))
    axes.plot(places, shares, "o-", color=style.INK, linewidth=1.4, markersize=4)
    best = names.index(image.best_branch or "")
    axes.plot(best, shares[best], "o", color=style.BLUE, markersize=8, zorder=4)
    levels = (
        (image.confidences[ORIGINAL], style.VERMILION, "--", "default model, original"),
        (image.topology_confidence, style.BLUE, "-", "topology"),
    )
    for share, colour, line, label in levels:
        axes.axhline(share, color=colour, linestyle=line, linewidth=1.4, label=label)
    for place, name in zip(places, names, strict=True):
        is_low = all(other > shares[place] for other in shares[max(0, place - 1) : place + 2][::2])
        is_high = shares[place] > 0.88 or (is_low and shares[place] > 0.12)
        axes.annotate(
            f"#{image.ranks[name] + 1:,}",
            (place, shares[place]),
            (0, -7 if is_high else 6),
            textcoords="offset points",
            ha="center",
            va="top" if is_high else "bottom",
            color=style.MUTED,
            fontsize=8,
        )
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xticks(places, [words.tick(name) for name in names])
    axes.set_xlabel("quality factor" if image.best_branch in _qualities(names) else "version")
    axes.set_title("Label's confidence and rank, default model on each version alone")
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _qualities(names: Sequence[str]) -> list[str]:
    return [name for name in names if words.tick(name).isdigit() and name.startswith("q")]


def _draw_best(axes: Axes, data: Portrait) -> None:
    """Write the label's rank and confidence, and both models' likeliest classes."""
    image = data.image
    lines = [
        ("default model, original", _place(image.ranks[ORIGINAL], image.confidences[ORIGINAL]))
    ]
    if image.best_branch is not None:
        name = image.best_branch
        told = _place(image.ranks[name], image.confidences[name])
        lines.append((f"default model, {words.branch(name)}", told))
    lines.append(("topology", _place(image.topology_rank, image.topology_confidence)))
    for title, best in (
        ("default model's first on the original", image.default_top5),
        ("topology's first", image.topology_top5),
    ):
        lines += [("", ""), (title, "")]
        lines += [
            ("    " + _short(data.class_names[number]), words.percent(share, 1))
            for number, share in best[:_NUM_BEST]
        ]
    style.draw_table(axes, f"Label: {_short(data.class_names[image.label])}", lines)


def _place(rank: int, confidence: float) -> str:
    return f"rank {words.rank(rank)}, {words.percent(confidence, 1)}"


def _short(name: str) -> str:
    return name if len(name) <= _MAX_LETTERS else name[: _MAX_LETTERS - 1] + "…"
