"""Make the golden files of cache format version 2; kept to tell how they came to be.

    python tests/golden/make_v2.py

The files in `v2` were written once, by the release that first wrote cache format version 2, and
stand for all files that users have from then on. They must always read and are never made again:
this script refuses while the folder is there, and when the program has gone on to another version.
Golden files of a new version are a new folder, made by a script of their own.

    v2/features/<format>-<encoding>-<dtype>   feature maps of 3x5x7 of 8 images, in splits train (5,
                                              two shards) and val (3), three branches

with parquet and tfrecord, and of encodings and dtypes

    sparse-float16   thirds, which float16 rounds
    sparse-float32   thirds and -0.0
    sparse-uint8     channels of both signs, values that are rounded and values that are clipped
    dense-float32    thirds of both signs

`tests/test_golden_v2.py` says all formulas again, and has the hash that this script prints.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "v2"
CLASSES = ["ant", "bee"]
BRANCHES = ("original", "q010", "q090")
SHAPE = (3, 5, 7)  # 105 numbers: a mask has two words, and bits left over
# A channel each: 255 steps reach too short, all fit, fit with rounding; then those of both signs.
SCALES = (2**-10, 0.25, 0.25, 0.25, 0.1, 0.25, 0.25)
ZERO_POINTS = (0, 0, 0, 0, 0, 128, 4)


def feature_maps(kind: str) -> np.ndarray:
    """Return float32 (8 images, 3 branches, 3, 5, 7) by a formula that needs no random numbers."""
    i, b, y, x, c = np.indices((8, len(BRANCHES), *SHAPE))
    steps = (7 * i + 5 * b + 3 * y + 2 * x + c) % 13
    positive = np.maximum(steps - 8, 0).astype(np.float32)
    both_signs = (steps - 6).astype(np.float32)
    if kind == "dense-float32":
        return both_signs / np.float32(3)
    if kind == "sparse-uint8":
        maps = np.where(c < 5, positive, np.where(steps % 2, both_signs, 0)) / np.float32(4)
    else:
        maps = positive / np.float32(3)
    if kind == "sparse-float32":
        maps = np.where(steps == 3, np.float32(-0.0), maps)
    return np.where((i == 4) & (b == 1), np.float32(0), maps)  # one map without any value


def make_features(folder: Path, format: str, kind: str) -> None:
    """Write a cache of 5 images to train with and 3 to validate, groups of two."""
    from pipelines.storage import cells, feature_writer, formats
    from pipelines.storage.cache import shard_of
    from pipelines.storage.layout import Layout
    from pipelines.storage.manifest import ShardFolder
    from pipelines.storage.plan import Plan, Task

    encoding, dtype = kind.split("-")
    scaled = {"scales": SCALES, "zero_points": ZERO_POINTS} if dtype == "uint8" else {}
    layout = Layout(SHAPE, BRANCHES, dtype, encoding, format, rows_per_group=2, **scaled)
    suffix = formats.of(layout).SUFFIX
    tasks = (
        Task(f"train-00000-of-00002.{suffix}", "train", 0, 3),
        Task(f"train-00001-of-00002.{suffix}", "train", 3, 5),
        Task(f"val-00000-of-00001.{suffix}", "val", 0, 3),
    )
    details = {**layout.to_json(), "node": folder.name, "classes": CLASSES}
    plan = Plan("features", 2, {"node": folder.name, "backbone": "formula"}, details, tasks)
    maps = feature_maps(kind)
    shards = ShardFolder(folder)
    shards.publish(plan)
    for task in tasks:
        with feature_writer.open_shard(shard_of(folder, plan, task.shard)) as writer:
            numbers = range(task.start, task.stop)
            images = [i + 5 * (task.split == "val") for i in numbers]
            ids = [f"{task.split}/{i}.jpg" for i in numbers]
            writer.add(ids, [i % 2 for i in numbers], cells.encode(maps[images], layout))
        shards.commit(plan, writer.receipt())
    shards.finish(plan, shards.receipts(plan))


def tree_sha256(folder: Path) -> str:
    """Hash the names and the contents of all files, but for locks."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".lock"):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def main() -> None:
    """Write all golden files, or refuse."""
    if FOLDER.exists():
        sys.exit(f"{FOLDER}: there already; golden files are never made again")
    from pipelines.storage.layout import FORMAT_VERSION

    if FORMAT_VERSION != 2:
        sys.exit(f"this program writes cache format version {FORMAT_VERSION}, not 2")
    for format in ("parquet", "tfrecord"):
        for kind in ("sparse-float16", "sparse-float32", "sparse-uint8", "dense-float32"):
            make_features(FOLDER / "features" / f"{format}-{kind}", format, kind)
    print(f'TREE_SHA256 = "{tree_sha256(FOLDER)}"')


if __name__ == "__main__":
    main()
