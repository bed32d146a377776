"""How a stage tells what it is doing; the command line makes bars of it, scripts may ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a stage reports while it works."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a piece of work of `total` units, `done` of which earlier runs did."""

    def advance(self, count: int) -> None:
        """Count `count` more units as done."""

    def show(self, text: str) -> None:
        """Show how the work goes, beside the count."""

    def say(self, text: str) -> None:
        """Tell the user something that matters for the result, in one line."""

    def close(self) -> None:
        """End the piece of work, whether all of it was done or not."""


class Silent:
    """Reports nothing."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Ignore it."""

    def advance(self, count: int) -> None:
        """Ignore it."""

    def show(self, text: str) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Ignore it."""
