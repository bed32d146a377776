"""`pipelines.training.evaluations`: a history read back."""

from __future__ import annotations

import pytest
from begun import make_run, write_history
from drawn import points

from pipelines.analysis.curves import Point
from pipelines.errors import ManifestError
from pipelines.training import evaluations
from pipelines.training.history import History


def test_read_gives_the_evaluations_of_each_model(tmp_path):
    topology, default = points(3, has_top5=True), points(2, seed=1)
    write_history(tmp_path, topology=topology, default=default)
    found = evaluations.read(tmp_path / "history.jsonl")
    assert found == {"topology": topology, "default": default}


def test_read_what_a_history_has_appended(tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path, tmp_path / "tensorboard")
    line = {"model": "topology", "step": 5, "epoch": 1.0, "learning_rate": 0.01, "train_top1": 0.6}
    line |= {"train_loss": 0.7, "val_loss": 0.9, "val_top1": 0.5, "val_top5": None}
    history.append(line)
    history.close()
    assert evaluations.read(path)["topology"] == [Point(5, 1.0, 0.01, 0.7, 0.9, 0.5, None)]


def test_read_passes_over_a_line_that_is_being_written(tmp_path):
    write_history(tmp_path, topology=points(2))
    path = tmp_path / "history.jsonl"
    text = path.read_text()
    path.write_text(text + text[: len(text) // 4])
    assert evaluations.read(path)["topology"] == points(2)


def test_read_without_a_history_gives_no_evaluations(tmp_path):
    assert evaluations.read(tmp_path / "history.jsonl") == {"topology": [], "default": []}


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", "{}", '{"model": "other"}', '{"model": "topology", "step": 1}', "\xff"]
)
def test_read_damaged_line_raises(line, tmp_path):
    folder = make_run(tmp_path)
    (folder / "history.jsonl").write_bytes(f"{line}\n".encode("latin-1"))
    with pytest.raises(
        ManifestError, match=r"runs/first/history\.jsonl: damaged: .*and train it again"
    ):
        evaluations.read(folder / "history.jsonl")
