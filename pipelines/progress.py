"""How a stage tells what it is doing; the command line makes bars of it, scripts may ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a stage reports while it works."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a piece of work of `total` units, `done` of which earlier runs did."""

    def advance(self, count: int) -> None:
        """Count `count` more units as done."""

    def say(self, text: str) -> None:
        """Tell the user something that matters for the result, in one line."""


class Silent:
    """Reports nothing."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Ignore it."""

    def advance(self, count: int) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""
