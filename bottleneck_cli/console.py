"""What the user sees: bars or plain lines on stderr, the result on stdout."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from tqdm import tqdm

_LINE_EVERY_S = 5.0
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
_COLUMNS, _ROWS = 80, 24  # of a terminal that does not know its size; tqdm would show nothing


class Console:
    """Shows progress and notes; quiet, normal or verbose.

    Attributes:
        verbosity: -1 errors only, 0 normal, 1 details.
        json_output: print the summary as JSON instead of as text.
    """

    def __init__(self, verbosity: int, json_output: bool) -> None:
        self.verbosity = verbosity
        self.json_output = json_output
        self._bar: tqdm[Any] | None = None
        self._below: tqdm[Any] | None = None
        self._size: dict[str, Any] = {}
        self._lines: _Lines | None = None
        _send_logs_to(self, verbosity)

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a bar of `total` units, `done` of which are there already."""
        self.close()
        if self.verbosity < 0 or done >= total:
            return
        if sys.stderr.isatty():
            if os.get_terminal_size(sys.stderr.fileno()).columns:
                self._size = {"dynamic_ncols": True}
            else:
                self._size = {"ncols": _COLUMNS, "nrows": _ROWS}
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=what,
                unit=f" {unit}s",
                smoothing=0.1,
                bar_format=_BAR,
                **self._size,
            )
        else:
            self._lines = _Lines(what, total, unit, done)

    def advance(self, count: int) -> None:
        """Count units as done."""
        if self._bar is not None and self._bar.update(count) and self._below is not None:
            self._below.refresh()
        if self._lines is not None:
            self._lines.advance(count)

    def show(self, text: str) -> None:
        """Show how the work goes, in a line below the bar, which has no room for it."""
        if self._bar is not None:
            if self._below is None:
                self._below = tqdm(bar_format="  {desc}", position=1, leave=False, **self._size)
            self._below.set_description_str(text, refresh=False)
        if self._lines is not None:
            self._lines.shown = text

    def say(self, text: str) -> None:
        """Tell something in one line, above the bar."""
        if self.verbosity >= 0:
            self.write(text)

    def write(self, text: str) -> None:
        """Write one line to stderr without tearing the bar."""
        if self._bar is not None:
            with tqdm.external_write_mode(file=sys.stderr):
                click.echo(text, err=True)
        else:
            click.echo(text, err=True)

    def close(self) -> None:
        """End the bar that is running, wherever it is."""
        for bar in (self._below, self._bar):
            if bar is not None:
                bar.close()
        self._below = self._bar = self._lines = None

    def emit(self, summary: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Print the result: one JSON object on one line, or the lines."""
        self.close()
        if self.json_output:
            click.echo(json.dumps(summary, ensure_ascii=False, allow_nan=False))
        elif self.verbosity >= 0:
            for line in lines:
                click.echo(line)


class _Lines:
    """Progress as plain lines, for logs and pipes."""

    def __init__(self, what: str, total: int, unit: str, done: int) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = self._first = done
        self._started = self._printed = time.monotonic()
        self.shown = ""

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if self._done < self._total and now - self._printed < _LINE_EVERY_S:
            return
        self._printed = now
        rate = (self._done - self._first) / max(1e-9, now - self._started)
        left_s = (self._total - self._done) / max(1e-9, rate)
        click.echo(
            f"{self._what}: {self._done}/{self._total} {self._unit}s, "
            f"{rate:.1f} {self._unit}s/s, {tqdm.format_interval(left_s)} left"
            + (f", {self.shown}" if self.shown else ""),
            err=True,
        )


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.write(f"{record.levelname.lower()}: {record.getMessage()}")


def _send_logs_to(console: Console, verbosity: int) -> None:
    logger = logging.getLogger("pipelines")
    shown = {-1: logging.ERROR, 0: logging.WARNING}.get(verbosity, logging.DEBUG)
    handler = _Handler(console)
    handler.setLevel(shown)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(min(shown, logging.INFO))  # a log file has more than the terminal


def percent(share: float | None) -> str:
    """Format a fraction of 1 as a percentage, a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}%"


def duration(seconds: float) -> str:
    """Format a time that something took, in its two largest units or fewer."""
    minutes, hours, days = (int(seconds // size) for size in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
