"""Images through a trained run: their versions made in memory, network, topology, best classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import trained
from pipelines.config import PredictConfig
from pipelines.errors import FeatureError, ImageError, ManifestError
from pipelines.execution import devices
from pipelines.execution.threads import num_cores, ordered_map
from pipelines.images.versions import Versions
from pipelines.networks import forward, nodes
from pipelines.progress import Progress
from pipelines.trained import Trained
from pipelines.training.step import compile_logits


def run(
    workspace_dir: Path,
    config: PredictConfig,
    name: str,
    paths: Sequence[Path],
    progress: Progress,
) -> dict[str, Any]:
    """Say of each image which classes a trained run takes it for.

    Args:
        workspace_dir: the workspace.
        config: the settings.
        name: of the run.
        paths: of the images.
        progress: told about the images.

    Returns:
        The summary: stage, run, node, num_images, num_failed; predictions, one an image in the
        order given: path, and either top (label and probability, the likeliest first) or error,
        why it could not be used.

    Raises:
        TrainingError: there is no such run, or it is not finished.
        ManifestError: it does not say how its images were prepared, or other weights are there.
        WeightsError: the backbone's weights cannot be found.
        FeatureError: a batch does not fit the device's memory.
    """
    found = trained.find(workspace_dir, name)
    reasons = {path: reason for path in dict.fromkeys(paths) if (reason := _no_file(path))}
    usable = [path for path in paths if path not in reasons]
    top: Iterator[list[dict[str, Any]] | str] = iter(())
    if usable:
        _say_other_libraries(found, progress)
        top = _predict(found, config, usable, progress)
    predictions = []
    for path in paths:
        result = reasons.get(path) or next(top)
        shown = os.fsencode(path).decode("utf-8", "replace")
        predictions.append({"path": shown, ("error" if isinstance(result, str) else "top"): result})
    return {
        "stage": "predict",
        "run": name,
        "node": found.described.node,
        "num_images": len(predictions),
        "num_failed": sum("error" in prediction for prediction in predictions),
        "predictions": predictions,
    }


def probabilities(run: Trained, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Compile the way from versions to probabilities.

    Args:
        run: with its weights.
        batch_size: images at once.

    Returns:
        A function from uint8 (batch_size, branches, side, side, 3) to float32 (batch_size,
        classes), each image's adding up to 1.
    """
    import tensorflow as tf

    versions = run.run.versions
    batch = forward.Batch(batch_size, len(versions.branches), versions.shape[1:], versions.protocol)
    front = forward.build(nodes.front(run.backbone.model, [run.node]), [run.node.name], batch)
    logits = compile_logits(run.topology)

    def of(arrays: np.ndarray) -> np.ndarray:
        try:
            (maps,) = front(arrays)
            return tf.nn.softmax(logits(maps)).numpy()
        except tf.errors.ResourceExhaustedError as error:
            raise FeatureError(
                f"{batch_size} images in {len(versions.branches)} versions do not fit the device's "
                "memory; give a smaller --batch-size"
            ) from error

    return of


def _predict(
    found: trained.Finished, config: PredictConfig, paths: Sequence[Path], progress: Progress
) -> Iterator[list[dict[str, Any]] | str]:
    """Give each image's best classes, or why it could not be used."""
    devices.configure()
    devices.make_deterministic()
    loaded = trained.load(found, config.weights)
    classes, batch_size = found.described.classes, min(config.batch_size, len(paths))
    of = probabilities(loaded, batch_size)
    arrays = np.zeros((batch_size, *found.versions.shape), np.uint8)
    progress.start("predict", len(paths), "image")
    read = ordered_map(
        lambda path: _read(found.versions, path), paths, num_cores(), num_cores() + batch_size
    )
    while chunk := list(islice(read, batch_size)):
        good = [item for item in chunk if not isinstance(item, str)]
        for i, array in enumerate(good):
            arrays[i] = array
        rows = iter(of(arrays) if good else ())
        for item in chunk:
            yield item if isinstance(item, str) else _best(next(rows), classes, config.top)
        progress.advance(len(chunk))


def _read(versions: Versions, path: Path) -> np.ndarray | str:
    try:
        return versions.read(path)
    except ImageError as error:
        return str(error)


def _best(row: np.ndarray, classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the likeliest classes; equal ones by their number."""
    order = np.argsort(-row, kind="stable")[:top]
    return [{"label": classes[i], "probability": float(row[i])} for i in order]


def _no_file(path: Path) -> str | None:
    """Say why a path is no file, before anything is loaded; None where it is one."""
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return f"a folder; give the images in it, such as {path / '*.jpg'}"
        return "no such file" if not path.exists() else "no file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _say_other_libraries(found: trained.Finished, progress: Progress) -> None:
    try:
        found.versions.check_libraries(found.described.fingerprint["cache"], found.path)
    except ManifestError as error:
        progress.say(f"note: {error}")
