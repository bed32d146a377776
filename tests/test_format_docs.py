"""Pages of the formats on disk: their examples run, and they name every key."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from images import photo, to_jpeg, to_png, write_bad_files
from pages import ROOT, blocks, inline
from shards import LAYOUTS, ROWS, make_layout, write_cache

from pipelines import compress, extract
from pipelines.config import CompressConfig
from pipelines.execution.inline import open_crew
from pipelines.images.decode import decode_original
from pipelines.images.jpeg import JpegCodec, decode_jpeg
from pipelines.progress import Silent
from pipelines.storage.batches import Batch
from pipelines.storage.cache import FeatureCache
from pipelines.storage.layout import Layout


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
    compress.run(path, config, 0, Silent(), open_crew)
    return path


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
        np.testing.assert_array_equal(pixels, decode_jpeg(encoded))


def test_variants_page_quarantine_has_the_listings_problems_first(compressed):
    lines = (compressed / "variants/jpeg/quarantine.csv").read_text("utf-8").splitlines()
    assert lines[:2] == ["id,reason", "odd/link,link to nothing"]
    assert len(lines) > 3


@pytest.mark.parametrize("folder", ["variants", "index"])
def test_variants_page_names_every_key_of_the_files(folder, compressed):
    names_of_splits = {"train", "val", "test"}
    assert unnamed_keys(compressed / folder, "variants-format.md") <= names_of_splits


def test_variants_page_names_every_key_of_a_control_set():
    golden = ROOT / "tests" / "golden" / "control_v1"
    assert unnamed_keys(golden, "variants-format.md") == set()


@pytest.mark.slow
def test_cache_page_names_every_key_of_the_files(workspace, extracted):
    chained = {"from_node": "block7a_expand_activation", "node": ("avg_pool",)}
    stored = {"dtype": "uint8", "format": "tfrecord", "overwrite": True}
    config = extracted.config.model_copy(update={**chained, **stored})
    extract.run(workspace, config, 0, Silent(), open_crew)
    features = workspace / "features"
    details = json.loads((features / "avg_pool" / "plan.json").read_text("utf-8"))["details"]
    assert {"scales", "zero_points", "probe"} <= details.keys()
    assert (features / "avg_pool" / "cut-check.json").exists()
    # What lies in the variants' fingerprint stands on their page.
    assert unnamed_keys(features, "cache-format.md", "variants") == set()
