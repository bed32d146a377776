"""Make the golden control set of variants format 1; kept to tell how it came to be.

    python tests/golden/make_control_v1.py

The files in `control_v1` were written once, by the first release that had a control set, and stand
for all such sets that users have from then on. They must always read and are never made again:
this script refuses while the folder is there.

    control_v1/variants/control   3 PNG pictures, of 8x8 and 6x10 in colour and 5x7 in gray, in the
                                  splits train (2) and val (1), with their ten versions

`tests/test_golden_control.py` holds the formula of the pictures and the hashes of their versions.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "control_v1"
if FOLDER.exists():
    sys.exit(f"{FOLDER}: there already; golden files are never made again")

import hashlib  # noqa: E402
import io  # noqa: E402
from collections.abc import Iterator  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from pipelines.images.control_codec import ControlCodec  # noqa: E402
from pipelines.storage import variants  # noqa: E402
from pipelines.storage.manifest import ShardFolder  # noqa: E402
from pipelines.storage.plan import Plan, Task  # noqa: E402

PICTURES = {"train/0.png": (8, 8, 3), "train/1.png": (5, 7), "val/0.png": (6, 10, 3)}


def picture(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return uint8 pixels by a formula: slopes that wrap around, another way in each picture."""
    y, x, *c = np.indices(shape)
    return ((29 * x + 17 * y + 60 * sum(c) + 41 * number) % 256).astype(np.uint8)


def to_png(pixels: np.ndarray) -> bytes:
    """Encode an original."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    """Write the set."""
    if variants.FORMAT_VERSION != 1:
        sys.exit("this program writes another format version than 1")
    codec = ControlCodec()
    names = ["original", *codec.variant_names]
    tasks = (
        Task("train-00000-of-00001.parquet", "train", 0, 2),
        Task("val-00000-of-00001.parquet", "val", 0, 1),
    )
    fingerprint = {"codec": codec.describe(), "max_megapixels": 1.0}
    details = {"set": "control", "variants": names, "classes": ["ant", "bee"], "note": ""}
    plan = Plan("variants", 1, fingerprint, details, tasks)

    def rows(task: Task) -> Iterator[variants.VariantRow]:
        for number, (name, shape) in enumerate(PICTURES.items()):
            if name.startswith(task.split):
                pixels = picture(number, shape)
                original = to_png(pixels)
                sha256 = hashlib.sha256(original).digest()
                yield variants.VariantRow(
                    name, number % 2, sha256, (original, *codec.encode(pixels))
                )

    shards = ShardFolder(FOLDER / "variants" / "control")
    shards.publish(plan)
    for task in tasks:
        shards.commit(plan, variants.write_shard(shards.path, task, names, rows(task), []))
    shards.finish(plan, shards.receipts(plan))


if __name__ == "__main__":
    main()
