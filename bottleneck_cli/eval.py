"""`bottleneck eval`."""

from __future__ import annotations

from functools import partial

import click

from bottleneck_cli import eval_tables, options, stopping
from pipelines import runs
from pipelines.config import EvalConfig

_EXAMPLE = """\b
Example:
  bottleneck eval --run mixed_9
  bottleneck eval --run mixed_9 --compare all --folds 5 --seeds 3
"""


@click.command("eval", epilog=_EXAMPLE)
@options.stage("eval")
def command(session: options.Session, config: EvalConfig) -> None:
    """Judge a trained run against the default network, and against controls.

    Prints accuracies with their intervals, the difference of each comparator to the default model
    and whether chance explains it (McNemar's exact test, paired bootstrap, Holm's correction), and
    says in words what that shows. Writes results.json, predictions.parquet and lists of the images
    gained and lost to the run's folder.
    """
    from pipelines import evaluate as stage

    console, images_dir = session.console, options.images_dir(session)
    watch = partial(stopping.watched, console.verbosity < 0)
    results = stage.run(session.workspace_dir, config, session.seed, console, watch, images_dir)
    console.json_output |= config.output == "json"
    where = [f"results in {runs.folder_of(session.workspace_dir, results['run'])}"]
    lines = [] if console.json_output else eval_tables.lines(results, config.output)
    console.emit(results, [*lines, *(where if config.output == "table" else [])])
