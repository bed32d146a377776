"""`bottleneck stats`: zeros and sizes as the maps themselves give them, pictures, qualities."""

from __future__ import annotations

import json

import numpy as np
import pytest
from caches import BRANCHES, make_cache, read_split, tiny
from commands import invoke, the_error
from images import photo, write_jpeg, write_png
from PIL import Image

from pipelines import compress, stats
from pipelines.config import CompressConfig, StatsConfig
from pipelines.errors import ManifestError
from pipelines.execution import inline
from pipelines.progress import Silent

SHAPE = (3, 5, 7)
QUALITIES = {"ant": (55, 55, 90), "bee": (90, 90, None)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two caches and the variants of five JPEGs and a PNG."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "bottleneck.toml").touch()
    features = root / "features"
    make_cache(features / "first", tiny(), SHAPE, encoding="sparse", dtype="float16")
    make_cache(features / "second", tiny(), (7,), encoding="dense", format="tfrecord")
    for name, qualities in QUALITIES.items():
        (root / "images" / name).mkdir(parents=True)
        for i, quality in enumerate(qualities):
            path, pixels = root / "images" / name / f"{name}{i}", photo(seed=len(name) * 10 + i)
            if quality:
                write_jpeg(path.with_suffix(".jpg"), pixels + i, quality)
            else:
                write_png(path.with_suffix(".png"), pixels + i)
    return root


@pytest.fixture(scope="module")
def compressed(workspace):
    images = CompressConfig(images=str(workspace / "images"), qualities=(50,))
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    return workspace


def run(root, **settings):
    return stats.run(root, root / "features", StatsConfig(**settings), Silent())


def test_stats_zeros_are_those_of_the_maps(workspace):
    cache = make_cache(workspace / "again" / "first", tiny(), SHAPE, encoding="sparse")
    maps = np.concatenate([read_split(cache, split)[0] for split in cache.splits])
    shares = (maps != 0).reshape(len(maps), len(BRANCHES), -1).mean(axis=(0, 2))
    found = run(workspace)["nodes"]["first"]
    assert found["density"] == pytest.approx(shares.mean(), abs=1e-6)
    assert found["zeros_by_branch"] == pytest.approx(
        dict(zip(BRANCHES, 1 - shares, strict=True)), abs=1e-6
    )
    raw = 8 * np.count_nonzero(maps) / (len(maps) * len(BRANCHES))
    assert found["raw_sparse_bytes_per_map"] == pytest.approx(raw, abs=0.06)


@pytest.mark.parametrize(("name", "shape"), [("first", SHAPE), ("second", (7,))])
def test_stats_sizes_are_those_of_the_files(workspace, name, shape):
    found = run(workspace)["nodes"][name]
    files = [*(workspace / "features" / name).glob("*-of-*.*")]
    size_bytes = sum(path.stat().st_size for path in files)
    assert found["num_shards"] == len(files)
    assert found["shard_bytes"] == round(size_bytes / len(files))
    num_maps = found["num_images"] * len(BRANCHES)
    assert found["bytes_per_map"] == pytest.approx(size_bytes / num_maps, abs=0.06)
    assert found["dense_bytes_per_map"] == 4 * np.prod(shape)


def test_stats_without_variants_has_no_histogram(workspace, tmp_path):
    (tmp_path / "features").symlink_to(workspace / "features")
    found = run(tmp_path)
    assert found["qf_histogram"] is None
    assert found["pictures"] == ["stats/density-first.png", "stats/density-second.png"]


def test_stats_histogram_counts_the_originals_qualities(compressed):
    histogram = run(compressed)["qf_histogram"]
    assert histogram == {"num_images": 6, "num_unknown": 1, "num_by_qf": {"55": 2, "90": 3}}


def test_stats_fewer_images_are_fewer_in_the_histogram(compressed):
    assert run(compressed, images=4)["qf_histogram"]["num_images"] == 4


def test_stats_pictures_are_there_and_show_the_cache(compressed):
    found = run(compressed, node=("first",))
    assert found["pictures"] == ["stats/density-first.png", "stats/qf-histogram.png"]
    for name in found["pictures"]:
        with Image.open(compressed / name) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_stats_picture_counts_a_channel_by_its_values(workspace, monkeypatch):
    seen = []
    monkeypatch.setattr(stats.plots, "channel_density", lambda density, path: seen.append(density))
    run(workspace, node=("first",), images=10)
    (density,) = seen
    maps, _, _ = read_split(stats.find_cache(workspace / "features", "first"), "train")
    assert (density.num_images, tuple(density.branches)) == (10, BRANCHES)
    np.testing.assert_allclose(density.shares, (maps[:10] != 0).mean(axis=(0, 2, 3)))


def test_stats_nothing_there_says_what_to_run(tmp_path):
    with pytest.raises(ManifestError, match="neither variants nor caches here; run `bottleneck"):
        run(tmp_path)


def test_stats_unknown_node_names_those_there(workspace):
    result = invoke("stats", "-C", workspace, "--node", "third")
    assert "no cache of node third; there are first, second" in the_error(result)


def test_stats_command_shows_a_table_and_the_same_as_json(compressed):
    shown = invoke("stats", "-C", compressed).output
    assert "zeros by branch" in shown
    assert "quality factors of 5 of 6 originals, the most frequent: 90 (3), 55 (2)" in shown
    value = json.loads(invoke("stats", "-C", compressed, "--json", "-q").stdout)
    assert list(value) == ["stage", "nodes", "qf_histogram", "pictures", "seconds"]
    for node, found in value["nodes"].items():
        assert f"{100 * (1 - found['density']):.2f}%" in shown, node
