"""Pages that stay true: links, commands, settings, examples, lists of files, keys and libraries."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
import pytest
from images import photo, to_jpeg, to_png, write_bad_files
from shards import LAYOUTS, ROWS, make_layout, write_cache

from bottleneck_cli.main import main
from pipelines import compress, extract, workspace
from pipelines.config import TABLES, CompressConfig, GlobalConfig
from pipelines.images.codecs import JpegCodec, decode_variant
from pipelines.images.decode import decode_original
from pipelines.progress import Silent
from pipelines.storage.batches import Batch
from pipelines.storage.cache import FeatureCache
from pipelines.storage.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for folder in ("", "docs", "data", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
    if path.name != "LICENSE.md"
)
OUR_PAGES = [page for page in PAGES if page.parent.name != "benchmarks"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str | None = None) -> list[str]:
    """Give the page's code blocks, of one language or of all."""
    return [code for name, code in FENCE.findall(text_of(page)) if language in (None, name)]


def inline(page: Path) -> list[str]:
    """Give the pieces of code in the page's sentences."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def section(page: Path, heading: str) -> str:
    """Give what stands below a heading, up to the next heading of any level."""
    return re.split(r"^#+ .*\n", text_of(page).split(f"# {heading}\n", 1)[1], flags=re.M)[0]


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


def keys_in(value: Any, closed: str) -> set[str]:
    """Name every key at any depth of a JSON value, but those below the key `closed`."""
    if isinstance(value, list):
        return {key for item in value for key in keys_in(item, closed)}
    if isinstance(value, dict):
        inner = [item for key, item in value.items() if key != closed]
        return set(value) | {key for item in inner for key in keys_in(item, closed)}
    return set()


def unnamed_keys(folder: Path, page: str, closed: str = "") -> set[str]:
    """Find the keys of all JSON files below a folder that a page does not name."""
    found = set()
    for path in folder.rglob("*.json"):
        found |= keys_in(json.loads(path.read_text(encoding="utf-8")), closed)
    assert found
    return found - {code.strip('"') for code in inline(ROOT / "docs" / page)}


def run_example(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> dict[str, Any]:
    """Run the page's example for a library, as it stands, in a folder; returns its names."""
    examples = blocks(ROOT / "docs" / page, "python")
    (code,) = [code for code in examples if f"import {library}" in code]
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(code))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    standard = {"hashlib", "io", "json", "math", "pathlib"}
    assert imported <= standard | {"numpy", "pyarrow", "PIL", "tensorflow"}
    monkeypatch.chdir(folder)
    file = folder / "example.py"  # TensorFlow reads the source of what it compiles
    file.write_text(code, encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile(code, str(file), "exec"), names)
    return names


def layouts_in(format: str) -> Any:
    """Parametrize a test with the layouts of a format, and with one whose masks have two words."""
    found = {name: layout for name, layout in LAYOUTS.items() if layout.format == format}
    found["vector"] = make_layout("float16", "sparse", format, (100,))
    return pytest.mark.parametrize("layout", found.values(), ids=found)


