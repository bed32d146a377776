"""A matplotlib figure as SVG inside a page: real text, the page's colours, no ids that clash.

Style attributes become presentation attributes, so that the page can forbid inline styles, and
colours become the page's variables, so that a picture is readable on a light and a dark ground.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from pipelines.analysis import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_VARIABLES = {
    style.INK.lower(): "--ink",
    "#000000": "--ink",
    style.MUTED.lower(): "--muted",
    style.FAINT.lower(): "--line",
    style.BLUE.lower(): "--topology",
    style.VERMILION.lower(): "--default",
    "#ffffff": "--card",
}
_FONT = re.compile(r"(?:(?P<weight>bold|\d{3}) )?(?P<size>[\d.]+px)")
_USED = re.compile(r"url\(#([^)]+)\)")
_NOT_HERE = {"metadata", "style"}  # who made it; rules that would reach the whole page
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_LOOK: dict[Any, Any] = {
    "axes.edgecolor": style.MUTED,
    "axes.labelcolor": style.INK,
    "font.size": 10.5,
    "svg.fonttype": "none",
    "xtick.color": style.MUTED,
    "ytick.color": style.MUTED,
    "xtick.labelcolor": style.INK,
    "ytick.labelcolor": style.INK,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Set how pictures on a page look, over `style.styled`."""
    import matplotlib

    with style.styled(), matplotlib.rc_context(_LOOK):
        yield


def inline(figure: Figure, name: str, title: str, words: str) -> Markup:
    """Turn a figure into an `<svg>` element.

    Args:
        figure: drawn with `style`'s colours, on no ground of its own.
        name: makes its ids different from those of other pictures on the page.
        title: what it shows, for those who do not see it.
        words: what can be learned from it, likewise.
    """
    file = io.BytesIO()
    with styled():
        metadata = {"Creator": None, "Date": None}
        figure.savefig(file, format="svg", metadata=metadata, transparent=True)
    root = ElementTree.fromstring(file.getvalue())
    used = _used_ids(root)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _NOT_HERE:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        _mend_attributes(element, name, used)
        element.text, element.tail = _tight(element.text), None
    box = root.get("viewBox", "")
    root.attrib.clear()
    labels = {"aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-desc"}
    root.attrib.update({"class": "chart", "viewBox": box, "role": "img", **labels})
    for place, (tag, text) in enumerate((("title", title), ("desc", words))):
        told = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        told.text = text
        root.insert(place, told)
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _used_ids(root: ElementTree.Element) -> set[str]:
    found = set()
    for element in root.iter():
        for value in element.attrib.values():
            found.update(_USED.findall(value))
        found.add(element.get(f"{{{_XLINK}}}href", "").removeprefix("#"))
    return found


def _mend_attributes(element: ElementTree.Element, name: str, used: set[str]) -> None:
    kept: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "style":
            kept.update(_presentation(value))
        elif key == "id":
            if value in used:
                kept["id"] = f"{name}-{value}"
        elif _local(key) == "href":
            kept["href"] = f"#{name}-{value.removeprefix('#')}"
        else:
            kept[key] = value
    for key, value in kept.items():
        value = _USED.sub(rf"url(#{name}-\1)", value)
        if key in ("d", "points", "transform", "x", "y", "width", "height"):
            value = _NUMBER.sub(lambda number: f"{float(number[0]):.2f}", value)
        kept[key] = value
    element.attrib.clear()
    element.attrib.update(kept)


def _presentation(declarations: str) -> dict[str, str]:
    """Turn `fill: #0072b2; font: 10px 'DejaVu Sans'` into attributes."""
    found = {}
    for declaration in filter(None, map(str.strip, declarations.split(";"))):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            match = _FONT.search(value)
            if match:
                found["font-size"] = match["size"]
                if match["weight"]:
                    found["font-weight"] = match["weight"]
        elif key in ("fill", "stroke") and value.lower() in _VARIABLES:
            found[key] = f"var({_VARIABLES[value.lower()]})"
        elif key not in ("font-family", "stroke-linejoin"):
            found[key] = value
    return found


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _tight(text: str | None) -> str | None:
    return text if text and text.strip() else None
