"""The command line inside the test's own process, and what lies in the shards that it writes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner, Result

from bottleneck_cli.main import main


@contextmanager
def logging_left_as_it_was() -> Iterator[None]:
    """Take back that the command line sends log records to its own console, past caplog."""
    logger = logging.getLogger("pipelines")
    before = logger.handlers, logger.propagate, logger.level
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


def invoke(*arguments: str | Path) -> Result:
    """Run `bottleneck` with these arguments; a bug's traceback fails the test."""
    with logging_left_as_it_was():
        return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def the_error(result: Result, status: int = 1) -> str:
    """Give the one line that a failed command wrote, after its notes and progress.

    Args:
        result: of `invoke`.
        status: the exit status that is expected.
    """
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    return lines[-1].removeprefix("error: ")


def read_shards(folder: Path) -> pa.Table:
    """Read every shard of a set, in the order of their names."""
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))
