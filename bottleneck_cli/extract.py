"""`bottleneck extract`."""

from __future__ import annotations

from typing import Any

import click

from bottleneck_cli import console, options, tables
from pipelines import workspace
from pipelines.config import ExtractConfig
from pipelines.reporting import words

_EXAMPLE = """\b
Examples:
  bottleneck extract --backbone inception_v3 --node avg_pool --node mixed_9
  bottleneck extract --set control --on-the-fly --node mixed_9
"""


@click.command("extract", epilog=_EXAMPLE)
@options.stage("extract")
def command(session: options.Session, config: ExtractConfig) -> None:
    """Run the frozen network once and keep what it gives at a node.

    Writes features/<node>/ in the workspace: for each image and branch the non-zero activations
    and their positions, or all of them where that is smaller. `bottleneck nodes` lists the nodes.
    With --set control it writes features-control/<node>/, from variants/control/.
    """
    session.console.emit(*run(session, config))


def run(session: options.Session, config: ExtractConfig) -> tuple[dict[str, Any], list[str]]:
    """Extract, and say in a few lines how it went."""
    from pipelines import extract as stage

    compress = workspace.table(session.content, "compress", {}) if config.on_the_fly else None
    summary = stage.run(
        session.workspace_dir, config, session.seed, session.console, compress_config=compress
    )
    lines = [tables.shards(summary), *tables.work(summary)]
    for name, node in summary["nodes"].items():
        shape = "x".join(map(str, node["shape"]))
        lines.append(
            f"  {name}: {tables.count(node['num_branches'], 'branch')} of {shape} {node['dtype']}, "
            f"{console.percent(node['density'])} non-zero, {node['encoding']}, "
            f"{words.size(node['size_bytes'])}"
        )
        lines += tables.extracted(node)
    return summary, lines
