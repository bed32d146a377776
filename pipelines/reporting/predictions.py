"""predictions.parquet of a judged run: each image under each model, read and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ManifestError, ShardError
from pipelines.reporting import results
from pipelines.reporting.results import Results
from pipelines.storage import parquet
from pipelines.storage.variants import ORIGINAL

_FIXED = (
    *("id", "label", "type", "topology_rank", "topology_confidence"),
    *("topology_top5", "topology_top5_confidence", "default_top5", "default_top5_confidence"),
)
_BRANCH_COLUMN = re.compile(r"default_(.+)_rank")


@dataclass(frozen=True)
class ImagePrediction:
    """What both models say of one image.

    Attributes:
        id: the image's name within its source.
        label: class index.
        type: "A" gained, "B" lost, "C" neither.
        topology_rank: place of the label; 0 is right.
        topology_confidence: softmax of the label, 0..1.
        topology_top5: class index and confidence of the likeliest classes, the best first.
        default_top5: the same of the default model on the original.
        ranks: of the label by the default model on each branch alone, by its name.
        confidences: likewise.
    """

    id: str
    label: int
    type: str
    topology_rank: int
    topology_confidence: float
    topology_top5: tuple[tuple[int, float], ...]
    default_top5: tuple[tuple[int, float], ...]
    ranks: dict[str, int]
    confidences: dict[str, float]

    @property
    def best_branch(self) -> str | None:
        """The version, the original apart, on which the default model is surest of the label.

        The first in order among equals; None where there is no other version.
        """
        others = [name for name in self.confidences if name != ORIGINAL]
        return max(others, key=lambda name: self.confidences[name]) if others else None


@dataclass(frozen=True)
class Predictions:
    """All images of a split, in the plan's order.

    Attributes:
        table: as it is stored.
        branches: names, `original` first.
    """

    table: pa.Table
    branches: tuple[str, ...]

    def of_types(self, types: Sequence[str]) -> np.ndarray:
        """Return the rows of images of some types; int64, ascending."""
        is_one = pc.is_in(self.table["type"], pa.array(list(types), pa.string()))
        return np.flatnonzero(is_one.to_numpy())

    def find(self, image_id: str) -> int | None:
        """Return the row of an image, None where it is not among them."""
        row = pc.index(self.table["id"], pa.scalar(image_id, pa.string())).as_py()
        return None if row < 0 else row

    def ids(self) -> list[str]:
        """Return the names of all images."""
        return self.table["id"].to_pylist()

    def rows(self, numbers: np.ndarray | Sequence[int]) -> list[ImagePrediction]:
        """Return some rows, in the order of their numbers."""
        return [self._image(row) for row in self.table.take(pa.array(numbers)).to_pylist()]

    def _image(self, row: dict[str, Any]) -> ImagePrediction:
        def best(model: str) -> tuple[tuple[int, float], ...]:
            pairs = zip(row[f"{model}_top5"], row[f"{model}_top5_confidence"], strict=True)
            return tuple(pairs)

        return ImagePrediction(
            id=row["id"],
            label=row["label"],
            type=row["type"],
            topology_rank=row["topology_rank"],
            topology_confidence=row["topology_confidence"],
            topology_top5=best("topology"),
            default_top5=best("default"),
            ranks={name: row[f"default_{name}_rank"] for name in self.branches},
            confidences={name: row[f"default_{name}_confidence"] for name in self.branches},
        )


def read(run_dir: Path, found: Results) -> Predictions:
    """Read the predictions that go with some results.

    Raises:
        ManifestError: they are missing, damaged, or of other images.
    """
    path = results.predictions_path_of(run_dir, found.split)
    mend = (
        f"delete it and {results.path_of(run_dir, found.split).name}, and run "
        f"`{results.eval_command(found.run, found.split)}` again"
    )
    if not path.exists():
        raise ManifestError(f"{path}: missing beside its results; {mend}")
    try:
        table = parquet.read_table(path)
    except ShardError as error:
        raise ManifestError(
            f"{path}: cannot be read: {error.__cause__ or error}; {mend}"
        ) from error
    names = [m[1] for m in map(_BRANCH_COLUMN.fullmatch, table.column_names) if m]
    branches = tuple(name for name in names if f"default_{name}_confidence" in table.column_names)
    missing = [name for name in _FIXED if name not in table.column_names]
    if missing or ORIGINAL not in branches:
        what = missing[0] if missing else f"default_{ORIGINAL}_confidence"
        raise ManifestError(f"{path}: no column {what}, made by another version; {mend}")
    _check_same_images(path, table, found, mend)
    ordered = (ORIGINAL, *(name for name in branches if name != ORIGINAL))
    return Predictions(table, ordered)


def _check_same_images(path: Path, table: pa.Table, found: Results, mend: str) -> None:
    """Check that rows are those that were counted."""
    counts = {row["values"]: row["counts"] for row in table["type"].value_counts().to_pylist()}
    here = tuple(counts.get(name, 0) for name in "ABC")
    told = (found.type_a, found.type_b, found.type_c)
    if table.num_rows != found.num_images or here != told:
        raise ManifestError(
            f"{path}: {table.num_rows:,} images of which {here[0]:,} gained and {here[1]:,} lost, "
            f"the results say {found.num_images:,}, {told[0]:,} and {told[1]:,}; {mend}"
        )
    labels = pc.min_max(table["label"]).as_py()
    if labels["min"] < 0 or labels["max"] >= found.num_classes:
        raise ManifestError(
            f"{path}: labels from {labels['min']} to {labels['max']} of {found.num_classes} "
            f"classes; {mend}"
        )
