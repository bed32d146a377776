"""`bottleneck init`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from bottleneck_cli import options
from pipelines import workspace
from pipelines.errors import ConfigError

_EXAMPLE = """\b
Example:
  bottleneck init my-set --images ./photos
  cd my-set && bottleneck compress
"""


@click.command("init", epilog=_EXAMPLE)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--images",
    required=True,
    metavar="PATH",
    help="The labelled images: a folder, a list, or elpv.",
)
@click.option("--classes", metavar="FILE", help="A text file with one class name a line.")
@options.common_flags
def command(directory: Path, images: str, classes: str | None, **flags: Any) -> None:
    """Make a workspace for a set of labelled images.

    Looks at the images and writes DIRECTORY/bottleneck.toml with every setting, its default and
    its meaning, and with what was found.
    """
    from pipelines.images import sources

    session = options.open_session(directory, {}, flags)
    path = directory / workspace.FILE_NAME
    if path.exists():
        raise ConfigError(
            f"{path}: there already; edit it, or choose another folder", is_usage=True
        )
    class_path = Path(classes).absolute() if classes else None
    source = sources.open_source(images, base_dir=Path.cwd(), classes_path=class_path)
    if source.kind == "folders":
        sources.check_apart(directory, source.root)
    found = sources.summary(source)
    given = {
        "images": images if source.kind == "elpv" else _from(directory, Path(images)),
        **({"classes": _from(directory, class_path)} if class_path else {}),
    }
    workspace.create(directory, {"compress": given}, _lines(found), session.seed)
    summary = {"stage": "init", "workspace": str(directory), **found}
    session.console.emit(summary, [f"{path}: written", *(f"  {line}" for line in _lines(found))])


def _from(directory: Path, path: Path) -> str:
    return Path(os.path.relpath(path.absolute(), directory.absolute())).as_posix()


def _lines(found: dict[str, Any]) -> list[str]:
    """Say in words what the source holds."""
    splits = ", ".join(f"{name} {count:,}" for name, count in found["splits"].items()) or "none"
    largest = sorted(found["classes"].items(), key=lambda item: -item[1])[:8]
    classes = ", ".join(f"{name} {count:,}" for name, count in largest)
    more = f" and {len(found['classes']) - 8} more" if len(found["classes"]) > 8 else ""
    lines = [
        f"{found['num_images']:,} images in {found['num_classes']:,} classes: {classes}{more}",
        f"splits given: {splits}",
    ]
    if found["num_problems"]:
        lines.append(f"entries that cannot be read and go to quarantine: {found['num_problems']}")
    return lines
