"""A cache opened and checked: what is missing, damaged or ambiguous is said in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from editing import edit, replace
from shards import BRANCHES, LAYOUTS, ROWS, flip_bit, write_cache

from pipelines.errors import ConfigError, ManifestError, ShardError
from pipelines.storage import cache as unit
from pipelines.storage.cache import FeatureCache, find_cache

LAYOUT = LAYOUTS["sparse-float16"]
BOTH = {"parquet": LAYOUT, "tfrecord": LAYOUTS["sparse-float16-tfrecord"]}
FORMATS = pytest.mark.parametrize("format", BOTH)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cache of each format that no test changes."""
    folders = {name: tmp_path_factory.mktemp(name) / "mixed_9" for name in BOTH}
    for name, folder in folders.items():
        write_cache(folder, BOTH[name])
    return folders


@pytest.fixture
def whole(caches: dict[str, Path]) -> Path:
    return caches["parquet"]


@pytest.fixture
def format() -> str:
    """Parquet, where a test does not ask for both."""
    return "parquet"


@pytest.fixture
def cache_dir(caches: dict[str, Path], format: str, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(caches[format], tmp_path / "features" / "mixed_9"))


def shard(folder: Path, split: str = "train") -> Path:
    return sorted(folder.glob(f"{split}-*"))[1 if split == "train" else 0]


def read_all(folder: Path, split: str = "train") -> tuple[bytes, bytes, list[str]]:
    batches = list(FeatureCache(folder).split(split, BRANCHES, 0).in_order(7))
    return (
        b"".join(batch.features.tobytes() for batch in batches),
        b"".join(batch.labels.tobytes() for batch in batches),
        [name for batch in batches for name in batch.ids or ()],
    )


def claim_rows(folder: Path, num_rows: int) -> None:
    """Have the manifest say another number of images of the two shards of ten."""
    path = folder / "manifest.json"
    text = path.read_text(encoding="utf-8")
    assert text.count('"num_rows": 10') == 2
    replace(path, '"num_rows": 10', f'"num_rows": {num_rows}')


def make_receipts_hold(folder: Path) -> None:
    """Have the manifest believe in the shards that are there, whatever they are."""

    def believe(value):
        for entry in value["shards"]:
            entry["size_bytes"] = (folder / entry["shard"]).stat().st_size
            entry.pop("footer_sha256", None)

    edit(folder / "manifest.json", believe)


@FORMATS
def test_cache_whole_knows_what_it_holds(caches, format):
    cache = FeatureCache(caches[format])
    assert (cache.path, cache.node) == (caches[format], "mixed_9")
    assert cache.layout == BOTH[format]
    assert cache.classes == ("a", "b", "c", "d", "e")
    assert cache.fingerprint == {"seed": 0}
    assert cache.splits == ("train", "val")
    assert {split: cache.num_rows(split) for split in ROWS} == ROWS
    assert cache.num_rows("test") == 0


def test_cache_nothing_there_names_the_command(tmp_path):
    with pytest.raises(ManifestError, match=r"nothing here yet; run `.* extract --node mixed_9`"):
        FeatureCache(tmp_path / "mixed_9")


def test_cache_not_finished_names_the_command(cache_dir):
    (cache_dir / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"not finished; run `.* extract --node mixed_9` again"):
        FeatureCache(cache_dir)


def test_cache_newer_format_says_to_update(whole, monkeypatch):
    monkeypatch.setattr(unit, "FORMAT_VERSION", 1)
    with pytest.raises(ManifestError, match="format version 2, this program reads up to 1; update"):
        FeatureCache(whole)


@FORMATS
def test_cache_shard_missing_is_an_error(cache_dir, format):
    shard(cache_dir).unlink()
    with pytest.raises(ShardError, match=r"train-00001\S+: missing, its receipt says"):
        FeatureCache(cache_dir)


@FORMATS
@pytest.mark.parametrize("num_kept", [0, 1000, -1])
def test_cache_shard_cut_short_is_an_error(cache_dir, num_kept, format):
    path = shard(cache_dir)
    path.write_bytes(path.read_bytes()[:num_kept])
    with pytest.raises(ShardError, match=rf"{path.name}: \d+ bytes, its receipt says \d+ bytes"):
        FeatureCache(cache_dir)


