"""Lists of the images gained, lost and others, for people and programs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from scored import BRANCHES, in_batches, make_scores

from pipelines.analysis.naming import TOPOLOGY
from pipelines.errors import ShardError
from pipelines.evaluation import image_lists as unit
from pipelines.evaluation import predictions
from pipelines.evaluation.scoring import Scores
from pipelines.evaluation.tally import Tally

CLASSES = tuple(f"class {i}" for i in range(7))
ODD = (
    *("a,b", 'say "cheese"', "two\nlines", "<b>bold</b> & more", "x; y", " blank ", "näm€"),
    *("carriage\rreturn", "=SUM(A1)", "'", "\t", "plain"),
)
COLUMNS = [
    *("id", "path", "label", "default_top5", "topology_top5"),
    *("topology_rank", "topology_confidence"),
    *(f"default_{name}_{what}" for name in BRANCHES for what in ("rank", "confidence")),
]


class StopHere(Exception):
    """What a test raises in the middle."""


def nothing() -> None:
    """Let the files take their places."""


def refuse() -> None:
    raise StopHere("another has taken over")


def predict(path: Path, scores: Scores) -> Path:
    """Write predictions in row groups of 16 rows."""
    tally = Tally(scores.default.shape[-1], 0)
    with predictions.open_writer(path, BRANCHES, ["run_b"], True, nothing) as writer:
        for batch in in_batches(scores, 16):
            writer.add(tally.add(batch))
            writer.flush()
    return path


def make(num_images: int = 50, num_classes: int = 7, **changed) -> Scores:
    settings = {"seed": 6, "others": ["run_b"], "control_branches": 2}
    return make_scores(num_images, num_classes, **{**settings, **changed})


def in_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def written(tmp_path):
    """Lists of fifty images: their folder, and the predictions as columns."""
    table = predict(tmp_path / "predictions.parquet", make())
    unit.write(tmp_path / "images", table, BRANCHES, CLASSES, Path("/some/where"))
    return tmp_path / "images", pq.read_table(table).to_pydict()


def test_lists_are_six_files_and_nothing_else(written):
    folder, _ = written
    names = {f"type_{kind}.{suffix}" for kind in "abc" for suffix in ("csv", "parquet")}
    assert {path.name for path in folder.iterdir()} == names


def test_lists_together_hold_every_image_once_under_its_type(written):
    folder, rows = written
    for suffix in ("csv", "parquet"):
        found = {}
        for kind in "ABC":
            path = folder / f"type_{kind.lower()}.{suffix}"
            some = in_csv(path) if suffix == "csv" else pq.read_table(path).to_pylist()
            expected = [
                name for name, own in zip(rows["id"], rows["type"], strict=True) if own == kind
            ]
            assert [row["id"] for row in some] == expected
            assert len(some) > 0
            found[kind] = len(some)
        assert sum(found.values()) == 50


def test_lists_columns_are_those_of_the_format(written):
    folder, _ = written
    for kind in "abc":
        assert pq.read_schema(folder / f"type_{kind}.parquet").names == COLUMNS
        first = (folder / f"type_{kind}.csv").read_text(encoding="utf-8").partition("\n")[0]
        assert next(csv.reader([first])) == COLUMNS


def test_lists_rows_say_in_names_what_the_predictions_say_in_numbers(written):
    folder, rows = written
    places = {name: i for i, name in enumerate(rows["id"])}
    for kind in "abc":
        for row in pq.read_table(folder / f"type_{kind}.parquet").to_pylist():
            i = places[row["id"]]
            assert row["path"] == f"/some/where/{row['id']}"
            assert row["label"] == CLASSES[rows["label"][i]]
            for model in ("default", "topology"):
                expected = [CLASSES[number] for number in rows[f"{model}_top5"][i]]
                assert row[f"{model}_top5"].split("; ") == expected
            for name in COLUMNS[5:]:
                assert row[name] == rows[name][i]


def test_lists_csv_and_parquet_hold_the_same(written):
    folder, _ = written
    for kind in "abc":
        expected = pq.read_table(folder / f"type_{kind}.parquet").to_pylist()
        found = in_csv(folder / f"type_{kind}.csv")
        for here, there in zip(found, expected, strict=True):
            for name, value in there.items():
                if isinstance(value, float):
                    assert float(here[name]) == pytest.approx(value, rel=1e-6)
                else:
                    assert here[name] == str(value)


def test_lists_odd_names_come_back_from_csv_as_they_were(tmp_path):
    scores = replace(
        make(len(ODD), len(ODD), labels=np.arange(len(ODD))), ids=[f"{n}/1.png" for n in ODD]
    )
    table = predict(tmp_path / "predictions.parquet", scores)
    unit.write(tmp_path / "images", table, BRANCHES, ODD, Path("/a, b"))
    options = pa_csv.ParseOptions(newlines_in_values=True)
    found: dict[str, set[tuple[str, str, str]]] = {"csv": set(), "pyarrow": set(), "parquet": set()}
    for kind in "abc":
        path = tmp_path / "images" / f"type_{kind}.csv"
        every = {
            "csv": in_csv(path),
            "pyarrow": pa_csv.read_csv(path, parse_options=options).to_pylist(),
            "parquet": pq.read_table(path.with_suffix(".parquet")).to_pylist(),
        }
        for reader, rows in every.items():
            found[reader] |= {(row["id"], row["path"], row["label"]) for row in rows}
        for model in ("default_top5", "topology_top5"):
            texts = [[row[model] for row in rows] for rows in every.values()]
            assert texts[0] == texts[1] == texts[2]
    expected = {(f"{name}/1.png", f"/a, b/{name}/1.png", name) for name in ODD}
    assert found == dict.fromkeys(found, expected)


def test_lists_without_a_folder_of_images_have_the_names_as_paths(tmp_path):
    table = predict(tmp_path / "predictions.parquet", make())
    unit.write(tmp_path / "images", table, BRANCHES, CLASSES, None)
    rows = pq.read_table(tmp_path / "images" / "type_c.parquet").to_pylist()
    assert [row["path"] for row in rows] == [row["id"] for row in rows] != []


def test_lists_absolute_names_stay_as_they_are(tmp_path):
    scores = make()
    ids = [f"/else/{name}" if i % 2 else name for i, name in enumerate(scores.ids)]
    table = predict(tmp_path / "predictions.parquet", replace(scores, ids=ids))
    unit.write(tmp_path / "images", table, BRANCHES, CLASSES, Path("/some/where"))
    for kind in "abc":
        for row in pq.read_table(tmp_path / "images" / f"type_{kind}.parquet").to_pylist():
            is_absolute = row["id"].startswith("/else/")
            assert row["path"] == (row["id"] if is_absolute else f"/some/where/{row['id']}")


def test_lists_of_a_type_without_images_are_files_without_rows(tmp_path):
    scores = make()
    same = replace(scores, by_name={**scores.by_name, TOPOLOGY: scores.default[:, 0].copy()})
    table = predict(tmp_path / "predictions.parquet", same)
    unit.write(tmp_path / "images", table, BRANCHES, CLASSES, None)
    for kind, num_rows in (("a", 0), ("b", 0), ("c", 50)):
        found = pq.read_table(tmp_path / "images" / f"type_{kind}.parquet")
        assert (found.num_rows, found.column_names) == (num_rows, COLUMNS)
        with (tmp_path / "images" / f"type_{kind}.csv").open(newline="") as file:
            lines = list(csv.reader(file))
        assert (len(lines), lines[0]) == (1 + num_rows, COLUMNS)


def test_lists_fewer_than_five_classes_name_as_many(tmp_path):
    table = predict(tmp_path / "predictions.parquet", make(20, 3))
    unit.write(tmp_path / "images", table, BRANCHES, CLASSES[:3], None)
    for row in pq.read_table(tmp_path / "images" / "type_c.parquet").to_pylist():
        assert sorted(row["default_top5"].split("; ")) == list(CLASSES[:3])


def test_lists_refused_at_the_end_leave_what_was_there(written, tmp_path):
    folder, _ = written
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = predict(tmp_path / "other.parquet", make(30, seed=7))
    with pytest.raises(StopHere, match="another has taken over"):
        unit.write(folder, other, BRANCHES, CLASSES, None, refuse)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_lists_damaged_predictions_leave_no_list_and_say_so(tmp_path):
    table = predict(tmp_path / "predictions.parquet", make())
    with pq.ParquetFile(table) as file:
        last = file.metadata.row_group(file.num_row_groups - 1).column(0)
        place = last.data_page_offset + last.total_compressed_size - 3
    damaged = bytearray(table.read_bytes())
    damaged[place] ^= 0xFF
    table.write_bytes(damaged)
    with pytest.raises(ShardError, match=r"predictions\.parquet: damaged"):
        unit.write(tmp_path / "images", table, BRANCHES, CLASSES, None)
    assert list((tmp_path / "images").iterdir()) == []


def test_lists_leftovers_of_a_killed_attempt_are_swept(tmp_path):
    table = predict(tmp_path / "predictions.parquet", make())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".type_a.csv.7-0123abcd.tmp").write_text("half")
    unit.write(tmp_path / "images", table, BRANCHES, CLASSES, None)
    assert not list((tmp_path / "images").glob(".*"))
