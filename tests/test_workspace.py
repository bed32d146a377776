"""bottleneck.toml: what is wrong in it is named; what `create` writes reads back."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from pipelines import workspace
from pipelines.config import TABLES, CompressConfig, GlobalConfig
from pipelines.errors import ConfigError, ShardError


def write_toml(folder: Path, text: str | bytes) -> Path:
    path = folder / "bottleneck.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def message_of(folder: Path, text: str | bytes) -> str:
    """Read a file that must be refused; the message without the path in front of it."""
    path = write_toml(folder, text)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: ")) as caught:
        workspace.read_file(folder)
    assert not caught.value.is_usage  # the command was right, the file is not: exit status 1
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[compress]\nqualities = [10, 0]",
            "[compress] qualities: 10,0 is not allowed; "
            "allowed: whole numbers from 1 to 100, each once",
        ),
        (
            "[compress]\nqualities = []",
            "[compress] qualities: an empty list is not allowed; "
            "allowed: whole numbers from 1 to 100, each once",
        ),
        (
            '[compress]\nsubsampling = "4:1:1"',
            "[compress] subsampling: '4:1:1' is not allowed; allowed: 4:2:0, 4:2:2 or 4:4:4",
        ),
        (
            "[compress]\nmax_bad_share = nan",
            "[compress] max_bad_share: nan is not allowed; allowed: from 0 to 1",
        ),
        (
            "[extract]\nbatch_size = true",
            "[extract] batch_size: True is not allowed; allowed: auto, or 1 or more",
        ),
        (
            '[extract]\nshard_size = "12 mb"',
            "[extract] shard_size: '12 mb' is not allowed; allowed: a size such as 128MB",
        ),
        (
            "[extract]\nshard_size = 0",
            "[extract] shard_size: 0 is not allowed; allowed: a size such as 128MB",
        ),
        (
            '[extract]\ndtype = "float64"',
            "[extract] dtype: 'float64' is not allowed; allowed: float32, float16 or uint8",
        ),
        (
            '[train-tail]\nrun = "a/b"',
            "[train-tail] run: 'a/b' is not allowed; allowed: a plain name",
        ),
        ('[eval]\nsplit = "train"', "[eval] split: 'train' is not allowed; allowed: test or val"),
        ("seed = -1", "seed: -1 is not allowed; allowed: from 0 to 4294967295"),
        ("json = 7", "json: 7 is not allowed; allowed: true or false"),
        ("compress = 5", "compress = 5 is not allowed; write it as [compress]"),
        ("[[eval]]\nrun = 'a'", "eval = [{'run': 'a'}] is not allowed; write it as [eval]"),
    ],
)
def test_read_file_value_not_allowed_names_key_value_and_what_is(text, message, tmp_path):
    assert message_of(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compress]\nqualitys = [10]", "[compress] unknown key qualitys; did you mean qualities?"),
        ("[compress]\nmax-bad-share = 1", "unknown key max-bad-share; did you mean max_bad_share?"),
        ("[extract]\nshardsize = 1", "unknown key shardsize; did you mean shard_size?"),
        ("[train-tail]\nlearn_rate = 1", "unknown key learn_rate; did you mean learning_rate?"),
        ("[comprss]\n", "unknown key comprss; did you mean compress?"),
        ("[train_tail]\n", "unknown key train_tail; did you mean train-tail?"),
        ("sede = 1", "unknown key sede; did you mean seed?"),
        ("qualities = [10]", "unknown key qualities; it belongs in [compress]"),
        (
            "[eval]\nnode = 'a'",
            "[eval] unknown key node; it belongs in [extract] or in [train-tail] or in [stats]",
        ),
        ("[extract]\nseed = 1", "[extract] unknown key seed; it belongs above the tables"),
        ("[runs]\nxyzzy = 1", "[runs] unknown key xyzzy; known keys: sort"),
    ],
)
def test_read_file_unknown_key_names_the_nearest(text, message, tmp_path):
    assert message_of(tmp_path, text).endswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = \n", r"not valid TOML: Invalid value \(at line 1, column 8\)"),
        ("seed = 1\nseed = 2\n", "not valid TOML: Cannot overwrite a value"),
        (b"[compress]\nimages = '\xff'\n", "not valid TOML: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_read_file_no_toml_says_where(text, message, tmp_path):
    assert re.match(message, message_of(tmp_path, text))


def test_read_file_missing_is_a_usage_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = re.escape(str(tmp_path))  # even when the folder was given as "."
    with pytest.raises(
        ConfigError, match=f"^{where}: no bottleneck.toml here; run in a "
    ) as caught:
        workspace.read_file(Path())
    assert caught.value.is_usage


def test_read_file_that_is_a_folder_cannot_be_read(tmp_path):
    (tmp_path / "bottleneck.toml").mkdir()
    with pytest.raises(ConfigError, match=r"bottleneck\.toml: cannot be read: Is a directory"):
        workspace.read_file(tmp_path)


def test_read_file_of_an_editor_that_marks_utf8_is_read(tmp_path):
    write_toml(tmp_path, b"\xef\xbb\xbfseed = 3\r\n[compress]\r\nlimit = 5\r\n")
    assert workspace.read_file(tmp_path) == {"seed": 3, "compress": {"limit": 5}}


def test_table_flags_win_over_the_file_and_the_file_over_defaults():
    content = {"compress": {"limit": 5, "shards": 3}}
    config = workspace.table(content, "compress", {"limit": "7", "workers": None})
    assert config == CompressConfig(limit=7, shards=3)


def test_table_flag_not_allowed_is_a_usage_error_that_names_the_flag():
    message = "^--max-bad-share: '2' is not allowed; allowed: from 0 to 1$"
    with pytest.raises(ConfigError, match=message) as caught:
        workspace.table({}, "compress", {"max_bad_share": "2"})
    assert caught.value.is_usage


def test_table_says_its_settings_for_the_details(caplog):
    with caplog.at_level(logging.DEBUG, "pipelines.workspace"):
        workspace.table({"runs": {"sort": "time"}}, "runs", {})
    assert caplog.messages == ["[runs] sort 'time'"]


def test_global_config_flags_win_over_the_file():
    config = workspace.global_config({"seed": 1, "json": True, "eval": {}}, {"seed": "2"})
    assert (config.seed, config.json_output, config.verbosity) == (2, True, 0)


def test_create_new_file_reads_back_as_what_was_given(tmp_path):
    given = {"compress": {"images": '../bilder/Füchse "rot"\\', "limit": 9}}
    workspace.create(tmp_path / "a/b", given, ["9 foxes"], seed=4)
    assert workspace.read_file(tmp_path / "a/b") == {
        "seed": 4,
        **given,
        **{name: {} for name in TABLES if name != "compress"},
    }


def test_create_every_key_is_there_with_its_meaning_and_default_commented(tmp_path):
    workspace.create(tmp_path, {}, ["what was found"], seed=0)
    text = (tmp_path / "bottleneck.toml").read_text()
    flowing = re.sub(r"\n# ", " ", text)
    assert "what was found" in text
    assert workspace.read_file(tmp_path) == {name: {} for name in TABLES}
    for model in [*TABLES.values(), GlobalConfig]:
        for name, field in model.model_fields.items():
            assert f"\n# {field.alias or name} = " in text
            assert field.description in flowing
            assert f"Allowed: {field.json_schema_extra['allowed']}." in flowing


def test_create_every_key_uncommented_at_its_default_reads_back_as_the_defaults(tmp_path):
    workspace.create(tmp_path, {}, ["a = 1 is no key"], seed=0)
    path = tmp_path / "bottleneck.toml"
    text, num_keys = re.subn(r"(?m)^# (?=[a-z_]+ = )(?!a = )", "", path.read_text())
    models = [*TABLES.values(), GlobalConfig]
    assert num_keys == sum(len(model.model_fields) for model in models)
    path.write_text(text)
    content = workspace.read_file(tmp_path)
    assert workspace.global_config(content, {}) == GlobalConfig()
    for name, model in TABLES.items():
        assert len(content[name]) == len(model.model_fields)
        assert workspace.table(content, name, {}) == model()


def test_create_comment_with_line_breaks_stays_a_comment(tmp_path):
    workspace.create(tmp_path, {}, ["class a\nseed = 5\x00\udcff"], seed=0)
    assert "seed" not in workspace.read_file(tmp_path)
    assert "# class a?seed = 5??\n" in (tmp_path / "bottleneck.toml").read_text()


@pytest.mark.parametrize("name", ["tab\there", "line\nbreak", "del\x7f", 'quo"te', "back\\slash"])
def test_create_odd_path_reads_back(name, tmp_path):
    workspace.create(tmp_path, {"compress": {"images": name}}, [], seed=0)
    assert workspace.read_file(tmp_path)["compress"] == {"images": name}


def test_create_path_that_is_not_utf8_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ConfigError, match=r'^images: "b\?d" is not UTF-8, .*; rename it$'):
        workspace.create(tmp_path / "new", {"compress": {"images": "b\udcffd"}}, [], seed=0)
    assert not (tmp_path / "new").exists()


def test_create_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match="file/new: cannot be made: Not a directory"):
        workspace.create(tmp_path / "file/new", {}, [], seed=0)
