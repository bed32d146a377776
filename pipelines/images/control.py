"""Changes of an image that are no compression: what the control set is made of.

Ten versions beside the original, as many as JPEG has quality factors, under changes that a
photographer or a camera might make: half a pixel aside, a slightly closer crop, a lighter or darker
tone. Nothing is resampled, and everything is computed in whole numbers, so that no library and no
machine decides a pixel.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import ConfigError

_MAX = 255  # of a level


@dataclass(frozen=True)
class Shift:
    """The picture half a pixel further to the right, down, or both; its size stays.

    A level is the average of the two or four pixels that its place then lies between, rounded
    half up. The left column and the top row have no pixel in front of them and stand for it.

    Attributes:
        right: half pixels, 0 or 1.
        down: half pixels, 0 or 1.
    """

    right: int
    down: int

    def __post_init__(self) -> None:
        if not {self.right, self.down} <= {0, 1} or not self.right + self.down:
            raise ConfigError(
                f"shift: {self.right} right and {self.down} down; expected 0 or 1 half pixels "
                "each, and not twice 0"
            )

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Change uint8 pixels (height, width) or (height, width, 3)."""
        total = pixels.astype(np.uint16)
        if self.down:
            total = total + total[_one_before(len(total))]
        if self.right:
            total = total + total[:, _one_before(total.shape[1])]
        num = 1 << (self.right + self.down)
        return ((total + num // 2) // num).astype(np.uint8)

    def in_words(self) -> str:
        """Say what it does."""
        ways = [way for way, is_on in (("right", self.right), ("down", self.down)) if is_on]
        return f"half a pixel further {' and '.join(ways)}"


@dataclass(frozen=True)
class Crop:
    """The middle of the picture, at its own resolution.

    A side keeps its share of pixels, rounded half up, and at least one. Where as many cannot go
    at both ends, one more goes at the right or the bottom.

    Attributes:
        keep_percent: of each side, 1..99.
    """

    keep_percent: int

    def __post_init__(self) -> None:
        if not 1 <= self.keep_percent <= 99:
            raise ConfigError(f"crop: {self.keep_percent} percent is outside 1 to 99")

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Change uint8 pixels (height, width) or (height, width, 3)."""
        rows, columns = (self._kept(length) for length in pixels.shape[:2])
        return pixels[rows, columns]

    def _kept(self, length: int) -> slice:
        kept = max(1, (length * self.keep_percent + 50) // 100)
        start = (length - kept) // 2
        return slice(start, start + kept)

    def in_words(self) -> str:
        """Say what it does."""
        return f"the middle {self.keep_percent}% of each side"


@dataclass(frozen=True)
class Gamma:
    """Every level x becomes 255 (x / 255)^gamma, rounded half up; below 1 the picture is lighter.

    Attributes:
        gamma_percent: the exponent in hundredths, 1..1000.
    """

    gamma_percent: int

    def __post_init__(self) -> None:
        if not 1 <= self.gamma_percent <= 1000:
            raise ConfigError(f"gamma: {self.gamma_percent} hundredths are outside 1 to 1000")

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Change uint8 pixels (height, width) or (height, width, 3)."""
        return np.array(gamma_table(self.gamma_percent), np.uint8)[pixels]

    def in_words(self) -> str:
        """Say what it does."""
        return f"gamma {self.gamma_percent / 100:g}"


Change = Shift | Crop | Gamma

# control_01 … control_10, in this order.
CHANGES: tuple[Change, ...] = (
    *(Shift(right=1, down=0), Shift(right=0, down=1), Shift(right=1, down=1)),
    *(Crop(96), Crop(92), Crop(88)),
    *(Gamma(70), Gamma(85), Gamma(120), Gamma(145)),
)
_KINDS: dict[str, type[Change]] = {"shift": Shift, "crop": Crop, "gamma": Gamma}


def to_json(change: Change) -> dict[str, Any]:
    """Name a change and its amounts, for a fingerprint."""
    (kind,) = (name for name, found in _KINDS.items() if isinstance(change, found))
    return {"kind": kind, **dataclasses.asdict(change)}


def from_json(value: Mapping[str, Any]) -> Change:
    """Read what `to_json` gives.

    Raises:
        ConfigError: there is no such change, or an amount is out of its range.
        TypeError: an amount is missing, or one too many.
    """
    amounts = {name: amount for name, amount in value.items() if name != "kind"}
    kind = _KINDS.get(str(value.get("kind")))
    if kind is None or not all(type(amount) is int for amount in amounts.values()):
        raise ConfigError(f"change {dict(value)} is unknown; known kinds: {', '.join(_KINDS)}")
    return kind(**amounts)


@functools.cache
def gamma_table(gamma_percent: int) -> tuple[int, ...]:
    """Return the new level of each of the 256 levels under a gamma.

    In whole numbers throughout: y is the level of x where y + 1/2 is the first half level above
    255 (x / 255)^(g / 100), which both sides to the power of 100 tell without rounding.

    Args:
        gamma_percent: the exponent in hundredths.
    """
    table, y = [], 0
    for x in range(_MAX + 1):
        exact = x**gamma_percent * (2 * _MAX) ** 100
        while (2 * y + 1) ** 100 * _MAX**gamma_percent <= exact:
            y += 1
        table.append(y)
    return tuple(table)


def _one_before(length: int) -> np.ndarray:
    """Return for each place the one in front of it; for the first, itself."""
    return np.maximum(np.arange(length) - 1, 0)
