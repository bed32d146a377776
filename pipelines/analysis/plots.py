"""Pictures for a researcher: how densely the branches are active, how good the originals were.

Each `..._figure` builds a matplotlib Figure from data that are handed in; the function without that
ending writes it (see `style`). Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_DENSITY_TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
# Differences under half a percentage point stay pale instead of being stretched to full colour.
_MIN_SPAN = 0.005
# The few channels beyond would leave all others pale; pointed ends of the colour bar tell of them.
_CHANGE_QUANTILE = 0.998


@dataclass(frozen=True)
class ChannelDensity:
    """How often the channels of a node are active, in each branch.

    Attributes:
        node: the pivotal node.
        branches: names, in the order of the rows.
        num_images: how many images were counted.
        shares: float, (branch, channel): of the channel's activations at all positions of all
            images, the share in 0..1 that is not zero.

    Raises:
        ValueError: the shares are of another shape or range.
    """

    node: str
    branches: tuple[str, ...]
    num_images: int
    shares: np.ndarray

    def __post_init__(self) -> None:
        shape = np.shape(self.shares)
        if len(shape) != 2 or shape[0] != len(self.branches) or 0 in shape:
            raise ValueError(
                f"shares of shape {shape} for {len(self.branches)} branches, expected "
                "(branch, channel) with at least one of each"
            )
        low, high = np.min(self.shares), np.max(self.shares)
        if not (low >= 0 and high <= 1):  # neither holds for NaN
            raise ValueError(f"shares from {low} to {high}, expected 0 to 1")

    @property
    def reference(self) -> int:
        """Row that the others are compared with: `original`, or the first where that is none."""
        return self.branches.index("original") if "original" in self.branches else 0


def channel_density(density: ChannelDensity, path: Path) -> None:
    """Write `channel_density_figure` as `path`, PNG or SVG.

    Raises:
        ValueError: `path` ends in neither .png nor .svg.
        ShardError: the file system refuses.
    """
    style.write(channel_density_figure(density), path)


def qf_histogram(counts: Mapping[str, Any], path: Path) -> None:
    """Write `qf_histogram_figure` as `path`, PNG or SVG.

    Raises:
        ValueError: `path` ends in neither .png nor .svg.
        ShardError: the file system refuses.
    """
    style.write(qf_histogram_figure(counts), path)


def channel_density_figure(density: ChannelDensity) -> Figure:
    """Draw how densely the channels are active in each branch, and what compression changes.

    From the top: the channels of each branch from the densest to the sparsest; branches by
    channels, in the order of the original; and, where that is not the only branch, the difference
    from it. On the right of a row is its mean.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    reference = density.reference
    shares = np.asarray(density.shares, dtype=np.float64)
    # Stable: channels of equal density stay in their own order.
    ordered = shares[:, np.argsort(-shares[reference], kind="stable")]
    num_branches, num_channels = shares.shape
    map_inches = 0.6 + 0.2 * max(4, num_branches)
    heights = [2.5] + [map_inches] * (2 if num_branches > 1 else 1)
    grid = {"width_ratios": [10, 1.9, 0.2], "height_ratios": heights}
    with style.styled():
        figure = Figure((style.WIDTH_INCHES, 0.9 + sum(heights)), layout="constrained")
        axes = figure.subplots(len(heights), 3, squeeze=False, gridspec_kw=grid)
        counted = (
            style.count(num_channels, "channel"),
            style.count(num_branches, "branch", "branches"),
            style.count(density.num_images, "image"),
        )
        style.set_title(figure, f"{density.node}: {', '.join(counted)}")
        _draw_curves(axes[0, 0], density, ordered)
        numbers = _density_lines(shares[reference])
        style.draw_table(axes[0, 1], density.branches[reference], numbers.items())
        axes[0, 2].set_axis_off()
        _draw_shares(axes[1], density, ordered)
        if num_branches > 1:
            _draw_changes(axes[2], density, ordered - ordered[reference])
        for left in axes[:, 0]:
            left.set_xlim(0, num_channels)
            left.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes[-1, 0].set_xlabel(
            f"channel, from the densest to the sparsest in {density.branches[reference]}"
        )
    return figure


