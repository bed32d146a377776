"""`bottleneck report`."""

from __future__ import annotations

import click

from bottleneck_cli import options
from pipelines.config import ReportConfig
from pipelines.reporting import words

_EXAMPLE = """\b
Example:
  bottleneck report
  bottleneck report mixed_9 mixed_8 --to ./compared.html
"""


@click.command("report", epilog=_EXAMPLE)
@options.runs_argument
@options.stage("report")
def command(session: options.Session, config: ReportConfig, names: tuple[str, ...]) -> None:
    """Write a page about judged runs, to be read by people and sent to them.

    Without RUN, the latest. Several runs stand side by side on one page. It is one HTML file with
    everything in it: verdict, comparisons with their intervals, pictures, and the images that were
    gained and lost.
    """
    from pipelines import report as stage

    summary = stage.run(session.workspace_dir, config, names, session.console)
    verdicts = [f"run {name}: {one['verdict']}" for name, one in summary["verdicts"].items()]
    shown = f"{summary['num_shown']:,} of {summary['num_changed']:,} gained and lost images"
    size = words.size(summary["size_bytes"])
    session.console.emit(summary, [*verdicts, f"report with {shown}, {size}: {summary['to']}"])
