"""Variants made in memory: the same pixels as stored ones, of the same images, or a clear error."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from images import make_class_folders, photo, to_jpeg

from pipelines import extract
from pipelines.compression import sets
from pipelines.compression.plans import Asked
from pipelines.config import CompressConfig, ExtractConfig
from pipelines.errors import ManifestError, SourceError
from pipelines.execution import inline
from pipelines.extraction import network
from pipelines.extraction.inputs import Images
from pipelines.extraction.on_the_fly import OnTheFly
from pipelines.images import preprocess
from pipelines.progress import Silent
from pipelines.storage import content, set_folders, variants

PROTOCOL = preprocess.Protocol("tiny", 32, 0.9, "bilinear", "raw")
QUALITIES = (10, 50, 90)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with an image that cannot be used in the middle."""
    root = tmp_path_factory.mktemp("images")
    make_class_folders(root, num_per_class=8)
    bad = sorted(root.rglob("*.*"))[5]
    bad.write_bytes(b"no image")
    return root


def make(workspace: Path, images: Path, is_stored: bool, **settings) -> sets.Made:
    """Make a set with the variants, or one that only lists the images."""
    config = CompressConfig(images=str(images), qualities=QUALITIES, max_bad_share=0.5, **settings)
    asked = Asked.from_settings(config.model_dump(), 0, is_stored)
    folder = set_folders.stored() if is_stored else set_folders.listed()
    way = sets.Way(inline.open_crew, 1, 0)
    return sets.make(workspace, workspace / folder, asked, way, Silent())


def sources_of(workspace: Path, images: Path, branches=("all",)) -> tuple[Images, OnTheFly]:
    make(workspace, images, is_stored=True)
    made = make(workspace, images, is_stored=False)
    stored = variants.open_set(workspace / set_folders.stored(), branches)
    listed = variants.open_set(workspace / set_folders.listed(), branches)
    encoder = dataclasses.replace(made.encoder, is_stored=True)
    return Images(stored, PROTOCOL), OnTheFly(listed, encoder, PROTOCOL)


@pytest.mark.parametrize(
    "branches", [("all",), ("original",), ("q050", "original"), ("q090", "q010")]
)
def test_inputs_are_those_of_stored_variants(images, branches, tmp_path):
    stored, made = sources_of(tmp_path, images, branches)
    assert made.branches == stored.branches
    assert made.num_rows() == stored.num_rows()
    for split, count in stored.num_rows().items():
        pairs = itertools.zip_longest(
            stored.inputs(split, 0, count, 3), made.inputs(split, 0, count, 3)
        )
        for expected, found in pairs:
            assert (found.ids, found.labels) == (expected.ids, expected.labels)
            assert np.array_equal(found.load(), expected.load())


def test_listed_set_leaves_out_the_same_images_and_holds_no_variant(images, tmp_path):
    stored, listed = (make(tmp_path, images, is_stored) for is_stored in (True, False))
    assert stored.num_quarantined == listed.num_quarantined == 1
    quarantines = [
        (tmp_path / folder / "quarantine.csv").read_text()
        for folder in (set_folders.stored(), set_folders.listed())
    ]
    assert quarantines[0] == quarantines[1]
    sizes = [
        sum(receipt.size_bytes for receipt in made.output.receipts.values())
        for made in (stored, listed)
    ]
    assert sizes[1] < sizes[0] / 4


@pytest.mark.parametrize("shards", [0, 3, 7])
def test_content_of_a_listed_set_is_that_of_the_stored_one_in_any_shards(images, shards, tmp_path):
    stored = make(tmp_path, images, is_stored=True, shards=5)
    listed = make(tmp_path, images, is_stored=False, shards=shards)
    digests = {content.digest_of(made.output.receipts.values()) for made in (stored, listed)}
    assert len(digests) == 1


def test_content_of_other_images_is_another(images, tmp_path):
    own = Path(shutil.copytree(images, tmp_path / "own"))
    before = make(tmp_path / "before", own, is_stored=False)
    (min(own.rglob("*.jpg"))).write_bytes(to_jpeg(photo(seed=77)))
    after = make(tmp_path / "after", own, is_stored=False)
    digests = {content.digest_of(made.output.receipts.values()) for made in (before, after)}
    assert len(digests) == 2


def test_inputs_image_that_has_changed_since_is_an_error_that_names_it(images, tmp_path):
    own = tmp_path / "own"
    make_class_folders(own, num_per_class=4)
    _, made = sources_of(tmp_path / "workspace", own)
    batch = next(made.inputs("train", 0, 3, 3))
    path = own / batch.ids[1]
    path.write_bytes(to_jpeg(photo(seed=78)))
    with pytest.raises(SourceError, match=r"has changed since it was checked: bring it back"):
        next(made.inputs("train", 0, 3, 3)).load()
    path.unlink()
    with pytest.raises(SourceError, match=r"cannot be read: No such file .* when it was checked"):
        next(made.inputs("train", 0, 3, 3)).load()


def test_extract_overwrite_lists_the_images_anew_that_were_listed_with_other_settings(
    images, tmp_path
):
    class BehindTheList(Exception):
        pass

    def engine(job, settings):
        if isinstance(job, network.Job):
            raise BehindTheList
        return inline.open_crew(job, settings)

    def start(seed: int, **settings) -> None:
        asked = ExtractConfig(backbone="efficientnet_lite0", on_the_fly=True, **settings)
        made_from = CompressConfig(images=str(images), max_bad_share=0.5)
        extract.run(tmp_path, asked, seed, Silent(), engine, made_from)

    with pytest.raises(BehindTheList):
        start(0)
    with pytest.raises(ManifestError, match="start over with --overwrite"):
        start(1)
    with pytest.raises(BehindTheList):
        start(1, overwrite=True)
    with pytest.raises(BehindTheList):
        start(1)


def test_inputs_count_the_time_that_variants_take(images, tmp_path):
    _, made = sources_of(tmp_path, images)
    assert made.variants_s == 0
    for _ in range(3):
        next(made.inputs("train", 0, 5, 5)).load()
    assert made.variants_s > 0
