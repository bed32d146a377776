"""`bottleneck verify`."""

from __future__ import annotations

import click

from bottleneck_cli import options, tables
from pipelines.config import VerifyConfig

_EXAMPLE = """\b
Example:
  bottleneck verify --repair && bottleneck compress && bottleneck extract
"""


@click.command("verify", epilog=_EXAMPLE)
@options.stage("verify")
def command(session: options.Session, config: VerifyConfig) -> None:
    """Check every file of the variants and the caches against its receipt.

    Names each file that is not what was written, and why; exit status 1 when there is one that
    --repair left.
    """
    from pipelines import verify

    directory = session.workspace_dir
    features_dir = options.features_dir(session, config.features_dir)
    summary = verify.run(directory, features_dir, config.deep, config.repair, session.console)
    session.console.emit(summary, tables.verification(summary))
    if summary["num_bad"] > summary["num_moved"]:
        raise click.exceptions.Exit(1)