@FORMATS
def test_reader_shard_of_zeros_is_an_error(cache_dir, format):
    path = shard(cache_dir)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ShardError, match=rf"{path.name}: .*run `bottleneck verify --repair`"):
        read_all(cache_dir)


@FORMATS
@pytest.mark.parametrize("claimed", [8, 9, 11, 13])
def test_reader_other_rows_than_the_receipt_is_an_error(cache_dir, claimed, format):
    claim_rows(cache_dir, claimed)
    with pytest.raises(ShardError, match=rf"10 \w+, its receipt says {claimed}; run"):
        read_all(cache_dir, "val")


@FORMATS
@pytest.mark.parametrize("how", ["in_order", "read"])
def test_reader_shards_that_changed_places_are_an_error(cache_dir, how, format):
    # Both have ten images and the same columns, and their receipts say nothing of their content.
    first, second = sorted(cache_dir.glob("train-*"))[-1], shard(cache_dir, "val")
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    make_receipts_hold(cache_dir)
    names = (first.name, second.name) if how == "read" else (second.name, first.name)
    message = r"{0}: .*/{1}.*, expected \w+/{0}.*verify --repair".format(*names)
    with pytest.raises(ShardError, match=message):
        read_all(cache_dir, "val") if how == "in_order" else FeatureCache(cache_dir).read(["img-0"])


@FORMATS
def test_reader_shard_of_another_cache_is_an_error(cache_dir, tmp_path, format):
    # The same images in the same layout: the two plans differ in a word of the fingerprint.
    write_cache(tmp_path / "other", BOTH[format], seed=1)
    path = shard(cache_dir)
    shutil.copy(tmp_path / "other" / path.name, path)
    make_receipts_hold(cache_dir)
    with pytest.raises(ShardError, match=rf"{path.name}: .*, expected \w+/{path.name}"):
        read_all(cache_dir)


def test_cache_manifest_of_another_plan_is_an_error(cache_dir):
    replace(cache_dir / "plan.json", '"dtype": "float16"', '"dtype": "float32"')
    with pytest.raises(ManifestError, match=r"manifest\.json: holds another plan than plan\.json"):
        FeatureCache(cache_dir)


@FORMATS
def test_reader_plan_and_manifest_that_were_edited_do_not_fit_the_shards(cache_dir, format):
    for name in ("plan.json", "manifest.json"):
        replace(cache_dir / name, '"dtype": "float16"', '"dtype": "float32"')
    with pytest.raises(ShardError, match=r"expected \w{16}/train-00000|no binary column"):
        read_all(cache_dir)


def test_split_without_images_is_an_error(whole):
    with pytest.raises(ConfigError, match="mixed_9: no images in split test; there are train, val"):
        FeatureCache(whole).split("test", BRANCHES, 0)


@pytest.mark.parametrize("name", ["sparse-float16", "dense-float16", "sparse-uint8-tfrecord"])
def test_split_is_loaded_only_when_the_budget_holds_its_cells(tmp_path, name):
    write_cache(tmp_path / name, LAYOUTS[name])
    cache = FeatureCache(tmp_path / name)
    reader = cache.split("train", BRANCHES[:2], 0)
    reader.load()
    size_bytes = cache.resident_bytes("train", BRANCHES[:2])
    held = sum(len(column.data) for column in reader._loaded.cells.values())
    assert size_bytes == pytest.approx(held, rel=0.05)
    assert not cache.split("train", BRANCHES[:2], size_bytes - 1).is_loaded
    assert cache.split("train", BRANCHES[:2], size_bytes).is_loaded


@pytest.mark.parametrize("name", ["sparse-float16", "dense-float16", "sparse-uint8-tfrecord"])
def test_split_is_decoded_where_the_budget_holds_its_maps(tmp_path, name):
    write_cache(tmp_path / name, LAYOUTS[name])
    cache = FeatureCache(tmp_path / name)
    cell_bytes = cache.split("train", BRANCHES[:2], 1 << 30).held_bytes
    map_bytes = 4 * ROWS["train"] * 2 * cache.layout.num_values
    for budget_bytes, held_bytes in (
        (0, 0),
        (map_bytes - 1, cell_bytes),
        (map_bytes, map_bytes),
    ):
        found = cache.split("train", BRANCHES[:2], budget_bytes, is_decoded=True)
        assert found.held_bytes == held_bytes


