"""Flags: every key of every table is one, flags win, paths mean where the user stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from commands import invoke, logging_left_as_it_was, the_error

from bottleneck_cli import options
from bottleneck_cli.main import main
from pipelines.config import TABLES

COMMANDS = [
    *("init", "compress", "nodes", "extract", "train-tail", "eval", "report", "explain", "predict"),
    *("export", "status", "runs", "stats", "verify", "demo"),
]
# What a command is called with beside flags.
ARGUMENTS = {
    "predict": {"run": "a", "images": "b.jpg"},
    "export": {"run": "a"},
    "report": {"names": "a"},
    "explain": {"run": "a", "image": "b.jpg"},
}
KEYS = [(table, name) for table, model in TABLES.items() for name in model.model_fields]
# Key -> its value in the file, as a flag, and what the flag means; none is the default.
VALUES: dict[str, tuple[str, list[str], Any]] = {
    "images": ("'x'", ["/set"], "/set"),
    "classes": ("'x'", ["/names.txt"], "/names.txt"),
    "qualities": ("[1, 2]", ["90,30"], (30, 90)),
    "subsampling": ("'4:2:2'", ["4:4:4"], "4:4:4"),
    "shards": ("1", ["7"], 7),
    "workers": ("1", ["7"], 7),
    "task_index": ("1", ["7"], 7),
    "num_tasks": ("2", ["7"], 7),
    "hang_timeout": ("1", ["0"], 0),
    "limit": ("1", ["7"], 7),
    "max_bad_share": ("0.1", ["0.7"], 0.7),
    "max_megapixels": ("0.1", ["0.7"], 0.7),
    "backbone": ("'x'", ["y"], "y"),
    "weights": ("'x'", ["none"], "none"),
    "branches": ("['x']", ["original,q010"], ("original", "q010")),
    "dtype": ("'float16'", ["uint8"], "uint8"),
    "from_node": ("'x'", ["y"], "y"),
    "encoding": ("'auto'", ["dense"], "dense"),
    "format": ("'parquet'", ["tfrecord"], "tfrecord"),
    "shard_size": ("'64MB'", ["7kB"], 7000),
    "check_images": ("1", ["7"], 7),
    "batch_size": ("1", ["7"], 7),
    "precision": ("'float32'", ["mixed_float16"], "mixed_float16"),
    "devices": ("'gpu'", ["gpu:1,0"], "gpu:1,0"),
    "threads": ("1", ["7"], 7),
    "features_dir": ("'x'", ["/caches"], "/caches"),
    "run": ("'x'", ["y"], "y"),
    "start_from": ("'x'", ["y"], "y"),
    "default": ("'trained'", ["pretrained"], "pretrained"),
    "epochs": ("1", ["7"], 7),
    "learning_rate": ("0.1", ["0.7"], 0.7),
    "gradients": ("'original'", ["all"], "all"),
    "head_init": ("'random'", ["pretrained"], "pretrained"),
    "eval_every": ("100", ["0.5epochs"], "0.5epochs"),
    "patience": ("2", ["7"], 7),
    "expand": ("'host'", ["device"], "device"),
    "cache_memory": ("'1MB'", ["7GB"], 7_000_000_000),
    "blocks": ("1", ["3"], 3),
    "recipe": ("''", ["thesis"], "thesis"),
    "sweep": ("['cuts=0,1']", ["momentum=0,0.9"], ("momentum=0,0.9",)),
    "copies": ("0", ["11"], 11),
    "fusion": ("'mean'", ["gated"], "gated"),
    "batch_norm": ("'stored'", ["batch"], "batch"),
    "schedule": ("'constant'", ["cosine"], "cosine"),
    "warmup": ("10", ["0.5epochs"], "0.5epochs"),
    "cuts": ("1", ["2"], 2),
    "momentum": ("0.5", ["0.9"], 0.9),
    "weight_decay": ("0.5", ["0.01"], 0.01),
    "label_smoothing": ("0.5", ["0.1"], 0.1),
    "protocol": ("'honest'", ["thesis"], "thesis"),
    "compare": ("['auto']", ["all,x"], ("all", "x")),
    "folds": ("2", ["5"], 5),
    "seeds": ("2", ["3"], 3),
    "top_k": ("[2]", ["3,1"], (1, 3)),
    "output": ("'table'", ["csv"], "csv"),
    "split": ("'test'", ["val"], "val"),
    "sort": ("'time'", ["top1"], "top1"),
    "top": ("1", ["7"], 7),
    "to": ("'x'", ["/exported"], "/exported"),
    "set": ("'jpeg'", ["control"], "control"),
}


def value_of(table: str, name: str) -> tuple[str, list[str], Any]:
    """Give the value in the file, the flag's arguments, and what they mean."""
    flag = "--" + name.replace("_", "-")
    if TABLES[table].model_fields[name].annotation is bool:
        return "true", [flag.replace("--", "--no-", 1)], False
    if name == "images" and table in ("stats", "report"):
        return "1", [flag, "7"], 7
    if name == "node":
        if table in ("extract", "stats"):
            return "['x']", [flag, "y", flag, "z"], ("y", "z")
        return "'x'", [flag, "y"], "y"
    in_file, arguments, meaning = VALUES[name]
    return in_file, [flag, *arguments], meaning


