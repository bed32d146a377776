"""Exported runs: the numbers of predict, in a process in which this package cannot be imported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from commands import invoke, the_error
from disks import mounted
from editing import edit
from images import write_jpeg, write_png
from isolated import Ask, run_models
from pages import blocks
from processes import kill_when

from pipelines import compress, export, extract, predict, runs, train_tail
from pipelines import trained as trained_runs
from pipelines.config import (
    CompressConfig,
    ExportConfig,
    ExtractConfig,
    PredictConfig,
    TrainTailConfig,
)
from pipelines.errors import ConfigError, ShardError, TrainingError
from pipelines.execution import inline
from pipelines.images import preprocess
from pipelines.progress import Silent
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

RUNS = ("pooled", "maps")
FILES = [
    *("README.md", "model.json", "model.keras", "saved_model/fingerprint.pb"),
    *("saved_model/saved_model.pb", "saved_model/variables/variables.data-00000-of-00001"),
    "saved_model/variables/variables.index",
]


pytestmark = pytest.mark.usefixtures("networks_once")


class Written(NamedTuple):
    """Both runs exported; not to be changed.

    Attributes:
        folder: with an export a run.
        summaries: what export returned, by run.
    """

    folder: Path
    summaries: dict[str, dict[str, Any]]


class Used(NamedTuple):
    """What predict and the exports say of the same images.

    Attributes:
        images: that went in.
        predicted: by run, float64 (images, classes), by predict.
        found: by run and way, float32 (images, classes), by the exports.
    """

    images: list[Path]
    predicted: dict[str, np.ndarray]
    found: dict[tuple[str, str], np.ndarray]


def run(workspace: Path, name: str, to: Path | str, progress: Any = None, **settings: Any) -> dict:
    return export.run(workspace, ExportConfig(to=str(to), **settings), name, progress or Silent())


def write_images(folder: Path) -> list[Path]:
    """Write whole photographs, as JPEG and PNG, gray and in colour; and some solar cells."""
    import elpv_dataset
    from skimage import data

    folder.mkdir()
    jpegs = {name: getattr(data, name)() for name in ("astronaut", "coffee", "brick")}
    pngs = {name: getattr(data, name)() for name in ("chelsea", "camera")}
    paths = [write_jpeg(folder / f"{name}.jpg", picture, 90) for name, picture in jpegs.items()]
    paths += [write_png(folder / f"{name}.png", picture) for name, picture in pngs.items()]
    cells = (Path(elpv_dataset.__file__).parent / "data" / "images").glob("*.png")
    return [*paths, *sorted(cells)[:2]]


def predicted_by(workspace: Path, name: str, paths: list[Path]) -> np.ndarray:
    summary = predict.run(workspace, PredictConfig(), name, paths, Silent())
    tops = [
        {best["label"]: best["probability"] for best in prediction["top"]}
        for prediction in summary["predictions"]
    ]
    return np.array([[top[label] for label in runs.read(workspace, name).classes] for top in tops])


def inputs_of(workspace: Path, name: str, paths: list[Path]) -> np.ndarray:
    """Prepare images as the Keras file wants them."""
    versions = trained_runs.find(workspace, name).versions
    pixels = np.stack([versions.read(path) for path in paths])
    return preprocess.scale(pixels.astype(np.float32), versions.protocol)


def asks_of(export_dir: Path, inputs: Path, paths: list[Path]) -> dict[str, Ask]:
    """Ask an export for all that it can be asked."""
    saved = str(export_dir / "saved_model")
    return {
        "keras": Ask(str(export_dir / "model.keras"), "", [str(inputs)]),
        "default": Ask(saved, "serving_default", [str(inputs)]),
        "bytes": Ask(saved, "serving_bytes", list(map(str, paths))),
    }


def run_elsewhere(
    workspace: Path, names: tuple[str, ...], folder: Path, paths: list[Path]
) -> dict[tuple[str, str], np.ndarray]:
    """Run the exports folder/<run> in every way, in one process without this package."""
    asks = {}
    for name in names:
        inputs = folder / f"{name}.npy"
        np.save(inputs, inputs_of(workspace, name, paths))
        asks |= {(name, way): ask for way, ask in asks_of(folder / name, inputs, paths).items()}
    found = run_models(folder / "isolated", list(asks.values()))
    return dict(zip(asks, found, strict=True))


@pytest.fixture(scope="module")
def written(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    return Written(folder, {name: run(trained_once, name, folder / name) for name in RUNS})


@pytest.fixture(scope="module")
def used(written: Written, trained_once: Path) -> Used:
    paths = write_images(written.folder / "images")
    predicted = {name: predicted_by(trained_once, name, paths) for name in RUNS}
    return Used(paths, predicted, run_elsewhere(trained_once, RUNS, written.folder, paths))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("way", ["keras", "default", "bytes"])
def test_export_gives_the_probabilities_of_predict(name, way, used):
    predicted, found = used.predicted[name], used.found[name, way]
    assert found.dtype == np.float32
    assert np.ptp(predicted, axis=0).max() > 0.1  # another image, another answer
    np.testing.assert_allclose(found, predicted, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), predicted.argmax(axis=1))


@pytest.mark.parametrize("name", RUNS)
def test_export_summary_lists_the_files_there_are(name, written):
    summary, to = written.summaries[name], written.folder / name
    assert list(summary) == ["stage", "run", "to", "signatures", "files", "size_bytes"]
    assert (summary["stage"], summary["run"], summary["to"]) == ("export", name, str(to))
    assert summary["signatures"] == ["serving_default", "serving_bytes"]
    files = [path for path in to.rglob("*") if path.is_file()]
    assert summary["files"] == FILES
    assert sorted(path.relative_to(to).as_posix() for path in files) == FILES
    assert summary["size_bytes"] == sum(path.stat().st_size for path in files)


def test_export_model_json_says_what_goes_in_and_what_comes_out(written, trained_once):
    values = json.loads((written.folder / "maps" / "model.json").read_text())
    assert values["classes"] == list(runs.read(trained_once, "maps").classes)
    assert values["branches"] == ["original", "q010", "q050"]
    assert values["qualities"] == [None, 10, 50]
    assert values["input"]["shape"] == [None, 3, 224, 224, 3]
    assert values["output"]["shape"] == [None, 4]
    assert (values["protocol"]["name"], values["protocol"]["size"]) == ("efficientnet", 224)
    assert values["codec"]["subsampling"] == "4:2:0"
    assert values["scaling"] == "(x - 127) / 128"
    assert (values["node"], values["fusion"]) == ("block7a_expand_activation", "gated")


def test_export_read_me_has_the_same_for_people(written):
    text = (written.folder / "maps" / "README.md").read_text()
    assert "float32 (images, 3, 224, 224, 3)" in text
    assert "- the original\n- JPEG at quality 10 (`q010`)\n- JPEG at quality 50 (`q050`)\n" in text
    assert "`(x - 127) / 128`" in text
    assert "brick, coffee, grass, gravel" in text
    assert "{" not in text


@pytest.mark.slow
def test_export_read_mes_examples_run(written, used, monkeypatch):
    """As they stand there, with the names that they take as given."""
    monkeypatch.chdir(written.folder / "maps")
    variants = np.load(written.folder / "maps.npy")[:2]
    given = {"variants": variants, "paths": list(map(str, used.images[:2]))}
    examples = blocks(written.folder / "maps" / "README.md", "python")
    assert len(examples) == 2
    for example in examples:
        found = dict(given)
        exec(compile(example, "README.md", "exec"), found)
        np.testing.assert_allclose(found["probabilities"], used.predicted["maps"][:2], atol=1e-5)


def test_export_into_what_is_there_raises_and_changes_nothing(trained_once, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"file: is a file; give a folder with --to"):
        run(trained_once, "pooled", tmp_path / "file", overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    with pytest.raises(ConfigError, match=r"photos: not empty, .* an export \(a\.jpg\); choose"):
        run(trained_once, "pooled", tmp_path / "photos", overwrite=True)
    (tmp_path / "photos" / "a.jpg").rename(tmp_path / "photos" / "model.json")
    with pytest.raises(ConfigError, match=r"photos: not empty, .* an export \(model\.json\)"):
        run(trained_once, "pooled", tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "model.json").read_text() == "mine"


def test_export_again_needs_overwrite_and_keeps_what_is_not_its_own(
    written, trained_once, tmp_path
):
    to = Path(shutil.copytree(written.folder / "maps", tmp_path / "to"))
    with pytest.raises(ConfigError, match=r"to: holds an export; replace it with --overwrite"):
        run(trained_once, "pooled", to)
    (to / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"to: not empty, and more or else .*\(notes\.txt\)"):
        run(trained_once, "pooled", to, overwrite=True)
    (to / "notes.txt").unlink()
    assert json.loads((to / "model.json").read_text())["run"] == "maps"
    run(trained_once, "pooled", to, overwrite=True)
    assert json.loads((to / "model.json").read_text())["run"] == "pooled"
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_export_without_a_folder_is_a_usage_error(trained_once):
    message = the_error(invoke("export", "pooled", "-C", trained_once), status=2)
    assert message == "--to: give the folder to write"


def test_export_unknown_or_unfinished_run_raises_and_writes_nothing(trained, tmp_path):
    to = tmp_path / "to"
    with pytest.raises(TrainingError, match=r"runs/pool: no such run; there are maps, pooled"):
        run(trained, "pool", to)
    (trained / "runs" / "pooled" / "summary.json").unlink()
    with pytest.raises(TrainingError, match=r"pooled: not finished"):
        run(trained, "pooled", to)
    assert not to.exists()


def test_export_killed_leaves_nothing_in_its_place(trained_once, tmp_path):
    to = tmp_path / "to"

    def is_half_written() -> bool:
        return any(tmp_path.glob(".to.*/model.keras"))

    kill_when(is_half_written, trained_once, "export", "pooled", "--to", str(to))
    assert not to.exists()
    run(trained_once, "pooled", to)
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize("size", ["4m", "16m"])  # ends in the Keras file; in the SavedModel
def test_export_onto_a_full_disk_raises_and_leaves_nothing(size, trained_once, tmp_path):
    with mounted(tmp_path / "disk", f"size={size}") as disk:
        with pytest.raises(ShardError, match=r"disk/to: cannot be written: No space left"):
            run(trained_once, "pooled", disk / "to")
        assert list(disk.iterdir()) == []


def test_export_with_chroma_that_tensorflow_cannot_do_leaves_out_bytes(trained, tmp_path, notes):
    def change(value: Any) -> None:
        value["fingerprint"]["cache"]["variants"]["codec"]["subsampling"] = "4:2:2"

    edit(trained / "runs" / "pooled" / "run.json", change)
    summary = run(trained, "pooled", tmp_path / "to", notes)
    assert summary["signatures"] == ["serving_default"]
    assert notes.said == [
        "note: no signature serving_bytes: TensorFlow encodes no JPEG with chroma subsampling 4:2:2"
    ]
    text = (tmp_path / "to" / "README.md").read_text()
    assert (
        "no signature for the bytes of images: TensorFlow encodes no JPEG with chroma subs" in text
    )
    assert "paths" not in text


def test_export_command_takes_the_folder_from_where_it_runs(trained, tmp_path, monkeypatch):
    shutil.rmtree(trained / "features")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = invoke("export", "pooled", "--to", "a/b", "-C", trained, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["to"] == str(tmp_path / "here" / "a" / "b")
    assert (tmp_path / "here" / "a" / "b" / "model.keras").exists()
    assert "done" in (trained / "logs" / "export.log").read_text()


@pytest.mark.slow
def test_export_of_a_network_of_keras_gives_the_probabilities_of_predict(photos, tmp_path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    images = CompressConfig(images=str(photos), qualities=(30,), subsampling="4:4:4", limit=12)
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    made = {"backbone": "resnet50_v2", "weights": "none"}  # other pixels than EfficientNet-Lite0
    cut = ExtractConfig(**made, node=("post_relu",), batch_size=4, check_images=2)
    extract.run(workspace, cut, 3, Silent(), inline.open_crew)
    config = TrainTailConfig(
        run="a", batch_size=4, epochs=1, gradients="all", fusion="original_mean", learning_rate=0.02
    )
    train_tail.run(workspace, workspace / "features", config, 3, Silent())
    best = Store.of(workspace / "runs" / "a", "topology").best
    arrays, state = checkpoints.load(best)
    arrays["head/kernel"] *= 30  # of random weights all images are much alike
    checkpoints.save(best, arrays.items(), state)
    paths = write_images(tmp_path / "images")[::2]
    run(workspace, "a", tmp_path / "a")
    predicted = predicted_by(workspace, "a", paths)
    assert np.ptp(predicted, axis=0).max() > 0.01
    for found in run_elsewhere(workspace, ("a",), tmp_path, paths).values():
        np.testing.assert_allclose(found, predicted, atol=1e-5)