def test_reader_windows_are_as_large_as_their_share_of_bytes(whole, monkeypatch):
    cache, orders = FeatureCache(whole), []
    row_bytes = cache.resident_bytes("train", BRANCHES) / ROWS["train"]
    for window_bytes in (int(9.5 * row_bytes), 1 << 30):
        monkeypatch.setattr(unit, "WINDOW_BYTES", window_bytes)
        orders.append([i for batch in cache.reader("train").epoch(100, 0, 0) for i in batch.ids])
    monkeypatch.setattr(unit, "WINDOW_BYTES", int(9.5 * row_bytes))
    assert cache.reader("train", ["q010"])._settings.window_rows == 9  # whatever the branches
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


@FORMATS
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("encoding", ["sparse", "dense"])
def test_reader_any_bit_flipped_never_gives_wrong_maps(tmp_path, encoding, seed, format):
    folder = tmp_path / "mixed_9"
    suffix = "" if format == "parquet" else f"-{format}"
    write_cache(folder, LAYOUTS[f"{encoding}-float16{suffix}"])
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
    assert num_errors > 80


@FORMATS
def test_read_any_bit_flipped_never_gives_wrong_maps(cache_dir, format):
    path = shard(cache_dir, "val")
    content = path.read_bytes()
    wanted = ["img-44", "img-30", "img-37"]
    expected = FeatureCache(cache_dir).read(wanted)
    num_errors = 0
    for bit in np.random.default_rng(5).integers(0, 8 * len(content), 150):
        path.write_bytes(flip_bit(content, int(bit)))
        try:
            np.testing.assert_array_equal(FeatureCache(cache_dir).read(wanted), expected)
        except ShardError as error:
            assert path.name in str(error)
            num_errors += 1
    assert num_errors > 40


@pytest.mark.parametrize("name", ["img-38", "img-39"], ids=["the damaged one", "its double"])
def test_read_name_that_became_another_names_the_shard(caches, name, tmp_path):
    folder = Path(shutil.copytree(caches["tfrecord"], tmp_path / "mixed_9"))
    path = shard(folder, "val")
    content = path.read_bytes()
    assert content.count(b"img-38") == 1
    path.write_bytes(content.replace(b"img-38", b"img-39"))  # a flipped bit
    cache = FeatureCache(folder)
    with pytest.raises(ShardError, match=rf"{path.name}: damaged: record 1 does not have its"):
        cache.read([name])


def test_read_damaged_name_that_is_like_no_other_names_the_shard(caches, tmp_path):
    folder = Path(shutil.copytree(caches["tfrecord"], tmp_path / "mixed_9"))
    path = shard(folder, "val")
    path.write_bytes(path.read_bytes().replace(b"img-38", b"imc-38"))
    cache = FeatureCache(folder)
    assert cache.read(["img-41"]).shape[0] == 1  # is not read together with that image
    with pytest.raises(ShardError, match=rf"{path.name}: damaged: record 1 does not have its"):
        cache.read(["img-38"])


@FORMATS
def test_read_image_that_stands_in_two_shards_is_an_error(format, tmp_path):
    write_cache(tmp_path, BOTH[format], name_of=lambda i: f"img-{i % 40}")
    message = r"val-00000\S+: image img-0 stands in train-00000\S+, too; run .* --deep --repair`"
    with pytest.raises(ShardError, match=message):
        FeatureCache(tmp_path).read(["img-20"])


def test_choose_branches_are_in_the_caches_order(whole):
    cache = FeatureCache(whole)
    assert cache.choose_branches(("all",)) == cache.choose_branches("all") == BRANCHES
    assert cache.choose_branches("q010") == ("q010",)
    assert cache.reader("train", "q010").branches == ("q010",)
    assert cache.choose_branches(("q050", "original")) == ("original", "q050")


def test_choose_branches_unknown_lists_those_there_are(whole):
    with pytest.raises(ConfigError, match="mixed_9: no branch q030; it has original, q010, q050"):
        FeatureCache(whole).choose_branches(("original", "q030"))


def test_choose_branches_none_is_an_error(whole):
    with pytest.raises(ConfigError, match="no branch is named; choose from original, q010, q050, "):
        FeatureCache(whole).reader("train", ())


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
