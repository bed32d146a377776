"""Shards as TFRecord: what TensorFlow reads in them, and damage that is named by its record."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from shards import as_written, kept, make_layout, make_maps, write_shard

from pipelines.errors import ShardError
from pipelines.storage import tfrecord_shards as unit
from pipelines.storage.example import Example
from pipelines.storage.layout import DTYPES, ENCODINGS, Layout
from pipelines.storage.rows import Shard

LAYOUT = make_layout("float16", "sparse", "tfrecord")
MEND = r"; run `bottleneck verify --repair`, then `bottleneck extract` again$"
NUM_IMAGES = 9


def written(folder: Path, layout: Layout = LAYOUT, **more) -> tuple[Shard, np.ndarray]:
    """Write a shard of nine images, groups of four."""
    maps = make_maps(layout, NUM_IMAGES)
    shard = Shard(folder / "a.tfrecord", "0123/a.tfrecord", layout)
    return as_written(shard, write_shard(shard, maps, **more)), maps


def spans(content: bytes) -> list[tuple[int, int]]:
    """Return where each record begins and ends."""
    found, start = [], 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        found.append((start, start + 12 + length + 4))
        start = found[-1][1]
    return found


def sealed(payload: bytes) -> bytes:
    """Make a record with the right checksums."""

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def change(shard: Shard, position: int, by: int = 1) -> None:
    content = bytearray(shard.path.read_bytes())
    content[position] ^= by
    shard.path.write_bytes(content)


def read(shard: Shard) -> list[str]:
    """Read everything; gives the names."""
    groups = [unit.read_group(shard, g, shard.layout.branches) for g in range(shard.num_groups)]
    return [name for rows in groups for name in rows.ids]


def from_parsed(features: dict, layout: Layout) -> np.ndarray:
    """Put a record's maps together from what TensorFlow parsed, with NumPy alone."""
    maps = []
    for branch in layout.branches:
        planes = [
            np.frombuffer(features[f"{branch}.byte{i}"], np.uint8) for i in range(layout.itemsize)
        ]
        numbers = np.stack(planes, axis=1).reshape(-1).view(layout.dtype).astype(np.float32)
        if layout.encoding == "sparse":
            mask = np.frombuffer(features[f"{branch}.mask"], np.uint8)
            bits = np.unpackbits(mask, bitorder="little")[: layout.num_values].astype(bool)
            flat = np.zeros(layout.num_values, np.float32)
            flat[bits] = numbers
            numbers = flat.reshape(layout.num_channels, -1).T
        maps.append(numbers.reshape(layout.shape))
    if layout.dtype == "uint8":
        zero_points = np.array(layout.zero_points)
        maps = [((m + zero_points) % 256 - zero_points) * np.array(layout.scales) for m in maps]
    return np.array(maps, np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_shard_is_read_by_tensorflow_alone(dtype, encoding, tmp_path):
    import tensorflow as tf

    layout = make_layout(dtype, encoding, "tfrecord")
    shard, maps = written(tmp_path, layout, name_of="größe-{}".format)
    columns = layout.columns(layout.branches)
    names = {name: tf.io.FixedLenFeature([], tf.string) for name in ("id", "place", *columns)}
    found = []
    for record in tf.data.TFRecordDataset(str(shard.path)):
        parsed = tf.io.parse_single_example(
            record, {**names, "label": tf.io.FixedLenFeature([], tf.int64)}
        )
        row = len(found)
        assert parsed["id"].numpy().decode() == f"größe-{row}"
        assert parsed["place"].numpy().decode() == f"{shard.place}/{row}"
        assert parsed["label"].numpy() == row % 5
        cells = {name: tf.io.decode_compressed(parsed[name], "ZLIB").numpy() for name in columns}
        found.append(from_parsed(cells, layout))
    np.testing.assert_array_equal(np.array(found), kept(maps, layout))


def test_record_is_the_example_that_tensorflow_knows(tmp_path):
    import tensorflow as tf

    shard, _ = written(tmp_path)
    content = shard.path.read_bytes()
    start, stop = spans(content)[3]
    ours = Example.FromString(content[start + 12 : stop - 4])
    theirs = tf.train.Example.FromString(content[start + 12 : stop - 4])
    assert theirs.features.feature["id"].bytes_list.value == [b"img-3"]
    names = {"id", "label", "place", *LAYOUT.columns(LAYOUT.branches)}
    assert set(theirs.features.feature) == set(ours.features.feature) == names
    again = theirs.SerializeToString(deterministic=True)
    assert again == ours.SerializeToString(deterministic=True)


def test_records_are_framed_as_tensorflow_frames_them(tmp_path):
    import tensorflow as tf

    shard, _ = written(tmp_path)
    content = shard.path.read_bytes()
    payloads = [content[start + 12 : stop - 4] for start, stop in spans(content)]
    with tf.io.TFRecordWriter(str(tmp_path / "b")) as writer:
        for payload in payloads:
            writer.write(payload)
    assert (tmp_path / "b").read_bytes() == content == b"".join(map(sealed, payloads))


@pytest.mark.parametrize("group", range(3))
def test_read_group_gives_its_records(tmp_path, group):
    shard, _ = written(tmp_path)
    rows = unit.read_group(shard, group, ("q010",))
    expected = list(range(9))[4 * group : 4 * group + 4]
    assert rows.ids == [f"img-{i}" for i in expected]
    assert rows.labels.tolist() == [i % 5 for i in expected]
    assert list(rows.cells) == ["q010.mask", "q010.byte0", "q010.byte1"]


@pytest.mark.parametrize("row", [0, 5, 8])
def test_read_group_payload_damaged_names_the_record(tmp_path, row):
    shard, _ = written(tmp_path)
    start, stop = spans(shard.path.read_bytes())[row]
    change(shard, (start + stop) // 2)
    message = rf"a\.tfrecord: damaged: record {row} does not have its checksum{MEND}"
    with pytest.raises(ShardError, match=message):
        read(shard)


@pytest.mark.parametrize("offset", [0, 2, 7, 8, 11])
@pytest.mark.parametrize("how", [read, unit.read_ids])
def test_read_length_damaged_names_the_record(tmp_path, offset, how):
    shard, _ = written(tmp_path)
    start, _ = spans(shard.path.read_bytes())[5]
    change(shard, start + offset, 0x80)
    with pytest.raises(ShardError, match=rf"damaged: the length of record 5 is damaged{MEND}"):
        how(shard)


@pytest.mark.parametrize("num_left", [1, 11, 12, 100])
@pytest.mark.parametrize("how", [read, unit.read_ids])
def test_read_cut_short_names_the_record(tmp_path, num_left, how):
    shard, _ = written(tmp_path)
    content = shard.path.read_bytes()
    start, _ = spans(content)[8]
    shard.path.write_bytes(content[: start + num_left])
    with pytest.raises(ShardError, match=rf"damaged: cut short in record 8{MEND}"):
        how(shard)


@pytest.mark.parametrize("how", [read, unit.read_ids])
def test_read_fewer_records_than_the_receipt_is_an_error(tmp_path, how):
    shard, _ = written(tmp_path)
    content = shard.path.read_bytes()
    shard.path.write_bytes(content[: spans(content)[7][1]])
    with pytest.raises(ShardError, match=rf"damaged: 8 records, its receipt says 9{MEND}"):
        how(shard)


@pytest.mark.parametrize("how", [read, unit.read_ids])
def test_read_records_that_changed_places_are_an_error(tmp_path, how):
    shard, _ = written(tmp_path)
    content = shard.path.read_bytes()
    records = [content[start:stop] for start, stop in spans(content)]
    records[2], records[6] = records[6], records[2]
    shard.path.write_bytes(b"".join(records))
    place = "0123/a.tfrecord"
    with pytest.raises(ShardError, match=rf"record 2 is {place}/6, expected {place}/2{MEND}"):
        how(shard)


@pytest.mark.parametrize("how", [read, unit.read_ids])
def test_read_file_of_another_cache_is_an_error(tmp_path, how):
    shard = dataclasses.replace(written(tmp_path)[0], place="4567/a.tfrecord")
    with pytest.raises(ShardError, match=r"record 0 is 0123/a\.tfrecord/0, expected 4567/"):
        how(shard)


def test_read_group_column_missing_is_an_error(tmp_path):
    shard, _ = written(tmp_path)
    wider = dataclasses.replace(LAYOUT, branches=(*LAYOUT.branches, "q090"))
    with pytest.raises(ShardError, match=rf"damaged: no column q090\.mask{MEND}"):
        unit.read_group(dataclasses.replace(shard, layout=wider), 0, ("q090",))


def replaced(shard: Shard, old: bytes, new: bytes) -> None:
    """Change the bytes of the second record and seal it again, as a bug could."""
    content = shard.path.read_bytes()
    records = [content[start:stop] for start, stop in spans(content)]
    payload = records[1][12:-4]
    assert payload.count(old) == 1
    records[1] = sealed(payload.replace(old, new))
    shard.path.write_bytes(b"".join(records))


@pytest.mark.parametrize("old", [b"\n\x02id", b"\n\x05label", b"\n\x05place"])
def test_read_group_record_without_a_field_is_an_error(tmp_path, old):
    shard, _ = written(tmp_path)
    replaced(shard, old, old[:-1] + b"x")
    with pytest.raises(ShardError, match=rf"a\.tfrecord: damaged: .*{MEND}"):
        read(shard)


def test_read_group_cell_that_is_no_zlib_stream_is_an_error(tmp_path):
    shard, _ = written(tmp_path)
    content = shard.path.read_bytes()
    start, stop = spans(content)[1]
    example = Example.FromString(content[start + 12 : stop - 4])
    example.features.feature["q010.mask"].bytes_list.value[0] = b"no stream"
    tail = content[stop:]
    payload = example.SerializeToString(deterministic=True)
    shard.path.write_bytes(content[:start] + sealed(payload) + tail)
    with pytest.raises(ShardError, match=rf"damaged: .*decompress.*{MEND}"):
        read(shard)


@pytest.mark.parametrize("byte", range(8))
def test_read_ids_head_damaged_is_an_error_or_another_name(tmp_path, byte):
    # The payload's checksum is of all of it, the names are read from its first bytes alone.
    shard, _ = written(tmp_path)
    names = unit.read_ids(shard)
    content = shard.path.read_bytes()
    start, _ = spans(content)[4]
    for bit in range(8):
        shard.path.write_bytes(content)
        change(shard, start + 12 + byte, 1 << bit)
        try:
            found = unit.read_ids(shard)
        except ShardError as error:
            assert "a.tfrecord: " in str(error)
        else:
            assert found[:4] + found[5:] == names[:4] + names[5:]
        with pytest.raises(ShardError, match="record 4 does not have its checksum"):
            read(shard)


def test_read_ids_length_beyond_the_record_is_an_error(tmp_path):
    shard, _ = written(tmp_path)
    content = shard.path.read_bytes()
    start, stop = spans(content)[4]
    payload = content[start + 12].to_bytes(1, "little") + b"\xff" * 9 + b"\x01"
    padded = sealed(payload + bytes(stop - start - 16 - len(payload)))
    shard.path.write_bytes(content[:start] + padded + content[stop:])
    with pytest.raises(ShardError, match=rf"record 4 is longer inside than outside{MEND}"):
        unit.read_ids(shard)


@pytest.mark.parametrize("length", [1, 4000, 4070, 4096, 20_000])
def test_read_ids_names_of_any_length_are_whole(tmp_path, length):
    shard, _ = written(tmp_path, name_of=lambda i: f"{i}" + "ü" * length)
    assert unit.read_ids(shard) == [f"{i}" + "ü" * length for i in range(9)]


def test_read_group_file_missing_is_an_error(tmp_path):
    shard, _ = written(tmp_path)
    shard.path.unlink()
    with pytest.raises(ShardError, match=rf"a\.tfrecord: damaged: .*No such file.*{MEND}"):
        read(shard)
