"""predictions.parquet: a row an image, whole or not there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored import BRANCHES, in_batches, make_scores, places, ranks_by_hand

from pipelines.analysis.naming import DEFAULT, TOPOLOGY
from pipelines.errors import ShardError
from pipelines.evaluation import predictions as unit
from pipelines.evaluation.scoring import Scores
from pipelines.evaluation.tally import Tally

OTHERS = ("mean_logits", "control_mean_logits", "run_b", "run_worst_rank", "copies", "control")


class StopHere(Exception):
    """What a test raises in the middle."""


def full(num_images: int = 50, num_classes: int = 7) -> Scores:
    return make_scores(num_images, num_classes, seed=6, others=OTHERS, control_branches=4)


def nothing() -> None:
    """Let the file take its place."""


def refuse() -> None:
    raise StopHere("another has taken over")


def write(path, scores: Scores, size: int = 16, check=nothing) -> None:
    tally = Tally(scores.default.shape[-1], 0)
    others = [name for name in scores.by_name if name != TOPOLOGY]
    has_control = scores.control is not None
    with unit.open_writer(path, BRANCHES, others, has_control, check) as writer:
        for batch in in_batches(scores, size):
            writer.add(tally.add(batch))


def test_types_every_case_has_its_letter():
    default, topology = np.array([0, 1, 0, 1], bool), np.array([1, 0, 0, 1], bool)
    assert unit.types(default, topology).tolist() == ["A", "B", "C", "C"]


def test_table_has_a_column_a_figure_in_the_formats_order(tmp_path):
    write(tmp_path / "some.parquet", full())
    found = pq.read_schema(tmp_path / "some.parquet")
    assert [(field.name, str(field.type)) for field in found] == [
        ("id", "string"),
        ("label", "int32"),
        ("type", "string"),
        ("topology_rank", "int64"),
        ("topology_confidence", "float"),
        ("topology_top5", "list<element: int32>"),
        ("topology_top5_confidence", "list<element: float>"),
        ("default_top5", "list<element: int32>"),
        ("default_top5_confidence", "list<element: float>"),
        ("default_original_rank", "int64"),
        ("default_original_confidence", "float"),
        ("default_q010_rank", "int64"),
        ("default_q010_confidence", "float"),
        ("default_q050_rank", "int64"),
        ("default_q050_confidence", "float"),
        *((f"{name}_rank", "int64") for name in OTHERS),
        ("control_oracle_rank", "int64"),
    ]


def test_table_without_others_and_control_ends_with_the_branches(tmp_path):
    write(tmp_path / "some.parquet", make_scores(9))
    names = pq.read_schema(tmp_path / "some.parquet").names
    assert names[-1] == "default_q050_confidence"
    assert len(names) == 15


@pytest.mark.parametrize("num_classes", [3, 7])
def test_rows_are_the_images_in_order_with_what_was_made_of_them(tmp_path, num_classes):
    scores = full(num_classes=num_classes)
    write(tmp_path / "some.parquet", scores)
    table = pq.read_table(tmp_path / "some.parquet").to_pydict()
    assert table["id"] == scores.ids
    assert table["label"] == scores.labels.tolist()
    ranks = ranks_by_hand(scores)
    for name in (TOPOLOGY, *OTHERS):
        assert table[f"{name}_rank"] == ranks[name].tolist()
    by_branch = places(scores.default, scores.labels)
    for i, name in enumerate(BRANCHES):
        assert table[f"default_{name}_rank"] == by_branch[:, i].tolist()
    expected = places(scores.control, scores.labels).min(axis=1)
    assert table["control_oracle_rank"] == expected.tolist()
    right, was_right = ranks[TOPOLOGY] == 0, ranks[DEFAULT] == 0
    types = np.where(right & ~was_right, "A", np.where(was_right & ~right, "B", "C"))
    assert table["type"] == types.tolist()
    assert set(table["type"]) == {"A", "B", "C"}
    num_top = min(5, num_classes)
    for name, found in ((TOPOLOGY, scores.by_name[TOPOLOGY]), (DEFAULT, scores.default[:, 0])):
        first = np.argsort(-found, axis=1, kind="stable")[:, :num_top]
        assert table[f"{name}_top5"] == first.tolist()
        shares = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
        first_shares = np.take_along_axis(shares, first, axis=1)
        np.testing.assert_allclose(table[f"{name}_top5_confidence"], first_shares, rtol=1e-5)
        own = shares[np.arange(50), scores.labels]
        column = "topology" if name == TOPOLOGY else "default_original"
        np.testing.assert_allclose(table[f"{column}_confidence"], own, rtol=1e-5)


@pytest.mark.parametrize(
    ("group_rows", "expected"),
    [(1, [16, 16, 16, 2]), (20, [32, 18]), (32, [32, 18]), (40, [48, 2]), (4096, [50])],
)
def test_row_groups_hold_at_least_so_many_rows(tmp_path, monkeypatch, group_rows, expected):
    monkeypatch.setattr(unit, "GROUP_ROWS", group_rows)
    scores = full()
    write(tmp_path / "some.parquet", scores)
    with pq.ParquetFile(tmp_path / "some.parquet") as file:
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        table = file.read()
    assert groups == expected
    monkeypatch.undo()
    write(tmp_path / "other.parquet", scores, size=7)
    assert table.equals(pq.read_table(tmp_path / "other.parquet"))


def test_others_are_the_comparators_behind_the_branches(tmp_path):
    write(tmp_path / "some.parquet", full())
    names = pq.read_schema(tmp_path / "some.parquet").names
    assert unit.others(names) == list(OTHERS)


def test_others_of_a_table_without_any_are_none():
    schema = unit.schema(BRANCHES, [], True)
    assert schema.names[-1] == unit.CONTROL_ORACLE
    assert unit.others(schema.names) == []


@pytest.mark.parametrize("num_batches", [0, 1, 3])
def test_writer_error_in_the_middle_leaves_no_file(tmp_path, monkeypatch, num_batches):
    monkeypatch.setattr(unit, "GROUP_ROWS", 16)
    scores = full()
    tally = Tally(7, 0)
    arguments = (tmp_path / "some.parquet", BRANCHES, OTHERS, True, nothing)
    with pytest.raises(StopHere), unit.open_writer(*arguments) as writer:
        for i, batch in enumerate(in_batches(scores, 16)):
            if i == num_batches:
                raise StopHere
            writer.add(tally.add(batch))
    assert list(tmp_path.iterdir()) == []


def test_writer_refused_at_the_end_leaves_what_was_there(tmp_path):
    path = tmp_path / "some.parquet"
    write(path, full())
    before = path.read_bytes()
    with pytest.raises(StopHere, match="another has taken over"):
        write(path, full(30), check=refuse)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writer_without_a_folder_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"gone/some\.parquet: cannot be written: No such file"):
        write(tmp_path / "gone" / "some.parquet", full())


def test_writer_another_comparator_than_it_was_told_is_refused(tmp_path):
    judged = Tally(7, 0).add(full())
    arguments = (tmp_path / "some.parquet", BRANCHES, OTHERS[:-1], True, nothing)
    with pytest.raises((pa.ArrowInvalid, ValueError)), unit.open_writer(*arguments) as writer:
        writer.add(judged)
    assert list(tmp_path.iterdir()) == []


def test_same_scores_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, full())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
