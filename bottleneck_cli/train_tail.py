"""`bottleneck train-tail`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from bottleneck_cli import extract, options, stopping, tables
from pipelines import workspace
from pipelines.config import ExtractConfig, TrainTailConfig

_EXAMPLE = """\b
Examples:
  bottleneck train-tail --node avg_pool
  bottleneck train-tail --node mixed_9 --start-from avg_pool
  bottleneck train-tail --blocks 4 --extract
  bottleneck train-tail --node avg_pool --sweep learning_rate=0.1,0.03 --sweep fusion=concat,mean
"""


@click.command("train-tail", epilog=_EXAMPLE)
@options.stage("train-tail")
def command(session: options.Session, config: TrainTailConfig) -> None:
    """Train the layers behind a node from its cache.

    All branches share one tail and are joined in front of the decision layer. The default model,
    the same tail on the original alone, is trained beside it, so that there is something fair to
    compare with. With --blocks one block after the other is trained, from the end of the network
    towards the front. Writes runs/<name>/: checkpoints, history.jsonl, TensorBoard files and a
    picture. Ctrl-C saves; the same command goes on.
    """
    from pipelines import train_tail as stage

    features_dir = options.features_dir(session, config.features_dir)
    network = workspace.table(session.content, "extract", {})
    stage.check_settings(config)
    if config.extract:
        _make_caches(session, features_dir, config, network)
    summary = stage.run(
        session.workspace_dir,
        features_dir,
        config,
        session.seed,
        session.console,
        partial(stopping.watched, session.console.verbosity < 0),
        network,
    )
    session.console.emit(summary, tables.trained(summary))


def _make_caches(
    session: options.Session, features_dir: Path, config: TrainTailConfig, network: ExtractConfig
) -> None:
    """Run `extract` for the caches that a chain of blocks lacks."""
    from pipelines import train_chain

    lacking = train_chain.find_lacking(
        session.workspace_dir, features_dir, config, session.seed, network
    )
    if lacking:
        _, lines = extract.run(session, network.model_copy(update=lacking))
        session.console.close()  # its bar, before anything is said below it
        for line in lines:
            session.console.say(line)
