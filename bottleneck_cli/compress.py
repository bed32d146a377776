"""`bottleneck compress`."""

from __future__ import annotations

import click

from bottleneck_cli import options, tables
from pipelines.config import CompressConfig

_EXAMPLE = """\b
Examples:
  bottleneck compress --images ./photos --qualities 10,50,90
  bottleneck compress --set control
"""


@click.command("compress", epilog=_EXAMPLE)
@options.stage("compress")
def command(session: options.Session, config: CompressConfig) -> None:
    """Re-encode every image as JPEG at each quality factor.

    Writes variants/jpeg/ in the workspace: sharded Parquet, a row an image, the original's bytes
    as they are beside the JPEG variants. Images that cannot be used are listed with the reason in
    variants/jpeg/quarantine.csv.

    With --set control the versions are not compressed but shifted, cropped, lighter or darker, ten
    of them as PNG in variants/control/: a network that gains as much from these gains nothing from
    compression. Both sets hold the same images, in the same splits.
    """
    from pipelines import compress as stage

    summary = stage.run(session.workspace_dir, config, session.seed, session.console)
    session.console.emit(summary, [tables.shards(summary)])
