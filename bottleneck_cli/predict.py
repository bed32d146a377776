"""`bottleneck predict`."""

from __future__ import annotations

from pathlib import Path

import click

from bottleneck_cli import options, tables
from pipelines.config import PredictConfig

_EXAMPLE = """\b
Example:
  bottleneck predict mixed_9 holiday/*.jpg --top 3
"""


@click.command("predict", epilog=_EXAMPLE)
@options.run_argument
@click.argument(
    "images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@options.stage("predict")
def command(
    session: options.Session, config: PredictConfig, run: str, images: tuple[Path, ...]
) -> None:
    """Say which classes the trained run RUN takes images for.

    Takes every kind of image that compress takes. The versions of an image are made in memory, as
    compress makes them, and go through the frozen network and the run's best checkpoint. An image
    that cannot be used is named with the reason; the others are predicted, and the exit status
    is 1.
    """
    from pipelines import predict as stage

    summary = stage.run(session.workspace_dir, config, run, images, session.console)
    session.console.emit(summary, tables.predictions(summary))
    for prediction in summary["predictions"]:
        if "error" in prediction:
            click.echo(f"error: {prediction['path']}: {prediction['error']}", err=True)
    if summary["num_failed"]:
        raise click.exceptions.Exit(1)
