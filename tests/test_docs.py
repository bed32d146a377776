"""Pages that stay true: links, commands, settings, lists of files and libraries."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pages import OUR_PAGES, PAGES, ROOT, blocks, inline, prose, section, text_of

from bottleneck_cli.main import main
from pipelines import workspace
from pipelines.config import TABLES, GlobalConfig


def anchors(page: Path) -> set[str]:
    """Spell the page's headings as links to them are spelt."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def relative_links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def commands(page: Path) -> Iterator[list[str]]:
    """Give the arguments of every call of the program on a page, in blocks and in sentences."""
    lines = [
        part
        for block in blocks(page)
        for line in block.replace("\\\n", " ").splitlines()
        for part in re.split(r"&&|\|\|?|;|>", line)
    ]
    for line in lines + inline(page):
        if not re.match(r"\s*(\$ )?(\S*/)?bottleneck\s", line):
            continue
        words = shlex.split(line, comments=True)
        yield words[words.index("$") + 2 :] if words[0] == "$" else words[1:]


def complaint(arguments: list[str]) -> str:
    """Parse a call without running it; says what is wrong with it, nothing where it is right."""
    group = click.Context(main, **main.context_settings)
    name, *rest = arguments
    if name in {"--help", "-h", "--version"} or (name == "COMMAND" and rest == ["--help"]):
        return ""
    command = main.get_command(group, name)
    if command is None:
        return f"no command {name}"
    if not rest:
        return ""  # named in a sentence
    try:
        given = command.make_context(name, rest, group, resilient_parsing="--help" in rest).params
        table = TABLES.get(name)
        if table:
            flags = {key: given[key] for key in table.model_fields if given[key] not in (None, ())}
            workspace.table({}, name, flags)
    except (click.ClickException, workspace.ConfigError) as error:
        return str(error) or type(error).__name__
    return ""


def layout_of_the_code() -> dict[str, str]:
    """Read the list of files on the design page: path to its line's description."""
    folders: list[str] = []
    found = {}
    for line in next(b for b in blocks(ROOT / "docs/design.md") if "main.py" in b).splitlines():
        name, _, words = line.strip().partition(" ")
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        if name.endswith("/"):
            folders.append(name)
        else:
            found["".join(folders) + name] = words.strip()
    return found


def test_pages_are_found():
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "docs/design.md", "docs/training.md", "data/README.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_relative_links_lead_somewhere(page):
    for link in relative_links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_commands_are_accepted_by_the_program(page):
    assert {" ".join(call): complaint(call) for call in commands(page) if complaint(call)} == {}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("extrct --node a", "no command extrct"),
        ("extract --nodes a", "No such option"),
        ("train-tail --gradients some", "'some' is not allowed"),
        ("init my-set", "images"),
        ("eval runs/a", "unexpected extra argument"),
    ],
)
def test_complaint_of_a_wrong_command_names_what_is_wrong(call, expected):
    assert expected in complaint(call.split())


def test_commands_of_readme_are_found():
    found = [" ".join(call) for call in commands(ROOT / "README.md")]
    assert "init my-set --images ./photos" in found
    assert "train-tail --blocks 4 --extract" in found


@pytest.mark.parametrize("page", OUR_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_flags_exist_in_some_command(page):
    group = click.Context(main, **main.context_settings)
    known = {"--help", "--version"}
    for name in main.list_commands(group):
        for parameter in main.get_command(group, name).params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    named = {word for code in inline(page) for word in code.split() if word.startswith("--")}
    assert {flag.partition("=")[0] for flag in named} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_settings_exist(page, tmp_path):
    for table, key in re.findall(r"`\[([a-z-]+)\] (\w+)", prose(page)):
        assert key in TABLES[table].model_fields, f"[{table}] {key}"
    for example in blocks(page, "toml"):
        (tmp_path / workspace.FILE_NAME).write_text(example, encoding="utf-8")
        assert workspace.read_file(tmp_path).keys() <= {*TABLES, *GlobalConfig.model_fields, "json"}


def test_design_page_lists_every_file_of_the_code_with_a_purpose():
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("bottleneck_cli", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    listed = layout_of_the_code()
    assert listed.keys() == modules
    assert [name for name, words in listed.items() if not words] == []


def test_design_page_folders_import_only_what_stands_right_of_them():
    block = section(ROOT / "docs/design.md", "Which way imports point")
    lines = [
        [part.strip().split(", ") for part in line.split("→")]
        for line in block.splitlines()
        if "→" in line
    ]
    assert (lines[0][0], lines[0][-1]) == (["bottleneck_cli"], ["errors"])
    allowed: dict[str, set[str]] = {"analysis": set(), "training": {"analysis"}}  # as is said there
    for line in reversed(lines):  # the first one shows how the folders go on
        for i, folders in enumerate(line):
            for folder in folders:
                right = {name for part in line[i + 1 :] for name in part}
                allowed[folder] = allowed.get(folder, set()) | right
    for folder, others in allowed.items():
        allowed[folder] = others | {name for other in others for name in allowed.get(other, ())}
    folders = {path.parent.name for path in (ROOT / "pipelines").glob("*/*.py")}
    assert folders <= allowed.keys()
    for folder in folders:
        for path in (ROOT / "pipelines" / folder).glob("*.py"):
            code = re.sub(r"from pipelines\.storage import atomic$", "", text_of(path), flags=re.M)
            imported = re.findall(r"^\s*(?:from|import) pipelines\.(\w+)", code, re.M)
            assert {*imported} - {folder} <= allowed[folder] | {"errors", "progress"}, path


def test_design_page_libraries_have_the_ranges_of_setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    required = {}
    for line in config["options"]["install_requires"].strip().splitlines():
        name, _, versions = line.partition(";")[0].partition(" ")
        required[name] = versions.strip()
    rows = re.findall(r"^\| ([\w-]+) \| (>= [^|]+) \|", text_of(ROOT / "docs/design.md"), re.M)
    assert dict(rows) == required
