"""The versions of an image made in memory, as the stages before made those of a cache."""

from __future__ import annotations

from pathlib import Path

import images
import numpy as np
import pytest
from conftest import Extracted

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.errors import ConfigError, ImageError, ManifestError
from pipelines.execution import inline
from pipelines.extraction.inputs import Images
from pipelines.images import codecs, decode, preprocess
from pipelines.images.control_codec import ControlCodec
from pipelines.images.versions import Versions
from pipelines.progress import Silent
from pipelines.storage import set_folders, variants
from pipelines.storage.cache import FeatureCache

PROTOCOL = preprocess.for_backbone("symmetric", 75)


def make_set(workspace: Path, **settings: object) -> variants.VariantSet:
    """Compress one file of every kind that can be used, in two classes."""
    folder = workspace / "images"
    (folder / "a").mkdir(parents=True)
    images.write_odd_files(folder / "a")
    (folder / "b").mkdir()
    (folder / "b" / "gray.png").write_bytes(images.to_png(images.photo(1, channels=1)))
    (folder / "b" / "colour.jpg").write_bytes(images.to_jpeg(images.photo(2)))
    config = CompressConfig(images=str(folder), qualities=(10, 50, 90), **settings)
    compress.run(workspace, config, 0, Silent(), inline.open_crew)
    return variants.open_set(workspace / set_folders.stored(config.set), ["all"])


def made_from(found: variants.VariantSet) -> dict:
    return {"variants": found.plan.fingerprint, "protocol": PROTOCOL.describe()}


JPEGS = ("q010", "q050", "q090")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"subsampling": "4:2:0"}, JPEGS),
        ({"subsampling": "4:2:2"}, JPEGS),
        ({"set": "control"}, ControlCodec().variant_names),
    ],
    ids=["4:2:0", "4:2:2", "control"],
)
def test_read_of_any_kind_of_image_gives_the_inputs_of_its_stored_variants(
    settings, names, tmp_path
):
    found = make_set(tmp_path, **settings)
    versions = Versions.of_cache(made_from(found), found.names)
    assert versions.branches == versions.names == ("original", *names)
    assert versions.shape == (1 + len(names), 75, 75, 3)
    num_images = 0
    for split, count in found.num_rows().items():
        for batch in Images(found, PROTOCOL).inputs(split, 0, count, 1):
            (name,) = batch.ids
            made = versions.read(tmp_path / "images" / name)
            np.testing.assert_array_equal(made, batch.load()[0], name)
            num_images += 1
    assert num_images == 9


def test_read_makes_the_branches_that_are_asked_for(tmp_path):
    found = make_set(tmp_path)
    every = Versions.of_cache(made_from(found), found.names)
    path = tmp_path / "images" / "b" / "colour.jpg"
    expected = every.read(path)
    for branches in (("original",), ("q090",), ("q010", "q050"), ("original", "q090")):
        made = Versions.of_cache(made_from(found), branches).read(path)
        np.testing.assert_array_equal(made, expected[[every.branches.index(b) for b in branches]])


@pytest.mark.parametrize("set_name", set_folders.SETS)
def test_picture_of_a_version_is_what_the_set_stores_in_three_colours(set_name, tmp_path):
    found = make_set(tmp_path, set=set_name)
    versions = Versions.of_cache(made_from(found), ["original"])
    decode_version = codecs.decoder_of(found.plan.fingerprint["codec"])
    rows = [row for split, count in found.num_rows().items() for row in found.rows(split, 0, count)]
    (gray,) = (row for row in rows if row.id == "b/gray.png")
    for row in (gray, next(row for row in rows if row.id == "b/colour.jpg")):
        path = tmp_path / "images" / row.id
        for name, data in zip(found.names, row.variants, strict=True):
            is_original = name == "original"
            pixels = decode.decode_original(data) if is_original else decode_version(data)
            picture = versions.picture(path, name)
            assert (picture.dtype, picture.shape) == (np.uint8, (*pixels.shape[:2], 3))
            for channel in range(3):
                expected = pixels if pixels.ndim == 2 else pixels[:, :, channel]
                np.testing.assert_array_equal(picture[:, :, channel], expected)
            np.testing.assert_array_equal(versions.picture(row.variants[0], name), picture)


def test_picture_that_cannot_be_made_raises_why(tmp_path):
    versions = Versions.of_cache(made_from(make_set(tmp_path)), ["original"])
    with pytest.raises(ConfigError, match="no version q020 of an image; there are original, q010"):
        versions.picture(tmp_path / "images" / "b" / "colour.jpg", "q020")
    with pytest.raises(ImageError, match="not an image of a supported format"):
        versions.picture(b"no image", "q010")
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        versions.picture(tmp_path / "nothing.jpg", "original")


def test_read_of_a_bad_image_raises_why(tmp_path):
    found = make_set(tmp_path, max_megapixels=0.5)
    versions = Versions.of_cache(made_from(found), found.names)
    bad = images.write_bad_files(tmp_path / "bad")
    for name, reason in (
        ("empty", "the file is empty"),
        ("text", "not an image of a supported format"),
        ("truncated_jpeg", "damaged jpeg data"),
        ("bomb", "the limit is 0.5"),
    ):
        with pytest.raises(ImageError, match=reason):
            versions.read(bad[name])
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        versions.read(tmp_path / "nothing.jpg")


def test_of_cache_takes_the_recorded_settings(extracted: Extracted):
    cache = FeatureCache(extracted.path / "features" / "avg_pool")
    versions = Versions.of_cache(cache.fingerprint, cache.layout.branches)
    assert versions.protocol == preprocess.for_backbone("lite", 224)
    assert (versions.codec.qualities, versions.codec.subsampling) == ((10, 50), "4:2:0")
    assert versions.max_megapixels == CompressConfig().max_megapixels
    versions.check_libraries(cache.fingerprint, Path("run"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made.pop("variants"), "does not say how its images were prepared"),
        (lambda made: made["protocol"].pop("size"), "does not say how its images were prepared"),
        (lambda made: made["protocol"].update(scaling="x"), "scaling 'x' is unknown"),
        (lambda made: made["variants"]["codec"].update(format="webp"), "of format webp"),
        (
            lambda made: made["variants"]["codec"].update(qualities=[90]),
            "branches q010: the cache's variants are original, q090",
        ),
    ],
)
def test_of_cache_that_is_not_described_raises(change, reason):
    codec = {"format": "jpeg", "qualities": [10], "subsampling": "4:2:0"}
    made = {
        "variants": {"codec": codec, "max_megapixels": 1.0},
        "protocol": PROTOCOL.describe(),
    }
    Versions.of_cache(made, ["original", "q010"])
    change(made)
    with pytest.raises(ManifestError, match=reason):
        Versions.of_cache(made, ["original", "q010"])


def test_check_libraries_names_what_is_another_here(tmp_path):
    found = make_set(tmp_path)
    versions = Versions.of_cache(made_from(found), found.names)
    made = made_from(found)
    versions.check_libraries(made, tmp_path)
    made["variants"]["codec"]["library_version"] = "1.0"
    with pytest.raises(ManifestError, match=r"made with codec.library_version 1\.0, now .* differ"):
        versions.check_libraries(made, tmp_path)
