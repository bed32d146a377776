"""`bottleneck nodes`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from bottleneck_cli import options, tables
from pipelines import workspace

_EXAMPLE = """\b
Example:
  bottleneck nodes --backbone inception_v3
"""


@click.command("nodes", epilog=_EXAMPLE)
@click.option(
    "--backbone", metavar="NAME", help="The network; without it, the workspace's or inception_v3."
)
@options.common
def command(directory: Path, backbone: str | None, **flags: Any) -> None:
    """List the pivotal nodes of a network.

    A node is a point where cutting the graph leaves one tensor. Numbers and float32 size are those
    of one branch of one image; the tail is what lies behind the node, without the decision layer.
    """
    from pipelines.execution import devices

    is_workspace = directory != Path() or (directory / workspace.FILE_NAME).exists()
    content = workspace.read_file(directory) if is_workspace else {}
    session = options.open_session(directory, content, flags)
    name = workspace.table(content, "extract", {"backbone": backbone}).backbone
    devices.configure()
    from pipelines.networks import backbones, nodes

    model = backbones.load(name, backbones.NONE, session.seed).model
    found = [dataclasses.asdict(node) for node in nodes.list_nodes(name, model)]
    for node in found:
        del node["layer_name"]  # Keras's own spelling, which changes from process to process
    summary = {"backbone": name, "nodes": found}
    session.console.emit(summary, tables.nodes(summary))
