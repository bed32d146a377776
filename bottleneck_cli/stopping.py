"""Ctrl-C and SIGTERM as a request, for work that saves before it ends; a second Ctrl-C insists."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_HEARD = b"\nstopping behind this step, then saving; Ctrl-C again ends at once\n"


@contextlib.contextmanager
def watched(is_quiet: bool = False) -> Iterator[Callable[[], bool]]:
    """Catch both signals while the block runs; gives a function that tells whether one came.

    Args:
        is_quiet: do not say that the first has been heard.

    Raises:
        KeyboardInterrupt: at the end of the block, where one came that nobody was told of.
    """
    asked: list[int] = []
    told: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        if not is_quiet:
            with contextlib.suppress(OSError):
                os.write(2, _HEARD)  # not through a stream, which may be in the middle of a line

    def is_asked() -> bool:
        told.extend([True] if asked else [])
        return bool(asked)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield is_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked and not told:
        raise KeyboardInterrupt
