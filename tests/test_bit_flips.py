"""A bit of a shard turned over: the numbers that were written, or an error that names the file."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from extracting import Content, Extract, fill, read_all
from shards import flip_bit

from pipelines import verify
from pipelines.errors import ManifestError, ShardError
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.storage.formats import FORMATS
from pipelines.storage.layout import DTYPES, ENCODINGS

NUM_FLIPS = 400


class Caches(NamedTuple):
    """Caches of every dtype and encoding in one format, and what each gives."""

    root: Path
    contents: dict[Path, Content]
    shards: list[Path]


@pytest.fixture(scope="module", params=FORMATS)
def caches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Caches:
    root = tmp_path_factory.mktemp(request.param)
    for dtype, encoding in itertools.product(DTYPES, ENCODINGS):
        extract = Extract(request.param, dtype, encoding, group_bytes=200)
        fill(root / f"{encoding}-{dtype}", extract)
        shutil.rmtree(root / f"{encoding}-{dtype}" / ("pool" if encoding == "sparse" else "front"))
    folders = sorted(path.parent for path in root.glob("*/*/plan.json"))
    assert len(folders) == len(DTYPES) * len(ENCODINGS)
    return Caches(
        root,
        {folder: read_all(folder) for folder in folders},
        sorted(root.glob(f"*/*/*.{request.param}")),
    )


def flips(caches: Caches, seed: int) -> Iterator[tuple[Path, int]]:
    """Turn one bit after another and back; gives the file and the bit."""
    rng = np.random.default_rng(seed)
    for number in rng.integers(0, len(caches.shards), NUM_FLIPS):
        path = caches.shards[number]
        content = path.read_bytes()
        bit = int(rng.integers(0, 8 * len(content)))
        path.write_bytes(flip_bit(content, bit))
        yield path, bit
        path.write_bytes(content)


def test_read_any_bit_flipped_gives_the_same_or_names_the_file(caches):
    wrong, num_errors = [], 0
    for path, bit in flips(caches, seed=0):
        try:
            if read_all(path.parent) != caches.contents[path.parent]:
                wrong.append((path, bit, "other numbers"))
        except (ShardError, ManifestError) as error:
            num_errors += 1
            if not str(error).startswith(f"{path}: "):
                wrong.append((path, bit, str(error)))
        except Exception as error:
            wrong.append((path, bit, repr(error)))
    assert wrong == []
    assert num_errors > 0.9 * NUM_FLIPS


def test_read_by_name_any_bit_flipped_gives_the_same_or_names_the_file(caches):
    wrong, num_errors = [], 0
    for path, bit in flips(caches, seed=1):
        expected = caches.contents[path.parent]
        backwards = expected.ids[::-1]
        try:
            found = FeatureCache(path.parent).read(backwards)
            if not np.array_equal(found, expected.maps[::-1]):
                wrong.append((path, bit, "other numbers"))
        except (ShardError, ManifestError) as error:
            num_errors += 1
            if not str(error).startswith(f"{path}: "):
                wrong.append((path, bit, str(error)))
        except Exception as error:
            wrong.append((path, bit, repr(error)))
    assert wrong == []
    assert num_errors > 0.9 * NUM_FLIPS


def test_verify_any_bit_flipped_names_exactly_that_file(caches):
    wrong = []
    for path, bit in flips(caches, seed=2):
        summary = verify.run(path.parents[1], path.parents[1], False, False, Silent())
        expected = {
            "file": path.relative_to(path.parents[1]).as_posix(),
            "reason": "its SHA-256 is not its receipt's",
        }
        if summary["bad"] != [expected] or summary["num_bad"] != 1:
            wrong.append((path, bit, summary["bad"]))
    assert wrong == []
