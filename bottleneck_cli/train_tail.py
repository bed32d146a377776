"""`bottleneck train-tail`."""

from __future__ import annotations

import click

from bottleneck_cli import console, options
from pipelines.config import TrainTailConfig

_EXAMPLE = """\b
Example:
  bottleneck train-tail --node avg_pool
  bottleneck train-tail --node mixed_9 --start-from avg_pool
"""


@click.command("train-tail", epilog=_EXAMPLE)
@options.stage("train-tail")
def command(session: options.Session, config: TrainTailConfig) -> None:
    """Train the layers behind a node from its cache.

    All branches share one tail and are joined in front of the decision layer. The default model,
    the same tail on the original alone, is trained beside it, so that there is something fair to
    compare with. Writes runs/<name>/: checkpoints, history.jsonl, TensorBoard files.
    """
    from pipelines import train_tail as stage

    features_dir = options.features_dir(session, config.features_dir)
    summary = stage.run(session.workspace_dir, features_dir, config, session.seed, session.console)
    session.console.emit(
        summary,
        [
            f"train-tail: run {summary['run']} from node {summary['node']}, "
            f"{summary['num_steps']} steps, best val top-1 "
            f"{console.percent(summary['best_val_top1'])}, default model "
            f"{console.percent(summary['default_best_val_top1'])}, {summary['seconds']:.1f} s"
        ],
    )
