"""`bottleneck explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from bottleneck_cli import options
from bottleneck_cli.console import percent
from bottleneck_cli.tables import columns
from pipelines.config import ExplainConfig
from pipelines.reporting import words

_EXAMPLE = """\b
Example:
  bottleneck explain mixed_9 cat/0012.jpg --to ./cat.png
"""
_TYPES = {"A": "gained (A)", "B": "lost (B)", "C": "neither gained nor lost (C)"}


@click.command("explain", epilog=_EXAMPLE)
@options.run_argument
@click.argument("image", metavar="IMAGE")
@options.stage("explain")
def command(session: options.Session, config: ExplainConfig, run: str, image: str) -> None:
    """Show why IMAGE was gained or lost by the judged run RUN.

    IMAGE is a name from the run's predictions, or a path that ends in one. Prints rank and
    confidence of its label on each version; draws the original beside its best version, where they
    differ, and the label's confidence over the quality factors.
    """
    from pipelines import explain as stage

    summary = stage.run(session.workspace_dir, config, run, image)
    if summary["problem"]:
        session.console.say(f"note: no picture: {summary['problem']}")
    session.console.emit(summary, _lines(summary))


def _lines(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that show an image."""
    best_version = values["best_version"]
    rows = [["topology", *_place(values["topology"])]]
    for name, one in values["default"]["branches"].items():
        rows.append([f"default on {name}{' (best)' * (name == best_version)}", *_place(one)])
    best = [
        f"{title}: " + ", ".join(f"{one['label']} {percent(one['confidence'])}" for one in top)
        for title, top in (
            ("default model's first", values["default"]["top5"]),
            ("topology's first", values["topology"]["top5"]),
        )
    ]
    return [
        f"{values['id']}: {values['label']}, {_TYPES[values['type']]} by run {values['run']} "
        f"on {values['split']}",
        *([words.THESIS] if values["protocol"] == "thesis" else []),
        *columns(["label", "rank", "confidence"], rows),
        *best,
        *([f"picture: {values['picture']}"] if values["picture"] else []),
    ]


def _place(one: Mapping[str, Any]) -> list[str]:
    return [f"{one['rank']:,}", percent(one["confidence"])]
