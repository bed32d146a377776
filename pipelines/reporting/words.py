"""Numbers and names as a reader sees them."""

from __future__ import annotations

import re

THESIS = "thesis protocol: selected and reported on the same images"
_MINUS = "\u2212"
_QUALITY = re.compile(r"q0*(\d+)")


def percent(share: float | None, digits: int = 2) -> str:
    """Write a share as a percentage; a dash where there is none."""
    return "–" if share is None else _minus(f"{100 * share:.{digits}f}%")


def points(difference: float | None, digits: int = 2) -> str:
    """Write a difference of shares in percentage points, with its sign."""
    if difference is None:
        return "–"
    text = f"{100 * difference:+.{digits}f}"
    return _minus(text) if float(text) else text.lstrip("+-")


def interval(bounds: tuple[float, float] | None, digits: int = 2) -> str:
    """Write an interval of differences in points."""
    return "–" if bounds is None else " to ".join(points(bound, digits) for bound in bounds)


def percents(bounds: tuple[float, float] | None, digits: int = 1) -> str:
    """Write an interval of shares."""
    if bounds is None:
        return "–"
    return f"{100 * bounds[0]:.{digits}f} to {percent(bounds[1], digits)}"


def p_value(p: float | None) -> str:
    """Write a p-value: as many digits as say something."""
    if p is None:
        return "–"
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(number: int | None) -> str:
    """Write a number of things."""
    return "–" if number is None else f"{number:,}"


def signed(number: int) -> str:
    """Write a change of a count, with its sign."""
    return _minus(f"{number:+,}") if number else "0"


def size(size_bytes: float) -> str:
    """Write bytes."""
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def branch(name: str) -> str:
    """Name a version of an image: `q010` is quality 10."""
    match = _QUALITY.fullmatch(name)
    return f"quality {match[1]}" if match else name.replace("_", " ")


def tick(name: str) -> str:
    """Name a version below an axis."""
    match = _QUALITY.fullmatch(name)
    return match[1] if match else {"original": "orig."}.get(name, name.rpartition("_")[2])


def comparator(name: str) -> str:
    """Name a way to classify the images, as a row of a table."""
    known = {
        "default": "default model",
        "topology": "topology",
        "mean_logits": "mean of the branches' scores",
        "copies": "copies of the original",
        "control": "control",
        "control_mean_logits": "mean of the control's scores",
    }
    if name.startswith("branch_"):
        return f"default on {branch(name.removeprefix('branch_'))}"
    if name.startswith("run_"):
        return f"run {name.removeprefix('run_')}"
    return known.get(name, name.replace("_", " "))


def rank(place: int) -> str:
    """Write a rank, which is counted from 0, as people count: 1 is the best."""
    return f"{place + 1:,}"


def _minus(text: str) -> str:
    return text.replace("-", _MINUS)
