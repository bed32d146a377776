"""Images through a trained run: the probabilities of the cache, whatever the images are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import images
import numpy as np
import pytest
from caches import lite0, read_split
from commands import invoke, the_error
from editing import edit
from processes import modules_loaded_by

from pipelines import predict, runs
from pipelines.config import PredictConfig
from pipelines.errors import ManifestError, TrainingError, WeightsError
from pipelines.networks import models
from pipelines.networks.topology import Design
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store
from pipelines.training.step import compile_logits

RUNS = ("pooled", "maps")
pytestmark = pytest.mark.usefixtures("networks_once")


def run(workspace: Path, name: str, *paths: Path, progress: Any = None, **settings: Any) -> dict:
    return predict.run(workspace, PredictConfig(**settings), name, paths, progress or Silent())


def shares(summary: dict, classes: tuple[str, ...]) -> np.ndarray:
    """Return the probabilities (images, classes) of a summary with every class in it."""
    found = [
        {best["label"]: best["probability"] for best in prediction["top"]}
        for prediction in summary["predictions"]
    ]
    return np.array([[one[name] for name in classes] for one in found])


def from_cache(workspace: Path, name: str, split: str) -> tuple[np.ndarray, list[str]]:
    """Run the best checkpoint on a split's features as they are stored; returns ids, too."""
    described = runs.read(workspace, name)
    cache = FeatureCache(workspace / "features" / described.node)
    design = Design(described.branches, described.fusion, "all")
    topology = models.build(lite0(), cache, design, 1)
    best = Store.of(workspace / "runs" / name, "topology").best
    topology.assign(checkpoints.load(best)[0])
    features, _, ids = read_split(cache, split)
    scores = compile_logits(topology)(features).numpy()
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True), ids


@pytest.fixture
def photo(photos: Path) -> Path:
    return photos / "coffee" / "01.png"


@pytest.mark.parametrize("name", RUNS)
def test_predict_gives_the_probabilities_of_the_cache(name, trained_once, photos):
    expected, ids = from_cache(trained_once, name, "train")
    summary = run(trained_once, name, *(photos / id for id in ids))
    found = shares(summary, runs.read(trained_once, name).classes)
    assert len(ids) > 2 * PredictConfig().batch_size  # the last batch is not full
    assert len(ids) % PredictConfig().batch_size
    assert np.ptp(expected, axis=0).max() > 0.1  # another image, another answer
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_predict_summary_has_the_classes_of_each_image_the_likeliest_first(trained_once, photos):
    paths = sorted(photos.glob("*/00.jpg"))
    summary = run(trained_once, "pooled", *paths)
    assert list(summary) == [
        *("stage", "run", "node", "num_images", "num_failed", "predictions"),
    ]
    assert (summary["stage"], summary["run"], summary["node"]) == ("predict", "pooled", "avg_pool")
    assert (summary["num_images"], summary["num_failed"]) == (4, 0)
    assert [prediction["path"] for prediction in summary["predictions"]] == list(map(str, paths))
    for prediction in summary["predictions"]:
        values = [best["probability"] for best in prediction["top"]]
        assert len(values) == 4  # of the five asked for, as many as there are classes
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-6)


def test_predict_top_keeps_the_likeliest(trained_once, photo):
    (every,) = run(trained_once, "pooled", photo)["predictions"]
    (two,) = run(trained_once, "pooled", photo, top=2)["predictions"]
    assert two["top"] == every["top"][:2]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predict_in_other_batches_gives_the_same(batch_size, trained_once, photos):
    paths = sorted(photos.glob("*/0[0-2].*"))
    classes = runs.read(trained_once, "maps").classes
    expected = shares(run(trained_once, "maps", *paths), classes)
    found = shares(run(trained_once, "maps", *paths, batch_size=batch_size), classes)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_predict_takes_every_kind_of_image(trained_once, tmp_path):
    paths = images.write_odd_files(tmp_path)
    summary = run(trained_once, "pooled", *paths.values())
    assert summary["num_failed"] == 0
    assert len(summary["predictions"]) == len(paths)


def test_predict_bad_images_are_named_and_the_others_predicted(trained_once, photo, tmp_path):
    bad = images.write_bad_files(tmp_path)
    paths = [bad["truncated_jpeg"], photo, bad["text"], tmp_path / "nothing.jpg", tmp_path, photo]
    summary = run(trained_once, "pooled", *paths, batch_size=2)
    errors = [prediction.get("error") for prediction in summary["predictions"]]
    assert [error is None for error in errors] == [False, True, False, False, False, True]
    assert errors[0].startswith("damaged jpeg data")
    assert errors[2].startswith("not an image of a supported format")
    assert errors[3] == "no such file"
    assert errors[4] == f"a folder; give the images in it, such as {tmp_path}/*.jpg"
    assert (summary["num_images"], summary["num_failed"]) == (6, 4)
    (alone,) = run(trained_once, "pooled", photo, batch_size=2)["predictions"]
    for i in (1, 5):
        found = summary["predictions"][i]["top"]
        assert [best["label"] for best in found] == [best["label"] for best in alone["top"]]
        assert found[0]["probability"] == pytest.approx(alone["top"][0]["probability"], abs=1e-5)