def parsed(table: str, workspace_dir: Path, *arguments: str) -> tuple[options.Session, Any]:
    """Let a command with a table's flags parse arguments; returns what its body gets."""
    seen: list[tuple[options.Session, Any]] = []

    @click.command()
    @options.stage(table)
    def probe(session: options.Session, config: Any) -> None:
        seen.append((session, config))

    with logging_left_as_it_was():
        probe.main(["-C", str(workspace_dir), *arguments], standalone_mode=False)
    return seen[0]


@pytest.fixture
def workspace_dir(tmp_path: Path) -> Path:
    (tmp_path / "bottleneck.toml").touch()
    return tmp_path


def command_of(name: str) -> click.Command:
    command = main.get_command(click.Context(main, **main.context_settings), name)
    assert command is not None
    return command


@pytest.mark.parametrize(("table", "name"), KEYS)
def test_key_is_a_flag_of_its_command_with_the_same_help(table, name):
    flags = {param.name: param for param in command_of(table).params}
    field = TABLES[table].model_fields[name]
    assert "--" + name.replace("_", "-") in flags[name].opts
    assert flags[name].help.startswith(field.description)


@pytest.mark.parametrize("table", TABLES)
def test_command_has_no_flag_without_a_key(table):
    common = {"directory", "seed", "json", "verbosity"}
    flags = {param.name for param in command_of(table).params}
    assert flags == {*TABLES[table].model_fields, *common, *ARGUMENTS.get(table, ())}


@pytest.mark.parametrize(("table", "name"), KEYS)
def test_flag_wins_over_the_file(table, name, workspace_dir):
    in_file, arguments, meaning = value_of(table, name)
    (workspace_dir / "bottleneck.toml").write_text(f"[{table}]\n{name} = {in_file}\n")
    read = getattr(parsed(table, workspace_dir)[1], name)
    assert getattr(parsed(table, workspace_dir, *arguments)[1], name) == meaning
    assert read != meaning


@pytest.mark.parametrize(("table", "name"), KEYS)
def test_flag_not_given_leaves_the_default(table, name, workspace_dir):
    config = parsed(table, workspace_dir)[1]
    assert getattr(config, name) == getattr(TABLES[table](), name)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (3, -1, True)),
        (["--seed", "4"], (4, -1, True)),
        (["-v"], (3, 1, True)),
        (["--no-json"], (3, -1, False)),
    ],
)
def test_common_flags_win_over_the_file(arguments, expected, workspace_dir):
    (workspace_dir / "bottleneck.toml").write_text("seed = 3\nverbosity = -1\njson = true\n")
    session = parsed("eval", workspace_dir, *arguments)[0]
    console = session.console
    assert (session.seed, console.verbosity, console.json_output) == expected


def test_path_flag_is_relative_to_where_the_command_runs(workspace_dir, monkeypatch):
    here = workspace_dir / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    arguments = ["--images", "set", "--classes", "../names.txt"]
    session, config = parsed("compress", workspace_dir, *arguments)
    assert config.images == str(here / "set")
    assert config.classes == str(here / "../names.txt")
    assert session.workspace_dir == workspace_dir
    assert parsed("extract", workspace_dir, "--features-dir", "f")[1].features_dir == str(
        here / "f"
    )
    assert parsed("extract", workspace_dir, "--weights", "w.h5")[1].weights == str(here / "w.h5")


def test_path_in_the_file_stays_relative_to_the_workspace(workspace_dir, monkeypatch):
    (workspace_dir / "bottleneck.toml").write_text("[compress]\nimages = 'set'\n")
    (workspace_dir / "here").mkdir()
    monkeypatch.chdir(workspace_dir / "here")
    assert parsed("compress", Path(".."))[1].images == "set"


