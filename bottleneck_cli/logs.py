"""What a command and all its workers log, in one file of the workspace."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import ConfigError, PipelineError

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_logger = logging.getLogger("pipelines")


class _Handler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Let a disk that is full be told by what must be written."""


@contextlib.contextmanager
def kept(path: Path, first: str) -> Iterator[None]:
    """Append everything that is logged in the block to a file, and how the block ended.

    A place where nothing can be written disturbs nobody, and settings with which nothing can begin
    begin no file.

    Args:
        path: of the file; its folder is made when missing.
        first: line to begin with.
    """
    is_begun = True
    try:
        is_first = not path.exists()
        path.parent.mkdir(exist_ok=True)
        handler = _Handler(path, encoding="utf-8", errors="backslashreplace")
    except OSError:
        yield
        return
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.setLevel(logging.INFO)
    _logger.addHandler(handler)
    try:
        _log(handler, logging.INFO, first)
        yield
        _log(handler, logging.INFO, "done")
    except PipelineError as error:
        is_begun = not isinstance(error, ConfigError)
        _log(handler, logging.ERROR, str(error))
        raise
    except BaseException as error:
        _log(handler, logging.ERROR, f"ended by {type(error).__name__} {error}")
        raise
    finally:
        _logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk: what could not be written goes
            handler.close()
        if is_first and not is_begun:  # the workspace may lie where it must not
            with contextlib.suppress(OSError):
                path.unlink()
                path.parent.rmdir()


def _log(handler: logging.Handler, level: int, text: str) -> None:
    """Write to the file alone: the terminal hears of it in another way."""
    record = logging.LogRecord("pipelines", level, "", 0, text.replace("\n", " "), (), None)
    handler.handle(record)
