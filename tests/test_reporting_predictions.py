"""predictions.parquet, read and checked."""

import judged_runs
import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import ManifestError
from pipelines.reporting import predictions, results
from pipelines.storage import parquet

BRANCHES = ("original", "q010", "q100")


@pytest.fixture
def folder(tmp_path):
    made = judged_runs.make_scores([f"{i}.jpg" for i in range(80)], 7, BRANCHES, spread=1.2)
    judged_runs.write(tmp_path, made)
    return tmp_path


def read(folder):
    return predictions.read(folder, results.read(folder, "test"))


def rewrite(folder, change):
    path = folder / "predictions.parquet"
    parquet.write_table(path, change(parquet.read_table(path)))


def test_read_gives_each_image_as_it_is_stored(folder):
    found = read(folder)
    assert found.branches == BRANCHES
    rows = found.table.to_pylist()
    for row, image in zip(rows, found.rows(np.arange(80)), strict=True):
        assert (image.id, image.label, image.type) == (row["id"], row["label"], row["type"])
        assert image.ranks == {name: row[f"default_{name}_rank"] for name in BRANCHES}
        assert [number for number, _ in image.topology_top5] == row["topology_top5"]
        sure = {name: row[f"default_{name}_confidence"] for name in BRANCHES[1:]}
        assert image.best_branch == max(sure, key=sure.get)


def test_best_branch_equal_confidences_takes_the_first_and_never_the_original(folder):
    image = read(folder).rows([0])[0]
    for confidences, expected in (
        ({"original": 1.0, "q010": 0.5, "q100": 0.5}, "q010"),
        ({"original": 1.0}, None),
    ):
        changed = type(image)(**{**vars(image), "confidences": confidences})
        assert changed.best_branch == expected


def test_find_and_types(folder):
    found = read(folder)
    assert found.find("17.jpg") == 17
    assert found.find("x.jpg") is None
    kinds = found.table["type"].to_pylist()
    assert found.of_types("AB").tolist() == [i for i, kind in enumerate(kinds) if kind in "AB"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.slice(1), "79 images .* the results say 80"),
        (lambda table: table.drop_columns("topology_top5"), "no column topology_top5"),
        (
            lambda table: table.drop_columns("default_original_confidence"),
            "no column default_original_confidence",
        ),
        (
            lambda table: table.set_column(1, "label", pa.array([7] * 80, pa.int32())),
            "labels from 7 to 7 of 7 classes",
        ),
        (
            lambda table: table.set_column(2, "type", pa.array(["C"] * 80)),
            "0 gained and 0 lost, the results say",
        ),
    ],
)
def test_read_other_predictions_are_refused_with_the_remedy(change, words, folder):
    rewrite(folder, change)
    with pytest.raises(ManifestError, match=words) as error:
        read(folder)
    assert f"run `bottleneck eval --run {folder.name}` again" in str(error.value)


def test_read_missing_or_damaged_file_is_named(folder):
    path = folder / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ManifestError, match="cannot be read"):
        read(folder)
    path.unlink()
    with pytest.raises(ManifestError, match="missing beside its results"):
        read(folder)
