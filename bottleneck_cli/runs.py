"""`bottleneck runs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from bottleneck_cli import options
from bottleneck_cli.console import duration, percent
from bottleneck_cli.tables import columns
from pipelines.config import RunsConfig

_EXAMPLE = """\b
Example:
  bottleneck runs --sort top1
"""
_Row = Mapping[str, Any]
_Cell = Callable[[_Row], str]


@click.command("runs", epilog=_EXAMPLE)
@options.stage("runs")
def command(session: options.Session, config: RunsConfig) -> None:
    """List the runs: what they are, how far and how good.

    What is the same in all of them stands in the last line. Changes nothing, and may be asked while
    runs are trained.
    """
    from pipelines import list_runs as stage

    summary = stage.run(session.workspace_dir, config.sort)
    session.console.emit(summary, _table(summary["runs"]))


def _table(rows: Sequence[_Row]) -> list[str]:
    """Return the lines that show runs side by side."""
    if not rows:
        return ["no run yet; `bottleneck train-tail` makes one"]
    known = [row for row in rows if row["node"]]
    same = {}
    for head, cell in _DESCRIBED.items():
        told = {cell(row) for row in known}
        if len(known) > 1 and len(told) == 1 and any(told):
            same[head] = told.pop()
    names = dict.fromkeys(name for row in rows for name in row["settings"])
    settings = {name: _setting(name) for name in names}
    shown = {}
    for head, cell in {**_FIRST, **_DESCRIBED, **settings, **_MEASURED}.items():
        cells = [cell(row) for row in rows]
        if head not in same and any(cells):
            shown[head] = cells
    head, *lines = columns(list(shown), list(zip(*shown.values(), strict=True)))
    found = [head]
    for line, row in zip(lines, rows, strict=True):
        found += [line, *([f"    {row['problem']}"] if row["problem"] else [])]
    alike = ", ".join(f"{head} {cell}" for head, cell in same.items())
    return found + ([f"the same in all: {alike}"] if alike else [])


def _text(key: str) -> _Cell:
    return lambda row: row[key] or ""


def _number(key: str) -> _Cell:
    """Count a list, or write a number."""
    return lambda row: "" if row[key] is None else f"{_length(row[key]):,}"


def _length(value: int | Sequence[str]) -> int:
    return value if isinstance(value, int) else len(value)


def _setting(name: str) -> _Cell:
    return lambda row: str(row["settings"].get(name, ""))


def _share(key: str) -> _Cell:
    return lambda row: "" if row[key] is None else percent(row[key])


def _gain(row: _Row) -> str:
    return "" if row["gain"] is None else f"{100 * row['gain']:+.2f}"


def _ago(row: _Row) -> str:
    """Say how long nothing has been done."""
    when = row["last_worked"]
    return "" if when is None else f"{duration(max(0.0, time.time() - when))} ago"


_FIRST: Mapping[str, _Cell] = {"run": _text("run"), "state": _text("state")}
_DESCRIBED: Mapping[str, _Cell] = {
    "node": _text("node"),
    "blocks": _number("blocks"),
    "from": _text("start_from"),
    "fusion": _text("fusion"),
    "branches": _number("branches"),
    "default model": _text("default_kind"),
}
_MEASURED: Mapping[str, _Cell] = {
    "steps": _number("num_steps"),
    "val top-1": _share("best_val_top1"),
    "default": _share("default_best_val_top1"),
    "test": _share("test_top1"),
    "gain": _gain,
    "worked on": _ago,
}
