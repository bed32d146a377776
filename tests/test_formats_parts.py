"""Parts of a cache in every format: some branches, some rows, some images by name, and no more."""

from __future__ import annotations

import itertools
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from shards import (
    BRANCHES,
    LAYOUTS,
    ROWS,
    damage_column,
    make_layout,
    make_maps,
    write_cache,
    write_shard,
)

from pipelines.errors import ConfigError, ShardError
from pipelines.storage import formats
from pipelines.storage.cache import FeatureCache, shard_of
from pipelines.storage.cells import Cells, EncodedRows, encode
from pipelines.storage.layout import FORMAT_VERSION, Layout
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, Task

ALL = pytest.mark.parametrize("name", LAYOUTS)
FORMATS = pytest.mark.parametrize("format", formats.FORMATS)
SUBSETS = [
    names
    for count in (1, 2, 3)
    for subset in itertools.combinations(BRANCHES, count)
    for names in itertools.permutations(subset)
]
NUM_TRAIN, NUM_VAL = ROWS["train"], ROWS["val"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[FeatureCache, np.ndarray]]:
    """A cache of each layout with the maps of train and val; the images of val go on in number."""
    root, found = tmp_path_factory.mktemp("features"), {}
    for name, layout in LAYOUTS.items():
        write_cache(root / name, layout)
        maps = write_cache(root / name, layout)
        found[name] = FeatureCache(root / name), np.concatenate([maps["train"], maps["val"]])
    return found


def read_all(reader) -> tuple[np.ndarray, list[str]]:
    batches = list(reader.in_order(6))
    maps = np.concatenate([batch.features for batch in batches])
    return maps, [name for batch in batches for name in batch.ids]


@ALL
@pytest.mark.parametrize("branches", SUBSETS, ids=",".join)
def test_reader_any_branches_in_any_order_are_those_in_the_caches(caches, name, branches):
    cache, maps = caches[name]
    chosen = sorted(BRANCHES.index(branch) for branch in branches)
    reader = cache.reader("train", branches)
    assert reader.branches == tuple(BRANCHES[i] for i in chosen)
    np.testing.assert_array_equal(read_all(reader)[0], maps[:NUM_TRAIN, chosen])


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "tfrecord" not in name])
def test_reader_parquet_columns_of_other_branches_may_be_damaged(name, tmp_path):
    maps = write_cache(tmp_path, LAYOUTS[name])["train"]
    for path in tmp_path.glob("train-*.parquet"):
        for column in LAYOUTS[name].columns(["q010"]):
            damage_column(path, column)
    cache = FeatureCache(tmp_path)
    found, _ = read_all(cache.reader("train", ["original", "q050"]))
    np.testing.assert_array_equal(found, maps[:, [0, 2]])
    np.testing.assert_array_equal(cache.read(["img-30"], ["q050"]), maps[30:31, 2:])
    with pytest.raises(ShardError, match="damaged"):
        read_all(cache.reader("train", ["q010"]))


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "tfrecord" in name])
def test_reader_tfrecord_cells_of_other_branches_are_not_unpacked(caches, name, monkeypatch):
    cache, maps = caches[name]
    unpacked = []
    decompress = zlib.decompress
    monkeypatch.setattr(zlib, "decompress", lambda data: unpacked.append(1) or decompress(data))
    found, _ = read_all(cache.reader("val", ["q010"]))
    np.testing.assert_array_equal(found, maps[NUM_TRAIN:, 1:2])
    assert len(unpacked) == NUM_VAL * len(cache.layout.parts)