def qf_histogram_figure(counts: Mapping[str, Any]) -> Figure:
    """Draw how many originals were stored at each quality factor (thesis, figure 3.1).

    Args:
        counts: "num_images"; "num_unknown", those without a quality factor; and "num_by_qf", from
            quality factor (1..100, a number or text) to count, as `pipelines.images.quality` gives
            them.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    num_by_qf = {int(qf): num for qf, num in counts["num_by_qf"].items()}
    num_images, num_unknown = counts["num_images"], counts["num_unknown"]
    share = num_unknown / max(1, num_images)
    with style.styled():
        figure = Figure((style.WIDTH_INCHES, 4), layout="constrained")
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [10, 2]})
        style.set_title(figure, "Quality of the original images")
        left.bar(list(num_by_qf), list(num_by_qf.values()), width=0.8, color=style.BLUE)
        unknown = f"{num_unknown:,} of them ({share:.1%}) no JPEG or without readable tables"
        left.set_title(f"{style.count(num_images, 'image')}, {unknown}")
        left.set_xlim(0, 101)
        left.set_xticks(range(0, 101, 10))
        left.set_xlabel("quality factor (IJG scale), estimated from the quantisation tables")
        left.set_ylim(0, 1.05 * max(num_by_qf.values(), default=1))
        left.set_ylabel("images")
        left.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        left.grid(axis="y")
        style.draw_table(right, "JPEG originals", _qf_lines(num_by_qf).items())
    return figure


def _draw_curves(axes: Axes, density: ChannelDensity, ordered: np.ndarray) -> None:
    """Draw a falling curve a branch; the reference, the densest and the sparsest stand out."""
    means = ordered.mean(axis=1)
    falling = -np.sort(-ordered, axis=1)
    places = np.arange(ordered.shape[1] + 1)
    reference = density.reference
    others = [int(row) for row in np.argsort(means, kind="stable") if row != reference]
    looks = [(row, style.FAINT, "") for row in others[1:-1]]
    looks += [(row, style.BLUE, "densest other branch: ") for row in others[1:][-1:]]
    looks += [(row, style.VERMILION, "sparsest other branch: ") for row in others[:1]]
    looks += [(reference, style.INK, "")]
    # A square root, here and in the map below, gives room to the many sparse channels. It comes
    # with its limits before anything is drawn: margins would reach below zero.
    axes.set_ylim(0, 1.03)
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    axes.stairs(falling[reference], places, fill=True, color=style.INK, alpha=0.06)
    for row, colour, words in looks:
        label = f"{words}{density.branches[row]}, mean {means[row]:.2%}"
        is_named = colour != style.FAINT
        look: dict[str, Any] = {"color": colour, "linewidth": 1.5 if is_named else 0.8}
        axes.stairs(falling[row], places, baseline=None, label=label if is_named else None, **look)
    axes.set_title("Density of the channels, each branch from its densest to its sparsest")
    axes.set_ylabel("non-zero activations")
    axes.set_yticks(_DENSITY_TICKS, [f"{share:.0%}" for share in _DENSITY_TICKS])
    axes.grid(axis="y")
    # Where no curve can be: they fall, and half of the original's lies on either side.
    is_sparse = np.median(ordered[reference]) < 0.5
    axes.legend(loc="upper right" if is_sparse else "lower left", reverse=True)


def _draw_shares(row: np.ndarray, density: ChannelDensity, ordered: np.ndarray) -> None:
    from matplotlib.colors import PowerNorm

    bar = _draw_map(row, density.branches, ordered, ("viridis", PowerNorm(0.5, 0, 1)))
    bar.set_ticks(_DENSITY_TICKS[::2], labels=[f"{share:.0%}" for share in _DENSITY_TICKS[::2]])
    row[0].set_title("Density of each channel")
    means = ordered.mean(axis=1)
    _draw_means(row[1], "mean", means, [f"{mean:.2%}" for mean in means])


def _draw_changes(row: np.ndarray, density: ChannelDensity, changes: np.ndarray) -> None:
    from matplotlib.colors import Normalize

    sizes = np.abs(changes)
    limit = max(float(np.quantile(sizes, _CHANGE_QUANTILE)), _MIN_SPAN)
    ends = "both" if sizes.max() > limit else "neither"
    bar = _draw_map(row, density.branches, changes, ("RdBu", Normalize(-limit, limit)), ends)
    bar.ax.yaxis.set_major_formatter(lambda change, _: f"{100 * change:.3g} pp")
    name = density.branches[density.reference]
    row[0].set_title(f"Difference from {name} in percentage points: red is sparser, blue denser")
    means = sizes.mean(axis=1)
    _draw_means(row[1], "mean size", means, [f"{100 * mean:.2f} pp" for mean in means])


def _draw_map(
    row: np.ndarray,
    branches: tuple[str, ...],
    values: np.ndarray,
    colours: tuple[str, Normalize],
    ends: str = "neither",
) -> Colorbar:
    """Draw branches by channels as colours, and their colour bar."""
    from matplotlib.cm import ScalarMappable

    colour_map, norm = colours
    num_branches, num_channels = values.shape
    # An image a branch: in one image, fitting many channels to few dots would blur branches, too.
    for number in range(num_branches):
        box = (0, num_channels, number + 1, number)
        row[0].imshow(values[[number]], cmap=colour_map, norm=norm, extent=box, aspect="auto")
    row[0].hlines(range(1, num_branches), 0, num_channels, color="white", linewidth=1)
    row[0].set_ylim(num_branches, 0)
    row[0].set_yticks(np.arange(num_branches) + 0.5, branches)
    row[0].tick_params(axis="y", length=0)
    row[0].spines[:].set_visible(False)
    mappable = ScalarMappable(norm, colour_map)
    bar: Colorbar = row[0].figure.colorbar(mappable, cax=row[2], extend=ends)
    bar.ax.spines[:].set_visible(False)
    return bar


def _draw_means(axes: Axes, title: str, means: np.ndarray, words: list[str]) -> None:
    """Draw a dot and words beside each row of a map."""
    places = np.arange(len(means)) + 0.5
    low, span = means.min(), max(float(np.ptp(means)), _MIN_SPAN)
    axes.hlines(places, low, means, color=style.FAINT, linewidth=1)
    axes.plot(means, places, "o", color=style.INK, markersize=4)
    look: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "ha": "right"}
    for place, text in zip(places, words, strict=True):
        axes.annotate(text, (1, place), va="center_baseline", **look)
    axes.set_xlim(low - 0.1 * span, low + 2 * span)
    axes.set_ylim(len(means), 0)
    axes.set_title(title)
    axes.set_axis_off()


def _density_lines(shares: np.ndarray) -> dict[str, str]:
    return {
        "mean": f"{shares.mean():.2%}",
        "median": f"{np.median(shares):.2%}",
        "never active": f"{np.sum(shares == 0):,}",
        "always active": f"{np.sum(shares == 1):,}",
    }


def _qf_lines(num_by_qf: Mapping[int, int]) -> dict[str, str]:
    qualities = np.array(sorted(num_by_qf))
    nums = np.array([num_by_qf[int(qf)] for qf in qualities])
    if not nums.sum():
        return {"none": ""}
    return {
        "median": f"{qualities[np.searchsorted(nums.cumsum(), nums.sum() / 2)]}",
        "most frequent": f"{qualities[nums.argmax()]}",
        "range": f"{qualities[0]} to {qualities[-1]}",
        "90 and above": f"{nums[qualities >= 90].sum() / nums.sum():.2%}",
        "below 50": f"{nums[qualities < 50].sum() / nums.sum():.2%}",
    }
