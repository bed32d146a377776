"""`bottleneck status`."""

from __future__ import annotations

import click

from bottleneck_cli import options, tables
from pipelines.config import StatusConfig

_EXAMPLE = """\b
Example:
  bottleneck status --json
"""


@click.command("status", epilog=_EXAMPLE)
@options.stage("status")
def command(session: options.Session, config: StatusConfig) -> None:
    """Show what is done, who is at work, and what is left.

    Looks at plans, receipts and locks alone, changes nothing, and may be asked from any host while
    stages run.
    """
    from pipelines import status

    directory = session.workspace_dir
    features_dir = options.features_dir(session, config.features_dir)
    summary = status.run(directory, features_dir)
    session.console.emit(summary, tables.status(summary))
