"""Make the golden files of format version 1; kept to tell how they came to be.

    python tests/golden/make_v1.py

The files in `v1` were written once, by the first release that wrote format version 1, and stand for
all files that users have from then on. They must always read and are never made again: this script
refuses while the folder is there, and names modules that only that release has. Golden files of a
new version are a new folder, made by a script of their own.

    v1/variants          5 JPEG pictures of 8x8 pixels, in splits train (3) and val (2), 2 shards of
                         train, with two variants
    v1/features/sparse   feature maps of 2x3x5 of 8 images, float16, three branches
    v1/features/dense    the same shape in float32, with negative values

`tests/test_golden.py` holds the formula of the feature maps and the hashes of the pictures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "v1"
if FOLDER.exists():
    sys.exit(f"{FOLDER}: there already; golden files are never made again")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from pipelines.storage.features import Layout  # noqa: E402

from pipelines.storage import feature_writer, features, variants  # noqa: E402
from pipelines.storage.manifest import Plan, ShardFolder, Task  # noqa: E402

CLASSES = ["ant", "bee"]


def feature_maps(encoding: str) -> np.ndarray:
    """Return float32 (8 images, 3 branches, 2, 3, 5) by a formula that needs no random numbers."""
    i, b, y, x, c = np.indices((8, 3, 2, 3, 5))
    steps = (7 * i + 5 * b + 3 * y + 2 * x + c) % 13
    if encoding == "sparse":
        return np.maximum(steps - 8, 0).astype(np.float32) / np.float32(4)
    return (steps - 6).astype(np.float32) / np.float32(3)


def picture(number: int) -> Image.Image:
    """Return 8x8 RGB pixels: a slope that another number tilts another way."""
    y, x, c = np.indices((8, 8, 3))
    return Image.fromarray(((16 * x + 8 * y + 60 * c + 37 * number) % 256).astype(np.uint8))


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode at 4:4:4, with Pillow 13.0.0 when the files were made."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def make_variants(folder: Path) -> None:
    """Write the set of variants, the third picture of train quarantined."""
    names = ["original", "q010", "q090"]
    tasks = (
        Task("train-00000-of-00002.parquet", "train", 0, 2),
        Task("train-00001-of-00002.parquet", "train", 2, 4),
        Task("val-00000-of-00001.parquet", "val", 0, 2),
    )
    fingerprint = {"codec": {"name": "jpeg", "qualities": [10, 90], "subsampling": "444"}}
    details = {"variants": names, "classes": CLASSES, "note": ""}
    plan = Plan("variants", 1, fingerprint, details, tasks)
    quarantined = {"train/3.jpg": "image file is truncated"}

    def rows(task: Task) -> Iterator[variants.VariantRow]:
        for number in range(task.start, task.stop):
            name = f"{task.split}/{number}.jpg"
            if name not in quarantined:
                image = picture(number + 10 * (task.split == "val"))
                images = tuple(to_jpeg(image, quality) for quality in (75, 10, 90))
                sha256 = hashlib.sha256(images[0]).digest()
                yield variants.VariantRow(name, number % 2, sha256, images)

    shards = ShardFolder(folder)
    shards.publish(plan)
    for task in tasks:
        listed = {f"{task.split}/{number}.jpg" for number in range(task.start, task.stop)}
        bad = [(name, reason) for name, reason in quarantined.items() if name in listed]
        receipt = variants.write_shard(folder, task, names, rows(task), bad)
        shards.commit(plan, dataclasses.replace(receipt, stats={"num_wrong_extension": 0}))
    shards.finish(plan, shards.receipts(plan))


def make_features(folder: Path, encoding: str, dtype: str) -> None:
    """Write a cache of 5 images to train with and 3 to validate, row groups of two."""
    layout = Layout((2, 3, 5), ("original", "q010", "q090"), dtype, encoding, 2)
    tasks = (
        Task("train-00000-of-00002.parquet", "train", 0, 3),
        Task("train-00001-of-00002.parquet", "train", 3, 5),
        Task("val-00000-of-00001.parquet", "val", 0, 3),
    )
    details = {**dataclasses.asdict(layout), "node": folder.name, "classes": CLASSES}
    plan = Plan("features", 1, {"node": folder.name, "backbone": "formula"}, details, tasks)
    maps = feature_maps(encoding)
    shards = ShardFolder(folder)
    shards.publish(plan)
    for task in tasks:
        with feature_writer.open_shard(folder / task.shard, layout) as writer:
            for number in range(task.start, task.stop, layout.rows_per_group):
                numbers = range(number, min(number + layout.rows_per_group, task.stop))
                images = [i + 5 * (task.split == "val") for i in numbers]
                ids = [f"{task.split}/{i}.jpg" for i in numbers]
                encoded = features.encode(maps[images], layout)
                writer.add(ids, [i % 2 for i in numbers], encoded)
        shards.commit(plan, writer.receipt(task.shard))
    shards.finish(plan, shards.receipts(plan))


def main() -> None:
    """Write all golden files, or refuse."""
    if (variants.FORMAT_VERSION, features.FORMAT_VERSION) != (1, 1):
        sys.exit("this program writes another format version than 1")
    make_variants(FOLDER / "variants")
    make_features(FOLDER / "features" / "sparse", "sparse", "float16")
    make_features(FOLDER / "features" / "dense", "dense", "float32")


if __name__ == "__main__":
    main()
