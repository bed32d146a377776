"""Extract whose workers die: at an image, which is named; or at something else, and it goes on."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from crashing import Deadly, DeadlyNetwork, Reading
from extracting import BEHIND, BRANCHES, Extract, files
from images import make_class_folders
from processes import PROGRAM, bottleneck, tree
from working import fill_with, network

from pipelines.errors import ShardError, WorkerError
from pipelines.execution.engine import CrewSettings, Piece
from pipelines.execution.slots import cpu_slots
from pipelines.extraction.crashes import Finder
from pipelines.extraction.inputs import Origin
from pipelines.images.encode import Encoder
from pipelines.images.jpeg import JpegCodec

EXTRACT = Extract(shards=8, rows={"train": 70, "val": 3})  # the first 64 are probed
MEND = "compress could use them: leave them out of its images, and compress again with --overwrite"
DECODER = """
# A JPEG library with a bug, in front of the real one: it does not survive one file.
import hashlib, os, signal, sys

del sys.modules["simplejpeg"]
here = os.path.dirname(__file__)
sys.path.remove(here)
import simplejpeg
sys.path.insert(0, here)  # for workers, too

real = simplejpeg.decode_jpeg

def decode_jpeg(data, *arguments, **options):
    if hashlib.sha256(data).hexdigest() == os.environ["DEADLY_SHA256"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(data, *arguments, **options)

simplejpeg.decode_jpeg = decode_jpeg
"""
NOBODY = Deadly()


def fill(
    features_dir: Path,
    deadly: Deadly = NOBODY,
    at_work: Deadly = NOBODY,
    is_known: bool = True,
) -> None:
    """Extract made-up images that not everybody survives, with who looks for them.

    Args:
        features_dir: where.
        deadly: the images.
        at_work: what happens beside them.
        is_known: whether the network is, as far as who looks for images knows.
    """
    finder = Finder(Origin(Path("variants"), BRANCHES), EXTRACT.rows, 60.0)
    finder.reading = Reading(EXTRACT, deadly) if is_known else None
    work = DeadlyNetwork(EXTRACT, behind=BEHIND, deadly=deadly, at_work=at_work)
    fill_with(features_dir, work, crew_settings=CrewSettings(cpu_slots(2), 60.0, finder))


@pytest.mark.parametrize(
    "name",
    ["train/003", pytest.param("train/069", marks=pytest.mark.slow)],
    ids=["at the probe", "at a shard"],
)
def test_extract_image_that_ends_its_workers_is_named(name, tmp_path):
    with pytest.raises(ShardError) as caught:
        fill(tmp_path, Deadly(crash=[name]))
    assert str(caught.value) == (
        f"variants: processes that read these images end at it: {name} (by SIGSEGV); {MEND}"
    )
    assert not [*tmp_path.rglob("manifest.json"), *tmp_path.rglob("*.tmp")]


def test_extract_what_was_whole_is_kept_and_without_the_image_it_goes_on(tmp_path):
    with pytest.raises(ShardError, match=r"val/002 \(by SIGSEGV\)"):
        fill(tmp_path / "features", Deadly(crash=["val/002"]))
    assert [*(tmp_path / "features").rglob("receipts/*.json")]
    fill(tmp_path / "features")
    fill_with(tmp_path / "clean", network(EXTRACT))
    assert files(tmp_path / "features") == files(tmp_path / "clean")


@pytest.mark.slow
def test_extract_images_that_end_its_workers_are_all_named(tmp_path):
    names = ["val/000", "val/001", "val/002"]
    with pytest.raises(ShardError) as caught:
        fill(tmp_path, Deadly(crash=names))
    said = ", ".join(f"{name} (by SIGSEGV)" for name in names)
    assert f" end at it: {said}; {MEND}" in str(caught.value)


def test_extract_network_that_ends_its_workers_names_the_shard(tmp_path):
    with pytest.raises(WorkerError, match=r"the probe: 3 worker processes died .* by SIGSEGV"):
        fill(tmp_path, at_work=Deadly(crash=["batch"]))


def test_extract_workers_that_die_before_the_network_is_known_are_counted(tmp_path):
    with pytest.raises(WorkerError, match=r"the probe: 3 worker processes died .* by SIGSEGV"):
        fill(tmp_path, Deadly(crash=["train/000"]), is_known=False)


def test_extract_workers_killed_from_outside_accuse_no_image(tmp_path):
    count_path = tmp_path / "count"
    count_path.write_text("2")
    fill(tmp_path / "features", Deadly(killed=["train/069"], count_path=count_path))
    assert count_path.read_text() == "0", "two workers were killed"
    fill_with(tmp_path / "clean", network(EXTRACT))
    assert files(tmp_path / "features") == files(tmp_path / "clean")


@pytest.mark.parametrize(
    ("more", "mend"),
    [
        ({"is_node": True}, "its cache may be damaged: run `bottleneck verify`"),
        (
            {"encoder": Encoder(Path("images"), JpegCodec(), 100.0)},
            "leave them out of the images, and extract again with --overwrite",
        ),
    ],
)
def test_finder_says_what_to_do_where_no_variants_are_stored(more, mend):
    finder = Finder(Origin(Path("a/set"), BRANCHES, **more), EXTRACT.rows, 60.0)
    words = finder._words({"train/003": "by SIGSEGV"})
    assert words.endswith(mend)


def test_finder_names_five_of_many():
    finder = Finder(Origin(Path("variants"), BRANCHES), EXTRACT.rows, 60.0)
    words = finder._words({f"{n}.jpg": "by SIGSEGV" for n in range(7)})
    assert "3.jpg (by SIGSEGV), 4.jpg (by SIGSEGV) and 2 more; " in words


def test_finder_other_pieces_are_given_back():
    finder = Finder(Origin(Path("variants"), BRANCHES), EXTRACT.rows, 60.0)
    finder.reading = Reading(EXTRACT, Deadly(crash=["train/000"]))
    piece = Piece("the network", object())
    assert finder(piece, lambda tried: "by SIGSEGV") is piece


@pytest.mark.slow
def test_extract_command_names_the_image_at_which_its_decoder_crashes(tmp_path):
    paths = make_class_folders(tmp_path / "images", num_per_class=4)
    workspace, library = tmp_path / "workspace", tmp_path / "library"
    for folder in (workspace, library):
        folder.mkdir()
    (workspace / "bottleneck.toml").touch()
    result = bottleneck(
        workspace, "compress", "--images", str(tmp_path / "images"), "--qualities", "50"
    )
    assert result.returncode == 0, result.stderr
    before = tree(workspace / "variants")
    (library / "simplejpeg.py").write_text(DECODER)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{library}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "DEADLY_SHA256": hashlib.sha256(paths[5].read_bytes()).hexdigest(),
    }
    command = [PROGRAM, "extract", "-C", workspace, "--backbone", "efficientnet_lite0"]
    result = subprocess.run(
        [*command, "--workers", "2", "--shards", "3"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == (
        f"error: {workspace}/variants/jpeg: processes that read these images end at it: "
        f"dog/dog_001.jpg (by SIGSEGV); {MEND}"
    )
    assert not [*(workspace / "features").rglob("plan.json")]
    assert tree(workspace / "variants") == before
