"""Coordinates of the small drawings in rows and cards: intervals beside each other, curves.

Units are those of each drawing's view box; y grows downwards, as in SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.analysis.verdicts import Difference
from pipelines.reporting.results import Interval

_MARGIN = 0.06  # of the scale, beyond the widest interval
_MIN_REACH = 0.005  # differences under half a point are not stretched over the whole width
SPARK_WIDTH, SPARK_HEIGHT = 120.0, 36.0
_SPARK_MARGIN = 4.0


@dataclass(frozen=True)
class Scale:
    """A common scale of differences, from 0 to `width` units.

    Attributes:
        low: difference at the left end.
        high: at the right end.
        width: in units.
    """

    low: float
    high: float
    width: float = 160.0

    @classmethod
    def of(cls, intervals: Sequence[Interval], width: float = 160.0) -> Scale:
        """Make one on which all intervals, and zero, can be drawn."""
        low = min([-_MIN_REACH, *(bounds[0] for bounds in intervals)])
        high = max([_MIN_REACH, *(bounds[1] for bounds in intervals)])
        margin = _MARGIN * (high - low)
        return cls(low - margin, high + margin, width)

    def place(self, difference: float) -> float:
        """Return where a difference is."""
        return round(self.width * (difference - self.low) / (self.high - self.low), 2)

    @property
    def zero(self) -> float:
        """Where there is no difference."""
        return self.place(0)


@dataclass(frozen=True)
class Whisker:
    """A difference with its interval, on a scale.

    Attributes:
        left: of the interval.
        right: of it.
        dot: the difference.
        kind: "better", "worse" or "chance", by the test and not by where zero lies: the two may
            differ where few images have changed.
    """

    left: float
    right: float
    dot: float
    kind: str


def whisker(found: Difference, bounds: Interval, scale: Scale) -> Whisker:
    """Place a difference with its interval on a scale."""
    left, right, dot = map(scale.place, (*bounds, found.value))
    return Whisker(left, right, dot, found.kind)


@dataclass(frozen=True)
class Spark:
    """A curve of shares in 0..1.

    Attributes:
        points: for a polyline.
        level: y of a share to compare with.
        dot: the point that stands out; None for none.
    """

    points: str
    level: float
    dot: tuple[float, float] | None


def spark(shares: Sequence[float], level: float, highlight: int | None) -> Spark:
    """Place a curve.

    Args:
        shares: one or more, in 0..1.
        level: a share to compare with.
        highlight: which of them stands out.
    """
    width, height = SPARK_WIDTH - 2 * _SPARK_MARGIN, SPARK_HEIGHT - 2 * _SPARK_MARGIN
    gap = width / max(1, len(shares) - 1)

    def at(number: int) -> tuple[float, float]:
        y = _SPARK_MARGIN + (1 - shares[number]) * height
        return round(_SPARK_MARGIN + number * gap, 1), round(y, 1)

    places = [at(number) for number in range(len(shares))]
    return Spark(
        points=" ".join(f"{x},{y}" for x, y in places),
        level=round(_SPARK_MARGIN + (1 - level) * height, 1),
        dot=None if highlight is None else places[highlight],
    )