@ALL
@pytest.mark.parametrize(
    "rows", [[0], [36], [37, 46], [3, 4, 5, 9, 12], [40, 2, 36, 37], list(range(47)), []], ids=str
)
def test_reader_some_rows_of_several_splits_are_those_in_the_plans_order(caches, name, rows):
    cache, maps = caches[name]
    reader = cache.reader(["train", "val"], rows=np.array(rows, np.int64))
    batches = list(reader.in_order(6))
    assert reader.num_rows == len(rows)
    ids = [name for batch in batches for name in batch.ids]
    expected = sorted(rows)
    assert ids == [f"img-{row}" for row in expected]
    if rows:
        found = np.concatenate([batch.features for batch in batches])
        np.testing.assert_array_equal(found, maps[expected])


@ALL
def test_reader_some_rows_in_training_order_come_each_once(caches, name):
    cache, maps = caches[name]
    rows = np.arange(1, 47, 3)
    batches = list(cache.reader(["train", "val"], ["original"], rows).epoch(5, 1, 2))
    found = np.concatenate([batch.features for batch in batches])
    known = {maps[row, :1].tobytes(): row for row in rows}
    assert sorted(known[image.tobytes()] for image in found) == rows.tolist()


def test_reader_splits_are_laid_end_to_end_in_the_order_asked(caches):
    cache, maps = caches["sparse-float16"]
    found, _ = read_all(cache.reader(["val", "train"]))
    np.testing.assert_array_equal(found, np.concatenate([maps[NUM_TRAIN:], maps[:NUM_TRAIN]]))


def test_reader_of_no_rows_can_be_loaded_and_gives_nothing(caches):
    reader = caches["sparse-float16"][0].reader("train", rows=[])
    reader.load()
    assert reader.is_loaded
    for batches in (reader.in_order(4), reader.epoch(4, 0, 0), reader.sparse_epoch(4, 0, 0)):
        assert list(batches) == []


@pytest.mark.parametrize("rows", [[-1], [47], [1, 2, 1], [0, 100], [[1, 2]], 3], ids=str)
def test_reader_rows_that_are_not_there_or_twice_are_an_error(caches, rows):
    with pytest.raises(ConfigError, match="rows are not from 0 to 46, each once"):
        caches["dense-float16"][0].reader(["train", "val"], rows=np.array(rows))


@pytest.mark.parametrize("rows", [[True, False], [0.9], ["1"]], ids=str)
def test_reader_rows_that_are_no_whole_numbers_are_an_error(caches, rows):
    message = r"rows are \S+, expected whole numbers; np.flatnonzero makes them of a mask"
    with pytest.raises(ConfigError, match=message):
        caches["dense-float16"][0].reader("train", rows=np.array(rows))


