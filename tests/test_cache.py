"""A cache opened and checked: what is missing, damaged or ambiguous is said in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from shards import BRANCHES, LAYOUTS, ROWS, flip_bit, write_cache

from pipelines.errors import ConfigError, ManifestError, ShardError
from pipelines.storage import cache as unit
from pipelines.storage import features
from pipelines.storage.cache import FeatureCache, find_cache

LAYOUT = LAYOUTS["sparse-float16"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that no test changes."""
    folder = tmp_path_factory.mktemp("features") / "mixed_9"
    write_cache(folder, LAYOUT)
    return folder


@pytest.fixture
def cache_dir(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "features" / "mixed_9"))


def shard(folder: Path, split: str = "train") -> Path:
    return sorted(folder.glob(f"{split}-*.parquet"))[1 if split == "train" else 0]


def read_all(folder: Path, split: str = "train") -> tuple[bytes, bytes, list[str]]:
    reader = FeatureCache(folder).split(split, BRANCHES, 0)
    batches = list(reader.in_order(7))
    return (
        b"".join(batch.features.tobytes() for batch in batches),
        b"".join(batch.labels.tobytes() for batch in batches),
        [name for batch in batches for name in batch.ids or ()],
    )


def test_cache_whole_knows_what_it_holds(whole):
    cache = FeatureCache(whole)
    assert (cache.path, cache.node) == (whole, "mixed_9")
    assert cache.layout == LAYOUT
    assert cache.classes == ("a", "b", "c", "d", "e")
    assert cache.fingerprint == {"seed": 0}
    assert {split: cache.num_rows(split) for split in ROWS} == ROWS
    assert cache.num_rows("test") == 0


def test_cache_nothing_there_names_the_command(tmp_path):
    with pytest.raises(ManifestError, match=r"nothing here yet; run `.* extract --node mixed_9`"):
        FeatureCache(tmp_path / "mixed_9")


def test_cache_not_finished_names_the_command(cache_dir):
    (cache_dir / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"not finished; run `.* extract --node mixed_9` again"):
        FeatureCache(cache_dir)


def test_cache_newer_format_says_to_update(cache_dir, monkeypatch):
    monkeypatch.setattr(features, "FORMAT_VERSION", 0)
    with pytest.raises(ManifestError, match="format version 1, this program reads up to 0; update"):
        FeatureCache(cache_dir)


def test_cache_shard_missing_is_an_error(cache_dir):
    shard(cache_dir).unlink()
    with pytest.raises(ShardError, match=r"train-00001\S+: missing, its receipt says"):
        FeatureCache(cache_dir)


@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_cache_shard_cut_short_is_an_error(cache_dir, kept):
    path = shard(cache_dir)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ShardError, match=rf"{path.name}: \d+ bytes, its receipt says \d+ bytes"):
        FeatureCache(cache_dir)


def test_split_shard_of_the_same_size_that_is_no_parquet_is_an_error(cache_dir):
    path = shard(cache_dir)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ShardError, match=rf"{path.name}: cannot be opened"):
        FeatureCache(cache_dir).split("train", BRANCHES, 0)


def test_split_other_rows_than_the_receipt_is_an_error(cache_dir):
    path = cache_dir / "manifest.json"
    text = path.read_text(encoding="utf-8")
    assert text.count('"num_rows": 10') == 2
    path.write_text(text.replace('"num_rows": 10', '"num_rows": 11'), encoding="utf-8")
    with pytest.raises(ShardError, match=r"\S+\.parquet: 10 rows, its receipt says 11; delete it"):
        FeatureCache(cache_dir).split("val", BRANCHES, 0)


def test_split_without_images_is_an_error(whole):
    with pytest.raises(ManifestError, match="mixed_9: no images in split test"):
        FeatureCache(whole).split("test", BRANCHES, 0)


def test_split_is_loaded_only_when_the_budget_holds_it(whole):
    cache = FeatureCache(whole)
    size_bytes = ROWS["train"] * 2 * 2 * 3 * 8 * 2  # rows, branches, height, width, channels, f16
    reader = cache.split("train", BRANCHES[:2], size_bytes - 1)
    assert (reader.decoded_bytes, reader.is_loaded) == (size_bytes, False)
    assert cache.split("train", BRANCHES[:2], size_bytes).is_loaded


def test_split_windows_are_as_large_as_their_share_of_bytes(whole, monkeypatch):
    size_bytes = sum(path.stat().st_size for path in whole.glob("*.parquet"))
    row_bytes = size_bytes / sum(ROWS.values())
    monkeypatch.setattr(unit, "WINDOW_BYTES", int(9.5 * row_bytes))
    first = next(FeatureCache(whole).split("train", BRANCHES, 0).epoch(16, 0, 0))
    monkeypatch.setattr(unit, "WINDOW_BYTES", 1 << 30)
    other = next(FeatureCache(whole).split("train", BRANCHES, 0).epoch(16, 0, 0))
    assert first.features.tobytes() != other.features.tobytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("encoding", ["sparse", "dense"])
def test_split_any_bit_flipped_never_gives_wrong_maps(tmp_path, encoding, seed):
    folder = tmp_path / "mixed_9"
    write_cache(folder, LAYOUTS[f"{encoding}-float16"])
    expected, path = read_all(folder, "val"), shard(folder, "val")
    content = path.read_bytes()
    num_errors = 0
    for bit in np.random.default_rng(seed).integers(0, 8 * len(content), 100):
        path.write_bytes(flip_bit(content, int(bit)))
        try:
            assert read_all(folder, "val") == expected, bit  # bits that mean nothing to a reader
        except ShardError as error:
            assert path.name in str(error)
            num_errors += 1
    assert num_errors > 40


def test_choose_branches_are_in_the_caches_order(whole):
    cache = FeatureCache(whole)
    assert cache.choose_branches(("all",)) == BRANCHES
    assert cache.choose_branches(("q050", "original")) == ("original", "q050")


def test_choose_branches_unknown_lists_those_there_are(whole):
    with pytest.raises(ConfigError, match="mixed_9: no branch q030; it has original, q010, q050"):
        FeatureCache(whole).choose_branches(("original", "q030"))


@pytest.mark.parametrize("name", ["mixed_9", "mixed9", "Mixed_9", "MIXED9"])
def test_find_cache_any_spelling_finds_it(cache_dir, name):
    assert find_cache(cache_dir.parent, name).path == cache_dir


def test_find_cache_no_name_takes_the_only_one(cache_dir):
    (cache_dir.parent / "notes").mkdir()
    assert find_cache(cache_dir.parent, "").path == cache_dir


def test_find_cache_several_and_no_name_lists_them(cache_dir):
    shutil.copytree(cache_dir, cache_dir.with_name("avg_pool"))
    with pytest.raises(ManifestError, match=r"several caches; .* --node: avg_pool, mixed_9$"):
        find_cache(cache_dir.parent, "")
    assert find_cache(cache_dir.parent, "avgpool").path == cache_dir.with_name("avg_pool")


def test_find_cache_unknown_name_lists_those_there_are(cache_dir):
    with pytest.raises(ManifestError, match=r"no cache of node mixed_8; there are mixed_9; run `"):
        find_cache(cache_dir.parent, "mixed_8")


@pytest.mark.parametrize("is_there", [True, False])
def test_find_cache_no_caches_names_the_command(tmp_path, is_there):
    folder = tmp_path / "features"
    if is_there:
        (folder / "empty").mkdir(parents=True)
    with pytest.raises(ManifestError, match="no cache here; run `bottleneck extract` first"):
        find_cache(folder, "")
