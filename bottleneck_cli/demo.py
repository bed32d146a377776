"""`bottleneck demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bottleneck_cli import options
from pipelines import runs, workspace

_EXAMPLE = """\b
Example:
  bottleneck demo
  bottleneck demo --full
"""
_NUM_IMAGES, _NUM_QUICK = 600, 150
_BLOCK_NODE = "block7a_expand_activation"
# An epoch is 5 steps here, so more epochs than the thesis takes; the plateau ends a block earlier.
_SETTINGS: dict[str, dict[str, Any]] = {
    "extract": {"backbone": "efficientnet_lite0", "node": ["avg_pool", _BLOCK_NODE]},
    "train-tail": {"learning_rate": 0.003},
}
_HEAD = ("--epochs", "60", "--patience", "10")
_STAGES: tuple[tuple[str, ...], ...] = (
    ("compress",),
    ("extract",),
    ("train-tail", "--node", "avg_pool", "--run", "head", *_HEAD),
    ("eval", "--run", "head"),
    (
        *("train-tail", "--node", _BLOCK_NODE, "--run", "block7a", "--start-from", "head"),
        *("--epochs", "12", "--patience", "6", "--learning-rate", "0.03"),
    ),
    ("eval", "--run", "block7a"),
    ("report", "head", "block7a"),
)
_TOLD = ("eval", "--run", "block7a")  # what --json prints
# With all images: every fusion and both controls, in folds, before the page.
_MORE_STAGES: tuple[tuple[str, ...], ...] = (
    ("extract", "--set", "control", "--on-the-fly", "--node", "avg_pool"),
    *(
        ("train-tail", "--node", "avg_pool", "--run", fusion, "--fusion", fusion, *_HEAD)
        for fusion in ("mean", "original_mean", "weighted", "gated")
    ),
    ("eval", "--run", "head", "--compare", "all"),
    ("eval", "--run", "head", "--compare", "all", "--folds", "5", "--seeds", "3"),
)


@click.command("demo", epilog=_EXAMPLE)
@click.option("--full", is_flag=True, help=f"All 2,624 images instead of {_NUM_IMAGES}.")
@click.option("--quick", is_flag=True, help=f"Only {_NUM_QUICK} images, which show little.")
@click.option(
    "-C",
    "--workspace",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="The workspace.  [default: demo, demo-full or demo-quick]",
)
@options.common_flags
@click.pass_context
def command(
    ctx: click.Context, full: bool, quick: bool, directory: Path | None, **flags: Any
) -> None:
    """Run all stages on real photographs that a package ships.

    2,624 solar cells (functional or defective, package elpv-dataset) go through EfficientNet-Lite0
    with its ImageNet weights: compressed at ten qualities, cached at two nodes, then two blocks
    are trained in turn, the head first, judged, and shown on a page. With --full the head is also
    compared with other fusions and with controls, in five folds with three seeds, which takes
    longer. Safe to repeat: what is done is not done again.
    """
    if full and quick:
        raise click.UsageError("--full and --quick: leave out one of them")
    directory = directory or Path("demo-full" if full else "demo-quick" if quick else "demo")
    if not (directory / workspace.FILE_NAME).exists():
        limit = _NUM_QUICK if quick else _NUM_IMAGES
        compress = {"images": "elpv", **({} if full else {"limit": limit})}
        comment = "The demonstration; see `bottleneck demo --help`."
        workspace.create(directory, {"compress": compress, **_SETTINGS}, [comment], 0)
    session = options.open_session(directory, workspace.read_file(directory), flags)
    common = _common(directory, flags)
    stages = (*_STAGES[:-1], *(_MORE_STAGES if full else ()), _STAGES[-1])
    for stage in stages:
        if not flags["json"]:
            session.console.say(f"\n$ bottleneck {' '.join(stage)} -C {directory}")
        quiet = ["--json" if stage == _TOLD else "-q"] if flags["json"] else []
        group = ctx.find_root().command
        code = group.main([*stage, *common, *quiet], "bottleneck", standalone_mode=False)
        if code:
            ctx.exit(code)
    for name in ("head", "block7a"):
        path = runs.folder_of(directory, name) / runs.RESULTS
        session.console.say(f"results of run {name}: {path}")
    session.console.say(f"the page: {directory / 'report.html'}")


def _common(directory: Path, flags: dict[str, Any]) -> list[str]:
    seed = ["--seed", str(flags["seed"])] if flags["seed"] is not None else []
    verbosity = {1: ["-v"], -1: ["-q"]}.get(flags["verbosity"], [])
    return ["-C", str(directory), *seed, *verbosity]
