"""Shards cut short or grown: said on opening, or on reading where receipts were bent to fit."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from editing import vouch_for
from extracting import Extract, fill

from pipelines import verify
from pipelines.errors import ShardError
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.storage.formats import FORMATS


@pytest.fixture(scope="module", params=FORMATS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small cache; tests put back what they change."""
    root = tmp_path_factory.mktemp(request.param)
    fill(root, Extract(request.param, group_bytes=100))
    return root / "front"


@pytest.fixture
def shard(made: Path) -> Path:
    """One of its shards, of two images; put back afterwards with all that vouches for it."""
    (path,) = made.glob("val-*")
    names = [path, made / "manifest.json", made / "receipts" / f"{path.name}.json"]
    before = {name: name.read_bytes() for name in names}
    yield path
    for name, content in before.items():
        name.write_bytes(content)


def record_starts(content: bytes) -> list[int]:
    """Return where each record of a TFRecord begins, and where the last one ends."""
    starts = [0]
    while starts[-1] < len(content):
        (size_bytes,) = struct.unpack_from("<Q", content, starts[-1])
        starts.append(starts[-1] + 12 + size_bytes + 4)
    return starts


def what_is_said(shard: Path) -> str:
    """Read a shard's split; returns the error, or "nothing"."""
    try:
        list(FeatureCache(shard.parent).reader("val", num_threads=1).in_order(5))
    except ShardError as error:
        return str(error)
    return "nothing"


def test_cache_shard_cut_at_any_byte_says_so_when_opened(shard):
    content = shard.read_bytes()
    for size_bytes in range(len(content)):
        shard.write_bytes(content[:size_bytes])
        with pytest.raises(ShardError) as raised:
            FeatureCache(shard.parent)
        words = f"{shard}: {size_bytes} bytes, its receipt says {len(content)} bytes; "
        assert str(raised.value).startswith(words)


def test_read_shard_cut_at_any_byte_receipts_bent_says_so(shard):
    content = shard.read_bytes()
    for size_bytes in range(len(content)):
        shard.write_bytes(content[:size_bytes])
        vouch_for(shard)
        assert what_is_said(shard).startswith(f"{shard}: "), f"cut at {size_bytes}"


@pytest.mark.parametrize("made", ["tfrecord"], indirect=True)
def test_read_shard_of_fewer_records_receipts_bent_says_so(shard):
    content = shard.read_bytes()
    starts = record_starts(content)
    assert len(starts) == 3
    for number, stop in enumerate(starts[:-1]):
        shard.write_bytes(content[:stop])
        vouch_for(shard)
        expected = f"{shard}: damaged: {number} records, its receipt says 2; "
        assert what_is_said(shard).startswith(expected)


@pytest.mark.parametrize("more", [b"\0", b"PAR1", b"\0" * 64])
def test_read_shard_grown_receipts_bent_says_so(shard, more):
    shard.write_bytes(shard.read_bytes() + more)
    vouch_for(shard)
    assert what_is_said(shard).startswith(f"{shard}: ")


@pytest.mark.parametrize("made", ["tfrecord"], indirect=True)
def test_read_shard_with_all_records_twice_receipts_bent_says_so(shard):
    shard.write_bytes(shard.read_bytes() * 2)
    vouch_for(shard)
    assert what_is_said(shard).startswith(f"{shard}: damaged: 4 records, its receipt says 2; ")


def test_verify_shard_cut_at_some_byte_says_how_long_it_is(shard):
    content = shard.read_bytes()
    for size_bytes in (0, 1, len(content) // 2, len(content) - 1):
        shard.write_bytes(content[:size_bytes])
        (bad,) = verify.run(shard.parents[1], shard.parents[1], False, False, Silent())["bad"]
        assert bad == {
            "file": f"front/{shard.name}",
            "reason": f"{size_bytes} bytes, its receipt says {len(content)}",
        }


def test_verify_deep_shard_cut_receipts_bent_names_it(shard):
    content = shard.read_bytes()
    for size_bytes in range(0, len(content), 97):
        shard.write_bytes(content[:size_bytes])
        vouch_for(shard)
        (bad,) = verify.run(shard.parents[1], shard.parents[1], True, False, Silent())["bad"]
        assert bad["file"] == f"front/{shard.name}"


def test_extract_shard_cut_makes_it_again_with_the_same_bytes(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    shard_format = shard.suffix[1:]
    done = fill(shard.parents[1], Extract(shard_format, group_bytes=100))
    assert done.num_resumed_shards == 5
    assert shard.read_bytes() == content
