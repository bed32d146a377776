"""`bottleneck stats`."""

from __future__ import annotations

import click

from bottleneck_cli import options, tables
from pipelines.config import StatsConfig

_EXAMPLE = """\b
Example:
  bottleneck stats --node mixed_9 --images 500
"""


@click.command("stats", epilog=_EXAMPLE)
@options.stage("stats")
def command(session: options.Session, config: StatsConfig) -> None:
    """Show how sparse the cached nodes are, and what they take on disk.

    Sizes stand beside plain float32 numbers and beside values with positions (thesis, tables 4.1
    and 4.2). Draws into stats/ the density of each node's channels, and how good the originals'
    JPEG quality is (figure 3.1).
    """
    from pipelines import stats

    directory = session.workspace_dir
    features_dir = options.features_dir(session, config.features_dir)
    summary = stats.run(directory, features_dir, config, session.console)
    session.console.emit(summary, tables.stats(summary))
