"""What a user meets first: the installed command, the extras, the make targets that pages name."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Stands in for the interpreter that makes the environment, so that nothing is downloaded: `-m venv`
# lays down a copy of itself, and `-m pip` counts its calls and does what FAKE_PIP says.
FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c "*) exec {python} "$@" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$@" >> {log}; eval "${{FAKE_PIP:-true}}" ;;
esac
"""


def run(*command: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    # MAKEFLAGS of an outer `make test` would change what an inner make does.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        command, cwd=cwd, env=environment | variables, capture_output=True, text=True, check=False
    )


def code_in_page(page: str) -> list[str]:
    """Give each line of the page's code blocks and each inline piece of code."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`(.+?)`", prose)


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the Makefile, what it depends on, and a stand-in for Python."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    fake = tmp_path / "fake-python"
    fake.write_text(FAKE_PYTHON.format(python=sys.executable, log=tmp_path / "pip.log"))
    fake.chmod(0o755)
    return tmp_path


def make_env(clone: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("make", "env", f"PYTHON={clone}/fake-python", *arguments, cwd=clone, **variables)


def num_installs(clone: Path) -> int:
    log = clone / "pip.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_command_line_import_loads_no_tensorflow():
    program = (
        "import sys, bottleneck_cli.main; "
        "print(sorted({'tensorflow', 'keras'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    result = run(sys.executable, "-c", program)
    assert (result.stdout.strip(), result.stderr, result.returncode) == ("[]", "", 0)


def test_command_line_help_names_every_command():
    program = "import sys; from bottleneck_cli.main import main; sys.exit(main())"
    result = run(sys.executable, "-c", program, "--help")
    assert (result.stderr, result.returncode) == ("", 0)
    listed = re.findall(r"^  ([a-z-]+) ", result.stdout, flags=re.MULTILINE)
    expected = {"init", "compress", "extract", "nodes", "train-tail", "eval", "demo"}
    assert expected <= set(listed)


def test_setup_cfg_names_the_extras_that_make_and_docker_install():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(config["options.extras_require"])
    assert {"demo", "dev", "gpu"} <= extras
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    named = re.findall(r"^EXTRAS \?= (.+)$", makefile, flags=re.MULTILINE)
    named += re.findall(r"EXTRAS=([a-z,]+)", dockerfile)
    assert len(named) >= 3
    assert {extra for names in named for extra in names.split(",")} <= extras


def test_setup_cfg_takes_every_template_along():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    folder = ROOT / "pipelines" / "reporting"
    pattern = config["options.package_data"]["pipelines.reporting"].strip()
    others = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"}
    others = {path for path in others if "__pycache__" not in path.parts}
    assert others
    assert others == set(folder.glob(pattern))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "data/README.md", ".ci/run"])
def test_page_names_only_make_targets_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = text.splitlines() if page == ".ci/run" else code_in_page(text)
    named = {
        match[1] for line in lines if (match := re.match(r"\s*(?:\$ |check )?make ([a-z]+)", line))
    }
    assert named
    assert named <= make_targets()


def test_make_help_lists_every_target():
    listed = re.findall(r"^  make ([a-z]+) ", run("make", "help").stdout, flags=re.MULTILINE)
    assert set(listed) == make_targets()


@pytest.mark.parametrize(
    ("variable", "command"),
    [("FULL=0", "bottleneck demo"), ("FULL=1", "demo --full"), ("QUICK=1", "demo --quick")],
)
def test_make_demo_takes_the_set_that_is_asked_for(variable, command, clone):
    result = run("make", "--dry-run", "demo", variable, cwd=clone)
    assert result.stdout.rstrip().endswith(command)


def test_make_env_made_already_installs_nothing(clone):
    assert make_env(clone).returncode == 0
    assert num_installs(clone) == 1
    assert make_env(clone).returncode == 0
    assert num_installs(clone) == 1


def test_make_env_other_extras_installs_them(clone):
    make_env(clone)
    assert make_env(clone, "EXTRAS=demo").returncode == 0
    calls = (clone / "pip.log").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == [".[demo,dev]", ".[demo]"]


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_make_env_dependencies_changed_installs_again_in_place(name, clone):
    make_env(clone)
    kept = clone / ".venv" / "kept"
    kept.touch()
    later = (clone / name).stat().st_mtime + 3600
    os.utime(clone / name, (later, later))
    assert make_env(clone).returncode == 0
    assert num_installs(clone) == 2
    assert kept.exists()


@pytest.mark.parametrize("death", ["exit 1", "kill -9 $$", "kill -9 $$ $PPID"])
def test_make_env_install_died_starts_from_an_empty_folder(death, clone):
    leave = f'touch "$(dirname "$0")/leftover"; {death}'
    assert make_env(clone, FAKE_PIP=leave).returncode != 0
    leftover = clone / ".venv" / "bin" / "leftover"
    assert leftover.exists()
    assert make_env(clone).returncode == 0
    assert num_installs(clone) == 2
    assert not leftover.exists()


def test_make_env_folder_of_someone_else_is_left_alone(clone):
    theirs = clone / ".venv" / "theirs"
    theirs.parent.mkdir()
    theirs.touch()
    result = make_env(clone)
    assert result.returncode != 0
    assert ".venv was not made by this Makefile" in result.stderr
    assert theirs.exists()
    assert num_installs(clone) == 0


def test_make_env_python_too_old_is_refused(clone):
    old = clone / "old-python"
    old.write_text('#!/bin/sh\ncase "$1" in -c) exit 1 ;; *) echo Python 3.9.2 ;; esac\n')
    old.chmod(0o755)
    result = run("make", "env", f"PYTHON={old}", cwd=clone)
    assert result.returncode != 0
    assert "is Python 3.9.2; expected Python 3.10 to 3.13" in result.stderr
    assert not (clone / ".venv").exists()