def test_word_flag_is_no_path_even_beside_a_folder_of_that_name(workspace_dir, monkeypatch):
    monkeypatch.chdir(workspace_dir)
    for name in ("imagenet", "none"):
        Path(name).mkdir()
        assert parsed("extract", workspace_dir, "--weights", name)[1].weights == name
    assert parsed("compress", workspace_dir, "--images", "elpv")[1].images == "elpv"


@pytest.mark.parametrize("name", ["images", "classes"])
def test_empty_path_flag_takes_the_setting_away(name, workspace_dir):
    (workspace_dir / "bottleneck.toml").write_text(f"[compress]\n{name} = 'x'\n")
    assert getattr(parsed("compress", workspace_dir, f"--{name}", "")[1], name) == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_the_command_understands(name):
    result = invoke(name, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    examples = re.findall(rf"^    bottleneck {name}(.*)$", result.stdout, flags=re.MULTILINE)
    assert examples
    for line in examples:
        for example in f"bottleneck {name}{line}".split("&&"):
            program, command, *arguments = example.split()
            assert program == "bottleneck"
            # Parsing alone; raises where a flag or an argument does not exist.
            command_of(command).make_context(
                command, arguments, click.Context(main, **main.context_settings)
            )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_the_flags_that_every_command_has(name):
    text = invoke(name, "--help").stdout
    common = ["-v, --verbose", "-q, --quiet", "--json", "--seed", "-h, --help"]
    for flag in [*common, *(["-C, --workspace DIR"] if name != "init" else [])]:
        assert f"\n  {flag}" in text


@pytest.mark.parametrize("table", TABLES)
def test_command_outside_a_workspace_is_a_usage_error(table, tmp_path):
    message = the_error(invoke(table, *ARGUMENTS.get(table, {}).values(), "-C", tmp_path), status=2)
    assert message.startswith(f"{tmp_path}: no bottleneck.toml here; run in a workspace, name one ")


@pytest.mark.parametrize("table", TABLES)
def test_command_with_a_wrong_file_fails_with_status_1(table, tmp_path):
    (tmp_path / "bottleneck.toml").write_text("[eval]\nsplit = 'train'\n")
    message = the_error(invoke(table, *ARGUMENTS.get(table, {}).values(), "-C", tmp_path))
    assert message == (
        f"{tmp_path}/bottleneck.toml: [eval] split: 'train' is not allowed; allowed: test or val"
    )


@pytest.mark.parametrize("table", TABLES)
def test_command_with_a_wrong_common_flag_is_a_usage_error(table, workspace_dir):
    message = the_error(
        invoke(table, *ARGUMENTS.get(table, {}).values(), "-C", workspace_dir, "--seed", "x"),
        status=2,
    )
    assert message == "--seed: 'x' is not allowed; allowed: from 0 to 4294967295"


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--dtype", "float64", "float32, float16 or uint8"),
        ("--encoding", "csr", "auto, sparse or dense"),
        ("--format", "hdf5", "parquet or tfrecord"),
        ("--shard-size", "12 mb", "a size such as 128MB"),
        ("--check-images", "-1", "0 or more"),
        ("--workers", "0", "auto, or 1 or more"),
        ("--batch-size", "0", "auto, or 1 or more"),
        ("--devices", "gpu:x", "auto, cpu, gpu, or GPUs such as gpu:0,1"),
    ],
)
def test_extract_with_a_wrong_flag_is_a_usage_error(flag, value, allowed, workspace_dir):
    message = the_error(invoke("extract", "-C", workspace_dir, flag, value), status=2)
    assert message == f"{flag}: '{value}' is not allowed; allowed: {allowed}"


@pytest.mark.parametrize("table", ["compress", "extract"])
def test_share_that_is_not_there_is_a_usage_error(table, workspace_dir):
    flags = ("--num-tasks", "4", "--task-index", "4", "--images", workspace_dir)
    flags = flags if table == "compress" else flags[:4]
    message = the_error(
        invoke(table, *ARGUMENTS.get(table, {}).values(), "-C", workspace_dir, *flags), status=2
    )
    assert message == "task-index 4: with --num-tasks 4 it is one of 0 to 3"


def test_compress_of_no_workers_is_a_usage_error(workspace_dir):
    message = the_error(invoke("compress", "-C", workspace_dir, "--workers", "0"), status=2)
    assert message == "--workers: '0' is not allowed; allowed: auto, or 1 or more"


def test_unknown_flag_and_command_are_usage_errors_that_help(workspace_dir):
    result = invoke("compress", "-C", workspace_dir, "--quality", "10")
    assert result.exit_code == 2
    assert "--qualities" in result.stderr
    result = invoke("comprss")
    assert result.exit_code == 2
    assert f"Commands: {', '.join(COMMANDS)}." in result.stderr
