"""Batches as tf.data, and sparse ones expanded on the device: the reader's numbers, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shards import BRANCHES, LAYOUTS, write_cache

from pipelines.errors import ConfigError
from pipelines.storage import cache as cache_module
from pipelines.storage import datasets
from pipelines.storage.cache import FeatureCache
from pipelines.storage.layout import DTYPES, Layout

NUM_IMAGES = 29
ALL = pytest.mark.parametrize("name", LAYOUTS)
SPARSE = pytest.mark.parametrize("name", [name for name in LAYOUTS if name.startswith("sparse")])


def odd_maps(layout: Layout) -> np.ndarray:
    """Draw maps of all kinds of numbers that the dtype holds: subnormal ones, -0.0, all zeros."""
    rng = np.random.default_rng(3)
    size = (NUM_IMAGES, len(BRANCHES), *layout.shape)
    if layout.dtype == "uint8":
        zero_points = np.array(layout.zero_points)
        maps = (rng.integers(0, 256, size) - zero_points) * np.array(layout.scales)
    else:
        bits, number, infinity = {
            "float16": (np.uint16, np.float16, 0x7C00),
            "float32": (np.uint32, np.float32, 0x7F800000),
        }[layout.dtype]
        drawn = rng.integers(0, infinity, size).astype(bits)
        drawn[::3] &= infinity // 31 // 8  # mostly subnormal ones
        drawn |= rng.integers(0, 2, size).astype(bits) << (8 * drawn.itemsize - 1)
        maps = drawn.view(number)
    maps = maps.astype(np.float32)
    maps[rng.random(size) < 0.4] = 0
    maps[5], maps[6, 1] = 0, 0
    return maps


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureCache]:
    """A cache of each layout with images in train and val; no test changes them."""
    root = tmp_path_factory.mktemp("features")
    for name, layout in LAYOUTS.items():
        maps = odd_maps(layout)
        rows = {"train": 20, "val": 9}
        write_cache(root / name, layout, rows, 5, {"train": maps[:20], "val": maps[20:]})
    return {name: FeatureCache(root / name) for name in LAYOUTS}


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "WINDOW_BYTES", 1_500)


def dense(dataset) -> list[tuple[bytes, tuple[int, ...], list[int]]]:
    return [(f.numpy().tobytes(), tuple(f.shape), y.numpy().tolist()) for f, y in dataset]


def expanded(dataset, layout: Layout) -> list[tuple[bytes, tuple[int, ...], list[int]]]:
    maps = ((datasets.expand(masks, values, layout), labels) for masks, values, labels in dataset)
    return dense(maps)


def read(batches) -> list[tuple[bytes, tuple[int, ...], list[int]]]:
    return [(b.features.tobytes(), b.features.shape, b.labels.tolist()) for b in batches]


def test_odd_maps_have_subnormal_numbers_and_minus_zero_in_these_tests():
    for dtype, smallest in (("float16", 2**-14), ("float32", 2.0**-126)):
        maps = odd_maps(LAYOUTS[f"dense-{dtype}"])
        assert ((maps != 0) & (np.abs(maps) < smallest)).sum() > 100
    assert np.signbit(odd_maps(LAYOUTS["dense-float32"])).any()


@ALL
def test_dataset_in_order_is_the_readers(caches, name):
    cache = caches[name]
    expected = read(cache.reader(["train", "val"]).in_order(4))
    assert len(expected) == 8
    assert dense(cache.dataset(["train", "val"], 4)) == expected


@ALL
def test_dataset_with_a_seed_is_the_readers_epoch(caches, name):
    cache = caches[name]
    expected = read(cache.reader("train").epoch(6, 3, 2))
    assert dense(cache.dataset("train", 6, seed=3, epoch=2)) == expected
    assert expected != read(cache.reader("train").epoch(6, 3, 1))


@ALL
def test_dataset_from_a_step_on_is_the_rest_of_the_epoch(caches, name):
    cache = caches[name]
    whole = dense(cache.dataset("train", 6, seed=3))
    for step in range(5):
        assert dense(cache.dataset("train", 6, seed=3, first_step=step)) == whole[step:], step


@ALL
def test_dataset_of_some_rows_and_branches_is_the_readers(caches, name):
    cache, rows = caches[name], np.array([1, 5, 6, 19, 20, 28])
    reader = cache.reader(["train", "val"], ["q050", "original"], rows)
    found = dense(cache.dataset(["train", "val"], 4, ["q050", "original"], rows))
    assert found == read(reader.in_order(4))


@SPARSE
def test_sparse_dataset_expanded_is_the_dense_one(caches, name):
    cache = caches[name]
    found = expanded(cache.dataset("train", 6, is_sparse=True), cache.layout)
    assert found == read(cache.reader("train").in_order(6))


@SPARSE
def test_sparse_dataset_with_a_seed_expanded_is_the_dense_one(caches, name):
    cache = caches[name]
    for step in (0, 2):
        order = {"seed": 3, "epoch": 1, "first_step": step}
        found = expanded(cache.dataset("train", 6, ["q010"], is_sparse=True, **order), cache.layout)
        assert found == read(cache.reader("train", ["q010"]).epoch(6, 3, 1, step))


@SPARSE
def test_sparse_dataset_has_the_stored_dtype_and_whole_masks(caches, name):
    layout = caches[name].layout
    masks, values, labels = caches[name].dataset("val", 4, is_sparse=True).element_spec
    assert (masks.dtype.name, masks.shape.as_list()) == ("uint8", [None, 3, layout.mask_bytes])
    assert (values.dtype.name, values.shape.as_list()) == (layout.dtype, [None])
    assert (labels.dtype.name, labels.shape.as_list()) == ("int32", [None])


@ALL
def test_dense_dataset_has_the_shape_of_the_maps(caches, name):
    features, labels = caches[name].dataset("val", 4, ["q010", "q050"]).element_spec
    assert (features.dtype.name, features.shape.as_list()) == ("float32", [None, 2, 2, 3, 8])
    assert labels.dtype.name == "int32"


@ALL
def test_dataset_in_the_stored_dtype_with_ids_is_the_readers(caches, name):
    cache = caches[name]
    stored = cache.layout.dtype
    for order in ({}, {"seed": 3, "epoch": 1, "first_step": 1}):
        found = list(cache.dataset("train", 6, dtype=stored, with_ids=True, **order))
        reader = cache.reader("train")
        expected = list(reader.epoch(6, 3, 1, 1, stored) if order else reader.in_order(6, stored))
        assert [f.dtype.name for f, _, _ in found] == [stored] * len(expected)
        assert dense((f, y) for f, y, _ in found) == read(expected)
        names = [[name.decode() for name in ids.numpy()] for _, _, ids in found]
        assert names == [batch.ids for batch in expected]


@SPARSE
def test_sparse_dataset_with_ids_names_its_images(caches, name):
    cache = caches[name]
    found = list(cache.dataset("train", 6, seed=3, is_sparse=True, with_ids=True))
    names = [[name.decode() for name in ids.numpy()] for *_, ids in found]
    assert names == [batch.ids for batch in cache.reader("train").epoch(6, 3, 0)]
    sparse = cache.reader("train").sparse_epoch(6, 3, 0)
    assert names == [batch.ids for batch in sparse]


def test_dataset_names_that_are_no_utf8_are_the_files_bytes(tmp_path):
    write_cache(
        tmp_path, LAYOUTS["sparse-float16-tfrecord"], {"train": 5}, 1, name_of="\udcff{}\0".format
    )
    ((_, _, ids),) = FeatureCache(tmp_path).dataset("train", 5, with_ids=True)
    assert ids.numpy().tolist() == [b"\xff%d\0" % i for i in range(5)]


def test_dataset_in_another_dtype_is_refused_at_once(caches):
    with pytest.raises(ConfigError, match="maps are stored as float16; read that or float32"):
        caches["dense-float16"].dataset("train", 4, dtype="uint8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_expand_inside_a_compiled_step_is_the_same_and_knows_its_shape(caches, dtype):
    import tensorflow as tf

    cache = caches[f"sparse-{dtype}"]
    shapes = []

    @tf.function(input_signature=cache.dataset("train", 6, is_sparse=True).element_spec)
    def step(masks, values, labels):
        maps = datasets.expand(masks, values, cache.layout)
        shapes.append(maps.shape.as_list())
        return maps, labels

    found = dense(step(*batch) for batch in cache.dataset("train", 6, is_sparse=True))
    assert found == read(cache.reader("train").in_order(6))
    assert shapes == [[None, 3, 2, 3, 8]]


def test_expand_counts_each_mask_on_its_own_and_places_beyond_int32(caches):
    import tensorflow as tf

    layout = caches["sparse-float16"].layout

    @tf.function(
        input_signature=caches["sparse-float16"].dataset("train", 6, is_sparse=True).element_spec
    )
    def step(masks, values, labels):
        return datasets.expand(masks, values, layout)

    operations = step.get_concrete_function().graph.get_operations()
    scans = [op for op in operations if op.type == "Cumsum"]
    bits = [op for op in scans if op.inputs[0].shape.rank == 3]
    assert [tf.get_static_value(op.inputs[1]) for op in bits] == [-1]  # along the last axis
    assert {op.inputs[0].dtype for op in scans if op not in bits} == {tf.int64}
    assert [op.inputs[1].dtype for op in operations if op.type == "GatherV2"] == [tf.int64]


@pytest.mark.parametrize("shape", [(1,), (17,), (3, 3, 65)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_expand_maps_of_odd_shapes_and_of_zeros_alone(dtype, shape, tmp_path: Path):
    scaled = {"scales": (0.5,) * shape[-1], "zero_points": (3,) * shape[-1]}
    more = scaled if dtype == "uint8" else {}
    layout = Layout(shape, ("original",), dtype, "sparse", "parquet", 4, **more)
    maps = np.random.default_rng(0).integers(-3, 4, (9, 1, *shape)).astype(np.float32) / 2
    maps[4:8] = 0  # a batch without any value
    write_cache(tmp_path, layout, {"train": 9}, 2, {"train": maps})
    found = [
        datasets.expand(masks, values, layout).numpy()
        for masks, values, _ in FeatureCache(tmp_path).dataset("train", 4, is_sparse=True)
    ]
    np.testing.assert_array_equal(np.concatenate(found), maps)


def test_dataset_can_be_gone_through_again(caches):
    dataset = caches["sparse-float16"].dataset("val", 4)
    assert dense(dataset) == dense(dataset)


def test_sparse_dataset_of_a_dense_cache_is_refused_at_once(caches):
    with pytest.raises(ConfigError, match="the cache's encoding is dense; read dense batches"):
        caches["dense-float16"].dataset("train", 4, is_sparse=True)


def test_dataset_of_a_split_without_images_is_refused_at_once(caches):
    with pytest.raises(ConfigError, match="no images in split test"):
        caches["dense-float16"].dataset("test", 4)
