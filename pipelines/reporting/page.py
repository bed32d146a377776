"""The page itself: what every run's sections show, put into one HTML file that needs no other."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipelines.analysis.naming import ordered
from pipelines.reporting import sections, words
from pipelines.reporting.gallery import Gallery
from pipelines.reporting.results import Results
from pipelines.reporting.sections import (
    Blocks,
    CacheRow,
    Classes,
    Comparison,
    FoldComparison,
    Leaning,
)

if TYPE_CHECKING:
    import jinja2

MAX_BYTES = 5_000_000


@dataclass(frozen=True)
class Noted:
    """A section that may have nothing to show.

    Attributes:
        rows: of its table.
        picture: of it, if there is one.
        note: why there is nothing, or not all, and what brings it; empty where all is there.
    """

    rows: Any = ()
    picture: Markup | None = None
    note: str = ""


@dataclass(frozen=True)
class RunView:
    """All that the page shows of one run.

    Attributes:
        slug: its anchor on the page.
        results: of `bottleneck eval`.
        class_names: in label order.
        parent: the run that it started from; empty for none.
        comparison: all comparators.
        folds: all comparators over folds and seeds; None where there are none.
        leaning: which branch it needs.
        blocks: its chain.
        qualities: the default model on each version.
        calibration: of both models.
        classes: by class.
        caches: density and size by node.
        originals: quality factors.
        training: the history.
        gallery: gained and lost images; None until there is room for it.
        settings: fingerprint as rows of path and value.
        commands: that made it.
    """

    slug: str
    results: Results
    class_names: Sequence[str]
    parent: str
    comparison: Comparison
    folds: FoldComparison | None
    leaning: Leaning | None
    blocks: Blocks | None
    qualities: Markup | None
    calibration: Markup | None
    classes: Classes | None
    caches: Noted
    originals: Noted
    training: Noted
    gallery: Gallery | None
    settings: Sequence[tuple[str, str]]
    commands: Sequence[str]

    @property
    def cache_rows(self) -> Sequence[CacheRow]:
        """Of the caches' tables."""
        rows: Sequence[CacheRow] = self.caches.rows
        return rows


def render(views: Sequence[RunView], version: str, command: str) -> str:
    """Write the page.

    Args:
        views: a run or several, each with a name of its own.
        version: of this program.
        command: that makes this page again.
    """
    environment = _environment()
    parts = {name: _source(environment, name) for name in ("style.css", "script.js")}
    return environment.get_template("page.html").render(
        views=views,
        style=parts["style.css"],
        style_hash=_hash(parts["style.css"]),
        script=parts["script.js"],
        script_hash=_hash(parts["script.js"]),
        differing=differing(views),
        version=version,
        command=command,
        max_classes=sections.MAX_CLASSES,
    )


def differing(views: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs: path, and a value a run."""
    tables = [dict(view.settings) for view in views]
    names = dict.fromkeys(path for table in tables for path in table)
    rows = [(path, [table.get(path, "–") for table in tables]) for path in names]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        *("percent", "points", "interval", "percents", "p_value", "count", "signed", "size"),
        *("branch", "rank", "tick"),
    ):
        environment.filters[name] = getattr(words, name)
    environment.filters["comparator"] = words.comparator
    environment.filters["in_order"] = ordered
    environment.filters["named"] = sections.named
    return environment


def _source(environment: jinja2.Environment, name: str) -> Markup:
    loader = environment.loader
    assert loader is not None  # it was given one above
    return Markup(loader.get_source(environment, name)[0])


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy calls a script or style sheet by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