WRONG = [
    ({"batch_size": 0}, "batch_size is 0, expected a whole number from 1 on"),
    ({"batch_size": -3}, "batch_size is -3, expected a whole number from 1 on"),
    ({"batch_size": 2.5}, r"batch_size is 2\.5, expected a whole number from 1 on"),
    ({"first_step": -2}, "first_step is -2, expected a whole number from 0 on"),
    ({"epoch": -1}, "epoch is -1, expected a whole number from 0 on"),
    ({"seed": -1}, "seed is -1, expected a whole number from 0 on"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_reader_numbers_that_say_no_batch_are_an_error_at_once(caches, wrong, message):
    cache = caches["sparse-float16"][0]
    reader, numbers = cache.reader("train"), {"batch_size": 4, "seed": 1, "epoch": 2, **wrong}
    for give in (reader.epoch, reader.sparse_epoch, lambda **n: cache.dataset("train", **n)):
        with pytest.raises(ConfigError, match=message):
            give(**numbers)
    if "batch_size" in wrong:
        for give in (reader.in_order, reader.sparse_in_order, reader.num_steps):
            with pytest.raises(ConfigError, match=message):
                give(wrong["batch_size"])


@pytest.mark.parametrize("order", [{"first_step": 3}, {"epoch": 2}])
def test_dataset_part_of_an_epoch_without_a_seed_is_an_error(caches, order):
    with pytest.raises(ConfigError, match="epoch and first_step are of training's order; give its"):
        caches["dense-float16"][0].dataset("train", 4, **order)


def test_reader_splits_without_images_are_an_error(caches):
    cache = caches["dense-float16"][0]
    for splits, missing in ((["test", "other"], "test, other"), (["train", "vall"], "vall")):
        with pytest.raises(
            ConfigError, match=f"no images in split {missing}; there are train, val"
        ):
            cache.reader(splits)
    with pytest.raises(ConfigError, match="no images in split"):
        cache.reader([])


@ALL
def test_read_images_by_name_come_in_the_order_asked(caches, name):
    cache, maps = caches[name]
    rows = [36, 11, 30, 12, 11]
    found = cache.read([f"img-{row}" for row in rows])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, maps[rows])


@ALL
def test_read_some_branches_are_in_the_caches_order(caches, name):
    cache, maps = caches[name]
    found = cache.read(["img-20", "img-13"], ("q050", "original"))
    np.testing.assert_array_equal(found, maps[[20, 13]][:, [0, 2]])


@ALL
def test_read_in_the_stored_dtype_is_what_readers_give_in_it(caches, name):
    cache, _ = caches[name]
    stored = cache.layout.dtype
    expected = next(cache.reader("train").in_order(37, dtype=stored)).features
    found = cache.read(["img-30"], dtype=stored)
    assert found.dtype == stored
    np.testing.assert_array_equal(found, expected[30:31])


def test_read_in_another_dtype_is_an_error(caches):
    with pytest.raises(ConfigError, match="maps are stored as uint8; read that or float32"):
        caches["dense-uint8"][0].read(["img-30"], dtype="float16")


@FORMATS
def test_read_no_image_is_an_empty_array(caches, format):
    name = "sparse-float16" if format == "parquet" else "sparse-float16-tfrecord"
    assert caches[name][0].read([]).shape == (0, 3, 2, 3, 8)


@FORMATS
def test_read_unknown_image_is_an_error(caches, format):
    name = "sparse-float16" if format == "parquet" else "sparse-float16-tfrecord"
    with pytest.raises(ConfigError, match="no image img-99; names are those of the source"):
        caches[name][0].read(["img-1", "img-99"])


@FORMATS
def test_read_unknown_branch_is_an_error(caches, format):
    name = "sparse-float16" if format == "parquet" else "sparse-float16-tfrecord"
    with pytest.raises(ConfigError, match="no branch q030; it has original, q010, q050"):
        caches[name][0].read(["img-1"], ["q030"])


NAMES = {
    "umlauts and a line break": "Füchse/größe\n{}.jpg".format,
    "other scripts": "訓練/картинка-🐜-{}.png".format,
    "longer than a record's head": lambda i: f"{i}/" + "ä" * 5000 + ".jpg",
    "just around a record's head": lambda i: "x" * (4000 + i) + ".jpg",
    "empty or nearly": lambda i: "y" * i,
}


@FORMATS
@pytest.mark.parametrize("name_of", NAMES.values(), ids=NAMES)
def test_read_images_of_odd_names_are_found(name_of, format, tmp_path):
    layout = make_layout("float16", "sparse", format)
    rows = {"train": 130}
    maps = write_cache(tmp_path, layout, rows, 3, name_of=name_of)["train"]
    cache = FeatureCache(tmp_path)
    wanted = [129, 0, 64, 95, 1]
    np.testing.assert_array_equal(cache.read([name_of(i) for i in wanted]), maps[wanted])
    assert read_all(cache.reader("train"))[1] == [name_of(i) for i in range(130)]


def write_with_an_empty_shard(folder: Path, format: str) -> np.ndarray:
    """Write a cache of ten images whose second shard of three has none."""
    layout = make_layout("float16", "sparse", format)
    suffix = formats.of(layout).SUFFIX
    spans = [(0, 5), (5, 5), (5, 10)]
    tasks = tuple(Task(f"train-{i}.{suffix}", "train", *span) for i, span in enumerate(spans))
    details = {**layout.to_json(), "node": "x", "classes": list("abcde")}
    plan = Plan("features", FORMAT_VERSION, {}, details, tasks)
    shards, maps = ShardFolder(folder), make_maps(layout, 10)
    shards.publish(plan)
    for task in tasks:
        part = maps[task.start : task.stop]
        shards.commit(plan, write_shard(shard_of(folder, plan, task.shard), part, task.start))
    shards.finish(plan, shards.receipts(plan))
    return maps


@FORMATS
def test_reader_shard_without_images_is_passed_over(format, tmp_path):
    maps = write_with_an_empty_shard(tmp_path, format)
    cache = FeatureCache(tmp_path)
    np.testing.assert_array_equal(read_all(cache.reader("train"))[0], maps)
    np.testing.assert_array_equal(cache.read(["img-7", "img-2"]), maps[[7, 2]])
    order = [i for batch in cache.reader("train").epoch(3, 0, 0) for i in batch.ids]
    assert sorted(order) == [f"img-{i}" for i in range(10)]


def spoiled(maps: np.ndarray, layout: Layout, names: object = None) -> EncodedRows:
    """Encode with a bit too many or too few in each mask of q010, as a wrong writer would."""
    found = encode(maps, layout)
    masks = found.cells["q010.mask"]
    data = masks.data.copy()
    data[:: layout.mask_bytes] ^= 1
    cells = {**found.cells, "q010.mask": Cells(data, masks.offsets)}
    return EncodedRows(cells, found.nnz, 0)


@FORMATS
@pytest.mark.parametrize(
    ("take", "shard"),
    [
        (lambda cache: cache.read(["img-20", "img-21"]), "train-00002-of-00004"),
        (lambda cache: list(cache.reader("val").in_order(4)), "val-00000-of-00001"),
        (lambda cache: list(cache.reader("val").sparse_epoch(4, 0, 0)), "val-00000-of-00001"),
    ],
    ids=["read", "in_order", "sparse_epoch"],
)
def test_reader_masks_that_do_not_fit_name_the_damaged_shard(
    format, take, shard, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:  # checksums hold: they are of what was written
        patch.setattr("pipelines.storage.cells.encode", spoiled)
        write_cache(tmp_path, make_layout("float16", "sparse", format))
    path = re.escape(str(tmp_path / f"{shard}.{format}"))
    message = f"^{path}: branch q010: masks and values do not fit; .*verify"
    with pytest.raises(ShardError, match=message):
        take(FeatureCache(tmp_path))


def shortened(maps: np.ndarray, layout: Layout, names: object = None) -> EncodedRows:
    """Encode with a byte too few in each cell of q010's last column."""
    found = encode(maps, layout)
    name = layout.columns(["q010"])[-1]
    column = found.cells[name]
    cells = [column[i][:-1] for i in range(len(column))]
    sizes = np.array([len(cell) for cell in cells])
    shorter = Cells.of_sizes(np.concatenate(cells), sizes)
    return EncodedRows({**found.cells, name: shorter}, found.nnz, 0)


@FORMATS
@pytest.mark.parametrize("encoding", ["sparse", "dense"])
@pytest.mark.parametrize("how", ["read", "in_order"])
def test_reader_cells_of_another_length_are_a_damaged_shard(
    format, encoding, how, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.storage.cells.encode", shortened)
        write_cache(tmp_path, make_layout("float16", encoding, format))
    cache = FeatureCache(tmp_path)
    message = r"train-00002-\S+: branch q010: masks and values do not fit; .*verify"
    with pytest.raises(ShardError, match=message):
        cache.read(["img-20"]) if how == "read" else read_all(
            cache.reader("train", rows=np.array([20]))
        )
    np.testing.assert_array_equal(  # of another branch nothing is checked that is not read
        cache.read(["img-20"], ["original"]), make_maps(cache.layout, 37)[20:21, :1]
    )
