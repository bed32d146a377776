"""The index: made once, read again, resumed; splits, limits and order follow the seed alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.errors import ManifestError, ShardError, SourceError
from pipelines.execution.threads import ordered_map
from pipelines.images import index
from pipelines.images.index import Index, open_index
from pipelines.images.sources import Source, open_source
from pipelines.progress import Silent

# 18 images, sorted: five hash shards, of 4, 4, 4, 4 and 2.
NAMES = [f"{name}/{number}" for name in ("cat", "dog") for number in range(9)]


@pytest.fixture(autouse=True)
def small_hash_shards(monkeypatch):
    monkeypatch.setattr(index, "_HASH_CHUNK", 4)
    monkeypatch.setattr(index, "_HASH_AT_ONCE", 1)


class Notes(Silent):
    """Keeps what is said and counts what is started and done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.counts: list[tuple[str, int]] = []

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.counts.append((what, total))

    def advance(self, count: int) -> None:
        self.counts.append(("done", count))

    def say(self, text: str) -> None:
        self.said.append(text)


def make_images(root: Path, names: Iterable[str] = NAMES) -> Path:
    """Write files that differ from each other: their content is their name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def source_of(root: Path) -> Source:
    return open_source(str(root), base_dir=root)


def make_index(
    folder: Path,
    source: Source,
    *,
    limit: int = 0,
    seed: int = 3,
    map_files: Callable[..., Any] = map,
    progress: Silent | None = None,
) -> Index:
    return open_index(
        folder,
        source,
        limit=limit,
        seed=seed,
        map_files=map_files,
        progress=progress or Notes(),
    )


def no_hashing(function: Callable[[str], str], names: list[str]) -> list[str]:
    raise AssertionError(f"hashes {names}")


def files_in(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def splits_of(images: Index) -> dict[str, str]:
    table = images.table
    return dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))


def test_open_index_new_holds_every_image_once_with_its_label(tmp_path):
    images = make_index(tmp_path / "index", source_of(make_images(tmp_path / "set")))
    labels = dict(
        zip(images.table["id"].to_pylist(), images.table["label"].to_pylist(), strict=True)
    )
    assert labels == {name: int(name.startswith("dog")) for name in NAMES}
    assert images.table.num_rows == len(NAMES)
    assert images.table.schema.types == [pa.string(), pa.int32(), pa.string()]
    assert images.info["classes"] == ["cat", "dog"]
    assert images.problems == []


def test_open_index_again_reads_the_same_without_writing_or_hashing(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    made = make_index(tmp_path / "index", source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")}
    notes = Notes()
    again = make_index(tmp_path / "index", source, map_files=no_hashing, progress=notes)
    assert again.table.equals(made.table)
    assert again.info == json.loads(json.dumps(made.info))
    assert again.fingerprint_sha256 == made.fingerprint_sha256
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")} == before
    assert (notes.said, notes.counts) == ([], [])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"limit": 5}, r"index\.json: made with limit 0, now 5; ask for that again, or start over"),
        ({"seed": 4}, r"index\.json: made with seed 3, now 4; ask for that again, or start over"),
        ({"limit": 5, "seed": 4}, r"made with limit 0, now 5; seed 3, now 4; ask"),
    ],
)
def test_open_index_other_setting_is_refused_and_named(asked, words, tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    make_index(tmp_path / "index", source)
    before = files_in(tmp_path / "index")
    with pytest.raises(ManifestError, match=words):
        make_index(tmp_path / "index", source, **asked)
    assert files_in(tmp_path / "index") == before


def test_open_index_other_images_are_refused_and_counted(tmp_path):
    make_index(tmp_path / "index", source_of(make_images(tmp_path / "set")))
    more = source_of(make_images(tmp_path / "set", ["dog/new"]))
    with pytest.raises(ManifestError, match=r"made with images\.num_images 18, now 19"):
        make_index(tmp_path / "index", more)


def test_open_index_of_another_format_is_refused(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    make_index(tmp_path / "index", source)
    path = tmp_path / "index/index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(ManifestError, match=r"index\.json: format version 99"):
        make_index(tmp_path / "index", source)


def test_open_index_whose_table_is_gone_is_refused(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    make_index(tmp_path / "index", source)
    (tmp_path / "index/images.parquet").unlink()
    with pytest.raises(ShardError, match=r"images\.parquet: cannot be opened"):
        make_index(tmp_path / "index", source)


def test_open_index_kept_hashes_are_used_even_when_a_file_changed(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    make_index(tmp_path / "index", source)
    before = files_in(tmp_path / "index")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "index/hashes").iterdir()}
    (tmp_path / "index/index.json").unlink()
    (tmp_path / "index/images.parquet").unlink()
    for name in NAMES:  # all alike now: hashed again, they would all go to one split
        (tmp_path / "set" / name).write_text("other bytes")
    make_index(tmp_path / "index", source, map_files=no_hashing)
    assert files_in(tmp_path / "index") == before
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "index/hashes").iterdir()} == stamps


@pytest.mark.parametrize("num_hashed", range(len(NAMES)))
def test_open_index_stopped_while_hashing_goes_on_to_the_same_bytes(num_hashed, tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    make_index(tmp_path / "whole", source)
    left = iter(range(num_hashed))
    hashed: list[str] = []

    def stop_early(function: Callable[..., list[str]], parts: list[list[str]]) -> Iterator[Any]:
        for part in parts:
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield function(part)

    def record(function: Callable[..., list[str]], parts: list[list[str]]) -> Iterator[Any]:
        hashed.extend(name for part in parts for name in part)
        return map(function, parts)

    with pytest.raises(KeyboardInterrupt):
        make_index(tmp_path / "index", source, map_files=stop_early)
    make_index(tmp_path / "index", source, map_files=record)
    assert hashed == source.table["id"].to_pylist()[num_hashed // 4 * 4 :]
    assert files_in(tmp_path / "index") == files_in(tmp_path / "whole")


def test_open_index_leftovers_of_a_killed_attempt_are_swept(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    leftovers = [tmp_path / "index" / name for name in (".index.json.1-a.tmp", "hashes/.x.1-a.tmp")]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    make_index(tmp_path / "index", source)
    assert not any(path.exists() for path in leftovers)


def test_open_index_kept_hashes_of_other_images_are_made_again(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    make_index(tmp_path / "index", source)
    (tmp_path / "index/index.json").unlink()
    more = source_of(make_images(tmp_path / "set", ["cat/00"]))  # second id: every shard shifts
    make_index(tmp_path / "index", more)
    make_index(tmp_path / "fresh", more)
    assert files_in(tmp_path / "index") == files_in(tmp_path / "fresh")


def test_open_index_hash_pass_is_reported(tmp_path):
    notes = Notes()
    make_index(tmp_path / "index", source_of(make_images(tmp_path / "set")), progress=notes)
    assert notes.counts == [("hash", 18), *[("done", count) for count in (4, 4, 4, 4, 2)]]


def test_open_index_without_splits_keeps_identical_bytes_in_one_split(tmp_path):
    root = make_images(tmp_path / "set", [f"{name}/{i}" for name in "ab" for i in range(60)])
    for name in "ab":
        for i in range(60):
            (root / name / str(i)).write_text(f"{name} {i // 3}")
    images = make_index(tmp_path / "index", source_of(root))
    split_of = splits_of(images)
    for name in "ab":
        for first in range(0, 60, 3):
            assert len({split_of[f"{name}/{first + i}"] for i in range(3)}) == 1
    assert images.num_rows() == {"train": 84, "val": 18, "test": 18}


def test_open_index_without_splits_says_how_it_divided(tmp_path):
    notes = Notes()
    images = make_index(
        tmp_path / "index", source_of(make_images(tmp_path / "set")), progress=notes
    )
    assert notes.said == [images.info["note"]]
    assert notes.said[0].startswith("no splits given: made 70/15/15 by class, seeded: train 12")


def test_open_index_train_and_val_makes_val_the_test_split_and_says_so(tmp_path):
    parts = {"train": range(20), "val": range(5)}
    names = [f"{part}/{name}/{i}" for part, ids in parts.items() for name in "ab" for i in ids]
    source = source_of(make_images(tmp_path / "set", names))
    notes = Notes()
    images = make_index(tmp_path / "index", source, map_files=no_hashing, progress=notes)
    split_of = splits_of(images)
    assert {split_of[name] for name in names if name.startswith("val/")} == {"test"}
    assert {split_of[name] for name in names if name.startswith("train/")} == {"train", "val"}
    assert images.num_rows() == {"train": 38, "val": 2, "test": 10}
    words = "no test split given: the val images become test, and 5% of train, by class, val: "
    assert notes.said == [words + "train 38, val 2, test 10"]
    assert not (tmp_path / "index/hashes").exists()


def test_open_index_file_that_vanished_is_a_problem(tmp_path):
    root = make_images(tmp_path / "set")
    (root / "cat/gone").symlink_to("nowhere")
    source = source_of(root)
    (root / "dog/4").unlink()
    problems = [
        ("cat/gone", "link to nothing"),
        ("dog/4", "cannot be read: No such file or directory"),
    ]
    made = make_index(tmp_path / "index", source)
    assert made.problems == problems
    assert sorted(splits_of(made)) == sorted(set(NAMES) - {"dog/4"})
    assert make_index(tmp_path / "index", source).problems == problems


def test_open_index_of_files_that_all_vanished_is_refused(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    for name in NAMES:
        (tmp_path / "set" / name).unlink()
    with pytest.raises(SourceError, match=r"none of its 18 images can be read; cannot be read: No"):
        make_index(tmp_path / "index", source)
    assert not (tmp_path / "index/index.json").exists()


def test_open_index_limit_takes_a_share_of_each_class_and_hashes_no_more(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    notes = Notes()
    images = make_index(tmp_path / "index", source, limit=8, progress=notes)
    assert sorted(images.table["label"].to_pylist()) == [0] * 4 + [1] * 4
    assert notes.counts[0] == ("hash", 8)


def test_open_index_same_inputs_give_the_same_bytes(tmp_path):
    names = ["here", "there"]
    sources = [source_of(make_images(tmp_path / name)) for name in names]
    for name, source, workers in zip(names, sources, (1, 4), strict=True):
        map_files = partial(ordered_map, workers=workers, lookahead=4)
        make_index(tmp_path / f"{name}_index", source, map_files=map_files)
    assert files_in(tmp_path / "here_index") == files_in(tmp_path / "there_index")


def test_open_index_order_is_split_after_split_and_shuffled(tmp_path):
    images = make_index(tmp_path / "index", source_of(make_images(tmp_path / "set")))
    assert images.table["split"].to_pylist() == ["train"] * 12 + ["val"] * 3 + ["test"] * 3
    train = images.table["id"].to_pylist()[:12]
    assert train != sorted(train)


def test_open_index_other_seed_makes_other_splits_and_another_choice(tmp_path):
    source = source_of(make_images(tmp_path / "set"))
    for limit in (0, 8):
        one, other = (
            splits_of(make_index(tmp_path / f"{limit}-{seed}", source, limit=limit, seed=seed))
            for seed in (3, 4)
        )
        assert (set(one) == set(other)) == (limit == 0)
        assert one != other


def test_open_index_given_splits_stay_and_the_seed_shuffles_inside_them(tmp_path):
    parts = {"train": 8, "val": 2, "test": 2}
    names = [
        f"{part}/{name}/{i}" for part, num in parts.items() for name in "ab" for i in range(num)
    ]
    source = source_of(make_images(tmp_path / "set", names))
    one, other = (make_index(tmp_path / f"{seed}", source, seed=seed) for seed in (3, 4))
    assert splits_of(one) == splits_of(other) == {name: name.split("/")[0] for name in names}
    assert one.table["id"].to_pylist() != other.table["id"].to_pylist()


def test_index_rows_of_a_split_follow_the_table(tmp_path):
    images = make_index(tmp_path / "index", source_of(make_images(tmp_path / "set")))
    table = images.table
    pairs = list(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert images.num_rows() == {"train": 12, "val": 3, "test": 3}
    assert images.rows("train", 2, 7) == pairs[2:7]
    assert images.rows("val", 0, 3) == pairs[12:15]
    assert images.rows("test", 1, 3) == pairs[16:18]


def test_index_rows_of_an_unknown_split_are_refused(tmp_path):
    images = make_index(tmp_path / "index", source_of(make_images(tmp_path / "set")))
    with pytest.raises(ValueError, match="no split extra"):
        images.rows("extra", 0, 1)