def test_predict_needs_no_cache(trained, photo):
    before = run(trained, "maps", photo)
    for name in ("features", "variants", "index"):
        shutil.rmtree(trained / name)
    assert run(trained, "maps", photo) == before


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_predict_of_a_weights_file_finds_it_or_asks_for_it(trained, photo, tmp_path):
    before = run(trained, "pooled", photo)
    made = trained / "weights" / "a.weights.h5"
    made.parent.mkdir()
    lite0().model.save_weights(made)

    def name_file(value: Any) -> None:
        value["fingerprint"]["cache"]["weights"] = made.name

    edit(trained / "runs" / "pooled" / "run.json", name_file)
    with pytest.raises(WeightsError, match=r"no weights file a\.weights\.h5 of .*--weights PATH"):
        run(trained, "pooled", photo)
    assert run(trained, "pooled", photo, weights="weights/a.weights.h5") == before
    plan = trained / "features" / "avg_pool" / "plan.json"
    edit(plan, lambda value: value["details"].update(weights="weights/a.weights.h5"))
    assert run(trained, "pooled", photo) == before
    shutil.rmtree(trained / "features")
    made.rename(trained / made.name)
    assert run(trained, "pooled", photo) == before


def test_predict_with_other_weights_raises(trained, photo):
    with pytest.raises(ManifestError, match=r"pooled: made with other weights than none has now"):
        run(trained, "pooled", photo, weights="none")


def test_predict_of_a_checkpoint_that_lacks_a_weight_raises(trained, photo):
    best = Store.of(trained / "runs" / "maps", "topology").best
    arrays, state = checkpoints.load(best)
    arrays.pop("head/gate")
    checkpoints.save(best, arrays.items(), state)
    with pytest.raises(TrainingError, match=r"step-\d+\.npz: lacks the weights head/gate of this"):
        run(trained, "maps", photo)


def test_predict_of_a_run_without_its_preparation_raises(trained, photo):
    path = trained / "runs" / "pooled" / "run.json"
    edit(path, lambda value: value["fingerprint"]["cache"].pop("variants"))
    with pytest.raises(ManifestError, match=r"run\.json: .* how its images were prepared"):
        run(trained, "pooled", photo)


def test_predict_says_that_libraries_are_others(trained, photo, notes):
    run(trained, "pooled", photo, progress=notes)
    assert notes.said == []
    path = trained / "runs" / "pooled" / "run.json"
    edit(
        path, lambda value: value["fingerprint"]["cache"]["protocol"].update(library_version="13.9")
    )
    run(trained, "pooled", photo, progress=notes)
    assert len(notes.said) == 1
    assert "protocol.library_version 13.9, now" in notes.said[0]


def test_predict_unknown_run_raises_listing_the_others(trained_once, photo):
    with pytest.raises(TrainingError, match=r"runs/pool: no such run; there are maps, pooled"):
        run(trained_once, "pool", photo)


def test_predict_unfinished_run_raises(trained, photo):
    (trained / "runs" / "pooled" / "summary.json").unlink()
    with pytest.raises(TrainingError, match=r"pooled: not finished; train it to its end first"):
        run(trained, "pooled", photo)


def test_predict_command_prints_a_line_an_image(trained_once, photos):
    paths = sorted(photos.glob("*/00.jpg"))[:2]
    result = invoke("predict", "pooled", *paths, "-C", trained_once, "--top", "2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for path, line in zip(paths, lines, strict=True):
        assert line.startswith(f"{path}: ")
        assert line.count("%") == 2


def test_predict_command_with_a_bad_image_fails_but_prints_the_others(
    trained_once, photo, tmp_path
):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    result = invoke("predict", "pooled", bad, photo, "-C", trained_once)
    assert result.exit_code == 1
    assert f"error: {bad}: the file is empty, 0 bytes" in result.stderr.splitlines()
    assert result.stdout.startswith(f"{photo}: ")
    result = invoke("predict", "pooled", bad, photo, "-C", trained_once, "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert summary["predictions"][0] == {"path": str(bad), "error": "the file is empty, 0 bytes"}
    assert list(summary["predictions"][1]) == ["path", "top"]


def test_predict_command_of_no_image_is_a_usage_error(trained_once):
    result = invoke("predict", "pooled", "-C", trained_once)
    assert result.exit_code == 2
    assert "Missing argument 'IMAGE...'" in result.stderr


@pytest.mark.parametrize("name", ["../runs/pooled", "runs/pooled", "..", "", " pooled"])
def test_predict_command_of_a_run_that_is_no_name_is_a_usage_error(name, trained_once, photo):
    message = the_error(invoke("predict", name, photo, "-C", trained_once), status=2)
    assert message == f"RUN: {name!r} is no run's name; give the name of a folder in runs/"


def test_predict_command_of_missing_files_alone_loads_no_tensorflow(trained_once, tmp_path):
    missing = tmp_path / "nothing.jpg"
    output, modules = modules_loaded_by(trained_once, "predict", "pooled", str(missing), status=1)
    assert output.strip() == f"error: {missing}: no such file"
    assert not {"tensorflow", "keras"} & modules
