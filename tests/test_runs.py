from __future__ import annotations

import dataclasses
import json

import pytest

from pipelines import runs
from pipelines.errors import ManifestError, TrainingError

RUN = runs.Run(
    fingerprint={"cache": {"node": "avg_pool"}, "epochs": 2},
    node="avg_pool",
    blocks=("top_activation", "FC"),
    block_number=2,
    classes=("ant", "bee"),
    branches=("original", "q010"),
    fusion="mean",
    default_kind="trained",
    features_dir="features",
    seed=3,
)


def test_read_gives_what_was_written(tmp_path):
    runs.write(tmp_path, "mine", RUN)
    assert runs.read(tmp_path, "mine") == RUN


def test_latest_is_the_run_written_or_pointed_at_last(tmp_path):
    runs.write(tmp_path, "first", RUN)
    runs.write(tmp_path, "second", RUN)
    assert runs.latest(tmp_path) == "second"
    runs.point_latest(tmp_path, "first")
    assert runs.latest(tmp_path) == "first"


def test_point_latest_sweeps_what_a_killed_one_left(tmp_path):
    runs.write(tmp_path, "first", RUN)
    (tmp_path / "runs" / ".latest.json.4711-0123abcd.tmp").write_text("{")
    runs.point_latest(tmp_path, "first")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "first",
        "latest.json",
        ".lock.guard",
    }


def test_latest_without_any_run_raises(tmp_path):
    with pytest.raises(TrainingError, match="no run yet; run `bottleneck train-tail` first"):
        runs.latest(tmp_path)


def test_read_unknown_run_raises_listing_the_others(tmp_path):
    runs.write(tmp_path, "second", RUN)
    runs.write(tmp_path, "first", RUN)
    with pytest.raises(TrainingError, match="runs/mine: no such run; there are first, second"):
        runs.read(tmp_path, "mine")


def test_read_unknown_run_of_none_says_what_to_do(tmp_path):
    with pytest.raises(TrainingError, match="no such run; run `bottleneck train-tail` first"):
        runs.read(tmp_path, "mine")


@pytest.mark.parametrize("version", [1, 3])
def test_read_other_version_raises(version, tmp_path):
    runs.write(tmp_path, "mine", RUN)
    path = tmp_path / "runs" / "mine" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": version}))
    with pytest.raises(ManifestError, match=f"format version {version}, this program reads 2"):
        runs.read(tmp_path, "mine")


@pytest.mark.parametrize(
    ("fingerprint", "parent"),
    [({}, ""), ({"start_from": None}, ""), ({"start_from": {"run": "a"}}, "a")],
)
def test_parent_is_the_run_that_it_started_from(fingerprint, parent):
    assert dataclasses.replace(RUN, fingerprint=fingerprint).parent == parent


@pytest.mark.parametrize("name", ["run.json", "history.jsonl", "checkpoints"])
def test_folder_with_something_of_a_run_is_one(name, tmp_path):
    (tmp_path / "notes.txt").touch()
    assert not runs.is_run(tmp_path)
    (tmp_path / name).touch()
    assert runs.is_run(tmp_path)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(runs.Run)])
def test_read_missing_field_raises_naming_it(tmp_path, field):
    runs.write(tmp_path, "mine", RUN)
    path = tmp_path / "runs" / "mine" / "run.json"
    value = json.loads(path.read_text())
    del value[field]
    path.write_text(json.dumps(value))
    with pytest.raises(
        ManifestError, match=rf"run\.json: damaged: .*{field}.*restore it, or train"
    ):
        runs.read(tmp_path, "mine")


def test_read_half_a_file_raises(tmp_path):
    runs.write(tmp_path, "mine", RUN)
    path = tmp_path / "runs" / "mine" / "run.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ManifestError, match=r"run\.json: cannot be read"):
        runs.read(tmp_path, "mine")
