"""Pixels that a report shows: stored or made again, never of an image that took another's name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from images import photo, write_jpeg
from judged_workspaces import COMPRESS
from PIL import Image

from pipelines import compress, findings
from pipelines.compression import sets
from pipelines.compression.plans import Asked
from pipelines.execution import inline
from pipelines.images import index
from pipelines.images.jpeg import JpegCodec, decode_jpeg
from pipelines.progress import Silent
from pipelines.storage import parquet, set_folders

STORED = set_folders.stored()
IS_ANOTHER = "is not the image that the cache was made from"


def look(workspace: Path) -> dict[str, tuple[dict[str, np.ndarray], str]]:
    """Return pixels and problem of six judged images by id."""
    finding = findings.find(workspace, "second")
    wanted = {name: ["original", "q050"] for name in finding.predictions.ids()[:6]}
    return {one.id: (dict(one.pixels), one.problem) for one in finding.pixels.of(wanted)}


def replace_first(workspace: Path) -> str:
    """Put another photograph in the place of the first judged image."""
    name = findings.find(workspace, "second").predictions.ids()[0]
    write_jpeg(workspace / name, photo(7))
    return name


def list_images(workspace: Path) -> None:
    """List the images as `extract --on-the-fly` does."""
    asked = Asked.from_settings(COMPRESS.model_dump(), 0, False)
    way = sets.Way(inline.open_crew, 1, 0)
    sets.make(workspace, workspace / set_folders.listed(), asked, way, Silent())


def write_hashes(workspace: Path) -> None:
    """Hash the images as an index without given splits does."""
    ids = parquet.read_table(workspace / index.FOLDER / "images.parquet")["id"].to_pylist()
    hashes = [hashlib.sha256((workspace / name).read_bytes()).hexdigest() for name in ids]
    folder = workspace / index.FOLDER / index.HASHES
    folder.mkdir()
    parquet.write_table(folder / "00000.parquet", pa.table({"id": ids, "sha256": hashes}))


def forget(workspace: Path) -> None:
    shutil.rmtree(workspace / STORED)


def damage(workspace: Path) -> None:
    """Spoil the stored images, where names and hashes can still be read."""
    for path in (workspace / STORED).glob("*.parquet"):
        data = bytearray(path.read_bytes())
        start, end = len(data) // 4, len(data) // 2
        data[start:end] = bytes(end - start)
        path.write_bytes(data)


def test_pixels_of_the_stored_set_are_those_of_the_codec(judged_once):
    found = look(judged_once)
    assert len(found) == 6
    for name, (pixels, problem) in found.items():
        assert not problem
        with Image.open(judged_once / name) as image:
            assert pixels["original"].shape[:2] == (image.height, image.width)
        (encoded,) = JpegCodec((50,)).encode(pixels["original"])
        assert (pixels["q050"] == decode_jpeg(encoded)).all()


@pytest.mark.parametrize("spoil", [forget, damage])
def test_pixels_made_again_are_the_stored_ones(judged, spoil):
    before = look(judged)
    spoil(judged)
    after = look(judged)
    assert after.keys() == before.keys()
    for name, (pixels, problem) in after.items():
        assert not problem
        for version, values in before[name][0].items():
            assert (pixels[version] == values).all()


@pytest.mark.parametrize(
    ("record", "spoil"), [(None, damage), (list_images, forget), (write_hashes, forget)]
)
def test_pixels_of_a_replaced_image_are_not_shown_as_the_old_one(judged, record, spoil):
    if record is not None:
        record(judged)
    spoil(judged)
    replaced = replace_first(judged)
    found = look(judged)
    assert found[replaced][0] == {}
    assert IS_ANOTHER in found[replaced][1]
    assert str(judged / replaced) in found[replaced][1]
    assert [name for name, (pixels, _) in found.items() if not pixels] == [replaced]


def test_pixels_of_a_set_made_again_from_other_images_are_not_taken(judged):
    before = look(judged)
    write_hashes(judged)
    replaced = replace_first(judged)
    forget(judged)
    compress.run(judged, COMPRESS, 0, Silent(), inline.open_crew)
    assert findings.find(judged, "second").pixels.stored() is None
    found = look(judged)
    assert IS_ANOTHER in found.pop(replaced)[1]
    for name, (pixels, problem) in found.items():
        assert not problem
        assert (pixels["q050"] == before[name][0]["q050"]).all()


def test_pixels_of_damaged_hashes_are_those_of_the_file(judged):
    write_hashes(judged)
    forget(judged)
    (judged / index.FOLDER / index.HASHES / "00000.parquet").write_bytes(b"no table")
    assert all(pixels and not problem for pixels, problem in look(judged).values())


def test_hashes_of_files_that_could_not_be_read_are_left_out(tmp_path):
    folder = tmp_path / index.HASHES
    folder.mkdir()
    words = ["cannot be read: Permission denied", hashlib.sha256(b"b").hexdigest()]
    parquet.write_table(folder / "00000.parquet", pa.table({"id": ["a", "b"], "sha256": words}))
    found = index.hashes(tmp_path)
    assert found.to_pylist() == [{"id": "b", "sha256": hashlib.sha256(b"b").digest()}]
    assert index.hashes(tmp_path / "nowhere").num_rows == 0
