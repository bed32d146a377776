"""`bottleneck export`."""

from __future__ import annotations

import click

from bottleneck_cli import options
from pipelines.config import ExportConfig
from pipelines.reporting import words

_EXAMPLE = """\b
Example:
  bottleneck export mixed_9 --to ./classifier
"""


@click.command("export", epilog=_EXAMPLE)
@options.run_argument
@options.stage("export")
def command(session: options.Session, config: ExportConfig, run: str) -> None:
    """Write the trained run RUN as a Keras file and a SavedModel, to be used without this program.

    Writes into the folder --to, whole or not at all: model.keras; saved_model/, which takes either
    the versions of images or the bytes of JPEG and PNG files; model.json and README.md, which say
    what goes in and what comes out.
    """
    from pipelines import export as stage

    summary = stage.run(session.workspace_dir, config, run, session.console)
    size = words.size(summary["size_bytes"])
    signatures = ", ".join(summary["signatures"])
    lines = [f"export: run {run}, {size}, signatures {signatures}", f"written to {summary['to']}"]
    session.console.emit(summary, lines)
