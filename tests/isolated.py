"""Exported models at work in a process in which this package cannot be imported.

Run as a program, in Python's isolated mode, it loads models, runs them, and keeps what they give.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("pipelines", "bottleneck_cli")
_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Ask:
    """A model that is to be run.

    Attributes:
        model: path of a Keras file, or of a SavedModel's folder.
        signature: of the SavedModel; "" for a Keras file.
        inputs: an array that was saved as .npy, or image files, whose bytes go in.
    """

    model: str
    signature: str
    inputs: list[str]


def run_models(folder: Path, asks: Sequence[Ask]) -> list[np.ndarray]:
    """Run models in a fresh process; returns the probabilities that each gave.

    Args:
        folder: for what goes to and fro.
        asks: which, and on what.
    """
    folder.mkdir()
    (folder / "asks.json").write_text(json.dumps([asdict(ask) for ask in asks]))
    result = subprocess.run(
        [sys.executable, "-I", __file__, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"TF_CPP_MIN_LOG_LEVEL": "2"},
        timeout=_DEADLINE_S,
    )
    assert result.returncode == 0, result.stderr
    return [np.load(folder / f"{i}.npy") for i in range(len(asks))]


class _Forbidding:
    """Lets nobody find a module of ours, however it is installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"{name} is not to be had here")


def _run(ask: Ask) -> np.ndarray:
    if not ask.signature:
        import keras

        return keras.models.load_model(ask.model, safe_mode=True).predict_on_batch(_array(ask))
    import tensorflow as tf

    served = _loaded(ask.model).signatures[ask.signature]
    (name,) = served.structured_input_signature[1]
    (found,) = served(**{name: tf.constant(_array(ask))}).values()
    return found.numpy()


@functools.cache
def _loaded(path: str) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(path)


def _array(ask: Ask) -> np.ndarray | list[bytes]:
    if ask.inputs[0].endswith(".npy"):
        return np.load(ask.inputs[0])
    return [Path(path).read_bytes() for path in ask.inputs]


def main() -> None:
    folder = Path(sys.argv[1])
    sys.meta_path.insert(0, _Forbidding())
    for name in OURS:
        try:
            __import__(name)
        except ModuleNotFoundError:
            continue
        sys.exit(f"{name} could be imported")
    asks = [Ask(**values) for values in json.loads((folder / "asks.json").read_text())]
    for i, ask in enumerate(asks):
        np.save(folder / f"{i}.npy", np.asarray(_run(ask)))
    loaded = {name.partition(".")[0] for name in sys.modules} & set(OURS)
    if loaded:
        sys.exit(f"{loaded} were imported")


if __name__ == "__main__":
    main()