def write_signed_cache(workspace_dir: Path, layout: Layout) -> Batch:
    """Write a cache of maps that float32 alone holds exactly; returns what its reader reads."""
    folder, maps = workspace_dir / "features" / "mixed_9", {}
    rng = np.random.default_rng(0)
    for split, count in ROWS.items():
        shape = (count, len(layout.branches), *layout.shape)
        maps[split] = (rng.normal(0, 9, shape) * rng.integers(0, 2, shape)).astype(np.float32)
    write_cache(folder, layout, maps=maps)
    (batch,) = FeatureCache(folder).reader("train", ("q010",)).in_order(ROWS["train"])
    assert min(np.count_nonzero(batch.features < 0), np.count_nonzero(batch.features == 0)) > 100
    return batch


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with some images in images/, compressed, some of them in quarantine."""
    path = tmp_path_factory.mktemp("compressed")
    for i in range(14):
        folder = path / "images" / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = photo(i, size=(20 + i, 30), channels=1 if i % 3 == 0 else 3)
        (folder / f"{i}").write_bytes(to_png(picture) if i < 7 else to_jpeg(picture))
    (path / "images" / "odd" / "link").symlink_to("nowhere")
    write_bad_files(path / "images" / "odd")
    config = CompressConfig(images="images", qualities=(10, 90), max_bad_share=0.9, shards=4)
    compress.run(path, config, 0, Silent())
    return path


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
    assert "train-tail --node mixed_9 --start-from avg_pool" in found


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


@layouts_in("parquet")
def test_cache_page_parquet_example_gives_what_the_reader_gives(layout, tmp_path, monkeypatch):
    expected = write_signed_cache(tmp_path, layout)
    found = run_example("cache-format.md", tmp_path, monkeypatch, "pyarrow")
    np.testing.assert_array_equal(found["maps"], expected.features[:, 0])
    assert found["maps"].dtype == ("float32" if layout.dtype == "uint8" else layout.dtype)
    assert found["ids"] == expected.ids
    assert found["labels"] == ["abcde"[label] for label in expected.labels]


@layouts_in("tfrecord")
def test_cache_page_tensorflow_example_gives_what_the_reader_gives(layout, tmp_path, monkeypatch):
    expected = write_signed_cache(tmp_path, layout)
    found = run_example("cache-format.md", tmp_path, monkeypatch, "tensorflow")
    maps, labels, ids = zip(*found["dataset"].unbatch().as_numpy_iterator(), strict=True)
    np.testing.assert_array_equal(maps, expected.features[:, 0])
    assert maps[0].dtype == ("float32" if layout.dtype == "uint8" else layout.dtype)
    assert [name.decode() for name in ids] == expected.ids
    assert list(labels) == expected.labels.tolist()


def test_variants_page_example_gives_the_encoded_images(compressed, monkeypatch):
    found = run_example("variants-format.md", compressed, monkeypatch, "pyarrow")["pictures"]
    lines = (compressed / "variants/jpeg/quarantine.csv").read_text("utf-8").splitlines()
    left_out = {line.partition(",")[0] for line in lines}
    index = pq.read_table(compressed / "index" / "images.parquet").to_pylist()
    planned = [row["id"] for row in index if row["split"] == "train"]
    assert list(found) == [name for name in planned if name not in left_out]
    assert 0 < len(found) < len(planned)
    for name, (label, pixels) in found.items():
        assert label == name.partition("/")[0]
        original = decode_original((compressed / "images" / name).read_bytes())
        (encoded,) = JpegCodec((10,)).encode(original)
        np.testing.assert_array_equal(pixels, decode_variant(encoded))


def test_variants_page_quarantine_has_the_listings_problems_first(compressed):
    lines = (compressed / "variants/jpeg/quarantine.csv").read_text("utf-8").splitlines()
    assert lines[:2] == ["id,reason", "odd/link,link to nothing"]
    assert len(lines) > 3


@pytest.mark.parametrize("folder", ["variants", "index"])
def test_variants_page_names_every_key_of_the_files(folder, compressed):
    names_of_splits = {"train", "val", "test"}
    assert unnamed_keys(compressed / folder, "variants-format.md") <= names_of_splits


@pytest.mark.slow
def test_cache_page_names_every_key_of_the_files(workspace, extracted):
    chained = {"from_node": "block7a_expand_activation", "node": ("avg_pool",)}
    stored = {"dtype": "uint8", "format": "tfrecord", "overwrite": True}
    config = extracted.config.model_copy(update={**chained, **stored})
    extract.run(workspace, config, 0, Silent())
    features = workspace / "features"
    details = json.loads((features / "avg_pool" / "plan.json").read_text("utf-8"))["details"]
    assert {"scales", "zero_points", "probe"} <= details.keys()
    assert (features / "avg_pool" / "cut-check.json").exists()
    # What lies in the variants' fingerprint stands on their page.
    assert unnamed_keys(features, "cache-format.md", "variants") == set()
