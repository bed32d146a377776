"""Checkpoints: one .npz file with named arrays and a JSON state, whole or not there.

Read with pickles refused: a checkpoint is data, never code.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipelines.errors import TrainingError
from pipelines.storage import atomic

_STATE = "state.json"


def save(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Write a checkpoint durably; the same content gives the same bytes.

    Args:
        path: the .npz file; replaced when it exists.
        arrays: by name, any shape and dtype but object.
        state: JSON-able.
    """
    buffer = io.BytesIO()
    text = json.dumps(state, sort_keys=True, allow_nan=False).encode()
    content: dict[str, Any] = {_STATE: np.frombuffer(text, np.uint8), **arrays}
    np.savez(buffer, **content)
    with atomic.atomic_file(path) as file:
        file.write(buffer.getbuffer())


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a checkpoint.

    Raises:
        TrainingError: it is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        state = json.loads(arrays.pop(_STATE).tobytes())
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such checkpoint; train the run first") from None
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise TrainingError(
            f"{path}: damaged: {error}; delete the run and train it again"
        ) from error
    return arrays, state


def sha256(path: Path) -> str:
    """Return the hash of a checkpoint's bytes, hexadecimal.

    Raises:
        TrainingError: it is missing or cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(
            f"{path}: no such checkpoint ({error.strerror}); train that run again"
        ) from error
