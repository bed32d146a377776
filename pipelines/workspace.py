"""Settings of one command: bottleneck.toml with the flags laid over it; flags win."""

from __future__ import annotations

import difflib
import json
import logging
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipelines.config import TABLES, GlobalConfig
from pipelines.config_keys import Table
from pipelines.errors import ConfigError
from pipelines.storage import atomic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "bottleneck.toml"
_logger = logging.getLogger(__name__)
TableT = TypeVar("TableT", bound=Table)


def read_file(workspace_dir: Path) -> dict[str, Any]:
    """Read and check the workspace's bottleneck.toml.

    Returns:
        The file's content: tables by name, and the keys outside them.

    Raises:
        ConfigError: no such file, no valid TOML, an unknown key or a value that is not allowed.
    """
    path = workspace_dir / FILE_NAME
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{workspace_dir.absolute()}: no {FILE_NAME} here; run in a workspace, name one with "
            "-C, or make one with `bottleneck init DIR --images PATH`",
            is_usage=True,
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    outer = {name: value for name, value in content.items() if name not in TABLES}
    known = [*TABLES, *_keys(GlobalConfig)]
    for name in outer:
        if name not in known:
            raise ConfigError(f"{path}: {_unknown(name, known)}")
    _build(GlobalConfig, outer, {}, f"{path}: ")
    for name, table in TABLES.items():
        values = content.get(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {name} = {values!r} is not allowed; write it as [{name}]")
        _build(table, values, {}, f"{path}: [{name}] ")
    return content


def table(content: Mapping[str, Any], name: str, flags: Mapping[str, Any]) -> Any:
    """Merge one table of the file with the command's flags; flags that are None were not given.

    Raises:
        ConfigError: a flag's value is not allowed (`is_usage` is set).
    """
    given = {key: value for key, value in flags.items() if value is not None}
    values = TABLES[name].beneath(content.get(name, {}), given)
    config = _build(TABLES[name], values, given, f"{FILE_NAME}: [{name}] ")
    _logger.debug("%s", settings_line(name, config))
    return config


def settings_line(name: str, config: Table) -> str:
    """Return a table's settings in one line."""
    shown = ", ".join(f"{key} {_shown(value)}" for key, value in config.model_dump().items())
    return f"[{name}] {shown}"


def global_config(content: Mapping[str, Any], flags: Mapping[str, Any]) -> GlobalConfig:
    """Merge the keys outside any table with the flags every command has."""
    outer = {key: value for key, value in content.items() if key not in TABLES}
    return _build(GlobalConfig, outer, flags, f"{FILE_NAME}: ")


def create(
    directory: Path, given: Mapping[str, Mapping[str, Any]], comments: Sequence[str], seed: int
) -> None:
    """Write a bottleneck.toml that holds every key, commented where it has its default.

    Args:
        directory: the workspace; made when missing.
        given: for each table, the keys that are set.
        comments: what was found, for the head of the file.
        seed: set when it is not the default.
    """
    lines = [
        "# Settings of this workspace; every key is also a flag of its command, and flags win.",
        "# Paths are relative to this file's folder (in a flag, to where the command is run).",
        *(f"# {_printable(line)}" for line in comments),
        "",
        *_key_lines(GlobalConfig, {"seed": seed} if seed else {}),
    ]
    for name, model in TABLES.items():
        lines += [f"[{name}]", *_key_lines(model, given.get(name, {}))]
    atomic.make_folder(directory)
    atomic.write_bytes(directory / FILE_NAME, "\n".join(lines).encode("utf-8"))


def _key_lines(model: type[Table], given: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        value = given.get(key, field.default)
        text = f"{key} = {_to_toml(key, value)}"
        note = f"# {field.description} Allowed: {_allowed(model, key)}."
        lines += [
            *textwrap.wrap(note, 96, subsequent_indent="# "),
            ("" if key in given else "# ") + text,
            "",
        ]
    return lines


def _to_toml(key: str, value: object) -> str:
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{key}: {_printable(text)} is not UTF-8, and TOML holds nothing else; rename it"
        ) from None
    return text


def _build(
    model: type[TableT], values: Mapping[str, Any], flags: Mapping[str, Any], where: str
) -> TableT:
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}{_unknown(name, _keys(model))}") from None
        value = given.get(name, values.get(name))
        raise ConfigError(
            f"{_flag(name) if name in given else where + name}: {_shown(value)} is not allowed; "
            f"allowed: {_allowed(model, name)}",
            is_usage=name in given,
        ) from None


def _allowed(model: type[Table], name: str) -> str:
    by_name = {field.alias or key: field for key, field in model.model_fields.items()}
    extra = by_name[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["allowed"])


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "an empty list"
    return repr(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _keys(model: type[Table]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _unknown(name: str, known: list[str]) -> str:
    homes = [f"in [{table}]" for table, model in TABLES.items() if name in _keys(model)]
    homes += ["above the tables"] * (name in _keys(GlobalConfig))
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if homes:
        hint = f"it belongs {' or '.join(homes)}"
    elif nearest:
        hint = f"did you mean {nearest[0]}?"
    else:
        hint = f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {name}; {hint}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
