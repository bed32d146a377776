"""Flags made from the settings themselves: every key of bottleneck.toml is a flag."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from bottleneck_cli import logs
from bottleneck_cli.console import Console
from pipelines import workspace
from pipelines.config import TABLES, GlobalConfig
from pipelines.errors import ConfigError, SourceError
from pipelines.storage import set_folders
from pipelines.values import RunName

Command = Callable[..., None]
_GLOBALS = ("seed", "verbosity", "json")
_LOGGED = ("compress", "extract", "train-tail", "eval", "export")  # the commands that write results
_LOGS = "logs"


@dataclass(frozen=True)
class Session:
    """What every command gets.

    Attributes:
        workspace_dir: the folder with bottleneck.toml.
        content: the file's content.
        seed: of splits, orders and random starts.
        console: shows progress, prints the summary.
    """

    workspace_dir: Path
    content: Mapping[str, Any]
    seed: int
    console: Console


def stage(table: str) -> Callable[[Command], Command]:
    """Give a command the flags of its table and of all commands.

    The command is called as `command(session, config)`, with its arguments, if it has any, by name.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(directory: Path, **flags: Any) -> None:
            global_flags = {name: flags.pop(name) for name in _GLOBALS}
            fields = TABLES[table].model_fields
            arguments = {name: flags.pop(name) for name in [*flags] if name not in fields}
            content = workspace.read_file(directory)
            session = open_session(directory, content, global_flags)
            given = {name: _from_here(name, value, table) for name, value in flags.items()}
            config = workspace.table(content, table, given)
            with contextlib.ExitStack() as stack:
                if table in _LOGGED:
                    path = directory / _LOGS / _log_name(table, config)
                    stack.enter_context(logs.kept(path, workspace.settings_line(table, config)))
                stack.callback(session.console.close)  # an error starts a line below the bar
                command(session, config, **arguments)

        wrapped: Command = call
        for name, field in reversed(TABLES[table].model_fields.items()):
            wrapped = _option(name, field)(wrapped)
        return common(wrapped)

    return decorate


def common(command: Command) -> Command:
    """Add the workspace and the flags that all commands have."""
    return click.option(
        "-C",
        "--workspace",
        "directory",
        default=".",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="The workspace.  [default: the current folder]",
    )(common_flags(command))


def common_flags(command: Command) -> Command:
    """Add the flags that all commands have, but the workspace."""
    fields = GlobalConfig.model_fields
    decorators = [
        click.option("--seed", metavar="N", help=_help(fields["seed"])),
        click.option(
            "--json/--no-json",
            "json",
            is_flag=True,
            default=None,
            help="Print the summary as one JSON object on one line.",
        ),
        click.option(
            "-v",
            "--verbose",
            "verbosity",
            flag_value=1,
            type=int,
            default=None,
            help="Show details.",
        ),
        click.option(
            "-q",
            "--quiet",
            "verbosity",
            flag_value=-1,
            type=int,
            default=None,
            help="Show errors only.",
        ),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def open_session(directory: Path, content: Mapping[str, Any], flags: Mapping[str, Any]) -> Session:
    """Merge the common flags with the file and set up the console."""
    config = workspace.global_config(content, flags)
    return Session(
        directory.absolute(), content, config.seed, Console(config.verbosity, config.json_output)
    )


def run_argument(command: Command) -> Command:
    """Add the argument RUN, the name of a run."""
    return click.argument("run", metavar="RUN", callback=_plain_name)(command)


def runs_argument(command: Command) -> Command:
    """Add the argument RUN..., the names of any number of runs."""
    return click.argument("names", metavar="[RUN]...", nargs=-1, callback=_plain_names)(command)


def _plain_names(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(_plain_name(context, parameter, value) for value in values)


def _plain_name(_: click.Context, __: click.Parameter, value: str) -> str:
    """Let a name lead nowhere but to a folder of runs/."""
    try:
        name = TypeAdapter(RunName).validate_python(value)
    except ValueError:
        name = ""
    if not name:
        raise ConfigError(
            f"RUN: {value!r} is no run's name; give the name of a folder in runs/", is_usage=True
        )
    return name


def _log_name(table: str, config: Any) -> str:
    """Name a command's log file; the control set has its own, array jobs have one a share."""
    num_tasks = getattr(config, "num_tasks", 1)
    ending = set_folders.ending(getattr(config, "set", set_folders.JPEG))
    share = f"-{config.task_index}-of-{num_tasks}" if num_tasks > 1 else ""
    return f"{table}{ending}{share}.log"


def features_dir(session: Session, asked: str) -> Path:
    """Return the folder of the caches: the one asked for, or the one that extract fills."""
    extract = workspace.table(session.content, "extract", {})
    return session.workspace_dir / (asked or str(extract.caches_dir))


def images_dir(session: Session) -> Path | None:
    """Return the folder that images' names are relative to; None where none is named."""
    from pipelines.images import sources

    compress = workspace.table(session.content, "compress", {})
    try:
        return sources.root_of(compress.images, session.workspace_dir)
    except SourceError:
        return None


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    flag = "--" + name.replace("_", "-")
    if field.annotation is bool:
        both = f"{flag}/--no-{flag[2:]}"  # a flag also wins over `true` in the file
        return click.option(both, name, is_flag=True, default=None, help=_help(field))
    return click.option(
        flag,
        name,
        multiple=bool(extra.get("repeat")),
        default=None,
        metavar=str(extra.get("metavar", _metavar(field))),
        help=_help(field),
    )


def _metavar(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    if isinstance(field.default, int | float):
        return "N" if isinstance(field.default, int) else "NUMBER"
    allowed = str(extra["allowed"])
    choices = allowed.replace(" or ", ", ").split(", ")
    return "NAME" if any(" " in choice for choice in choices) else "|".join(choices)


def _help(field: FieldInfo) -> str:
    default = field.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"{field.description}" + (f"  [default: {shown}]" if shown not in ("", "False") else "")


def _from_here(name: str, value: Any, table: str) -> Any:
    """Make a path given on the command line independent of the workspace's place."""
    if value in (None, ()):
        return None
    if value == "":
        return value
    extra = TABLES[table].model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    metavar = extra.get("metavar")
    is_path = (
        metavar in ("FILE", "DIR")
        or (metavar == "PATH" and (value != "elpv" or Path(value).is_dir()))
        or (metavar == "WEIGHTS" and value not in ("imagenet", "none"))
    )
    return str(Path(value).absolute()) if is_path else value
