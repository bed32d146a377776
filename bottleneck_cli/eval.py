"""`bottleneck eval`."""

from __future__ import annotations

import click

from bottleneck_cli import options, tables
from pipelines import runs
from pipelines.config import EvalConfig

_EXAMPLE = """\b
Example:
  bottleneck eval --run mixed_9
"""


@click.command("eval", epilog=_EXAMPLE)
@options.stage("eval")
def command(session: options.Session, config: EvalConfig) -> None:
    """Judge a trained run against the default network.

    Prints accuracies, which images were gained and lost, and whether chance explains it (McNemar's
    exact test, 95% interval by paired bootstrap). Writes results.json and predictions.parquet to
    the run's folder.
    """
    from pipelines import evaluate as stage

    results = stage.run(session.workspace_dir, config, session.seed, session.console)
    run_dir = runs.folder_of(session.workspace_dir, results["run"])
    session.console.emit(results, [*tables.results(results), f"results in {run_dir}"])
