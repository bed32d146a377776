"""How batches reach the step: the same numbers dense and sparse, and the choice between them."""

from __future__ import annotations

import numpy as np
import pytest
from shards import LAYOUTS, ROWS, write_cache

from pipelines.errors import ConfigError
from pipelines.storage.batches import FeatureReader
from pipelines.storage.cache import FeatureCache
from pipelines.training import feeds
from pipelines.training.feeds import Feed

NUM_CLASSES = 1000
NAMES = ["sparse-float32", "sparse-float16", "sparse-uint8-tfrecord", "dense-float16"]


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureReader]:
    """Readers of two branches of training splits."""
    root = tmp_path_factory.mktemp("features")
    for name in NAMES:
        write_cache(root / name, LAYOUTS[name])
    return {name: FeatureCache(root / name).reader("train", ["original", "q050"]) for name in NAMES}


def unpacked(feed: Feed, first: int = 0) -> list[tuple[bytes, list[int]]]:
    """Run an epoch through a compiled function, as the step takes it."""
    import tensorflow as tf

    unpack = tf.function(feed.unpack, input_signature=feed.signature[:-2], autograph=False)
    return [
        (unpack(*maps).numpy().tobytes(), labels.tolist())
        for fed in feed.epoch(8, 3, 1, first)
        for *maps, labels, _ in fed.parts
    ]


def expected(reader: FeatureReader, first: int = 0) -> list[tuple[bytes, list[int]]]:
    return [(b.features.tobytes(), b.labels.tolist()) for b in reader.epoch(8, 3, 1, first)]


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("name", NAMES)
def test_dense_gives_the_readers_epoch(readers, name, first):
    assert unpacked(Feed(readers[name], NUM_CLASSES), first) == expected(readers[name], first)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("sparse")])
def test_sparse_gives_the_readers_epoch_expanded_in_the_step(readers, name, first):
    assert unpacked(Feed(readers[name], NUM_CLASSES, is_sparse=True), first) == expected(
        readers[name], first
    )


def test_sparse_hands_over_less_than_dense(readers):
    reader = readers["sparse-uint8-tfrecord"]
    sizes = [
        sum(
            array.nbytes
            for fed in Feed(reader, NUM_CLASSES, is_sparse).epoch(8, 0, 0, 0)
            for array in fed.parts[0]
        )
        for is_sparse in (True, False)
    ]
    assert sizes[0] < sizes[1] / 4
    assert sizes[1] == ROWS["train"] * (2 * reader.layout.num_values + 2) * np.dtype("f").itemsize


@pytest.mark.parametrize(
    ("name", "expand", "has_gpu", "num_arrays"),
    [
        ("sparse-float16", "auto", False, 1),
        ("sparse-float16", "auto", True, 2),
        ("sparse-float16", "host", True, 1),
        ("sparse-float16", "device", False, 2),
        ("dense-float16", "auto", True, 1),
        ("dense-float16", "host", False, 1),
    ],
)
def test_choose_takes_what_is_asked_or_the_device_where_it_is_a_gpu(
    readers, name, expand, has_gpu, num_arrays
):
    feed = feeds.choose(readers[name], NUM_CLASSES, expand, has_gpu)
    assert len(feed.signature) == num_arrays + 2  # labels and weights


def test_choose_device_for_a_dense_cache_is_an_error(readers):
    with pytest.raises(ConfigError, match="the cache's encoding is dense; read dense batches"):
        feeds.choose(readers["dense-float16"], NUM_CLASSES, "device", True)
