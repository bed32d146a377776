"""Checkpoints: named arrays and a JSON state in one .npz file, whole or not there.

A model's checkpoints lie in a folder of their own, a file a step, with `latest.json` beside them,
which says which of them count: the last two, and the best by top-1 and by top-5. It is written
behind the file that it names, and what it no longer names is deleted behind it. Read with pickles
refused: a checkpoint is data, never code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast
from zipfile import BadZipFile, ZipFile

import numpy as np

from pipelines.errors import ManifestError, TrainingError
from pipelines.storage import atomic

_STATE, _NUM_ARRAYS, _SUFFIX = "state.json", "num_arrays", ".npy"
_POINTER, _PATTERN = "latest.json", "step-*.npz"
# What reading a file raises of which bytes are lost or changed. Of these NotImplementedError and
# RuntimeError are how ZipFile takes a changed header, for another compression or a password.
_BROKEN = (OSError, EOFError, ValueError, KeyError, BadZipFile, NotImplementedError, RuntimeError)
Arrays = Iterable[tuple[str, np.ndarray]]
_MEND = "begin the training again, which makes it anew from the checkpoints"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """Which checkpoints count, by the step that each was saved at; None for there is none.

    Attributes:
        latest: the one that training goes on from.
        previous: the one in front of it, for the case that `latest` is damaged.
        best_top1: best by validation top-1; what is judged, and what a next run starts from.
        best_top5: best by validation top-5.
    """

    latest: int
    previous: int | None = None
    best_top1: int | None = None
    best_top5: int | None = None

    @property
    def steps(self) -> set[int]:
        """All of them."""
        return {step for step in asdict(self).values() if step is not None}


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from.

    Attributes:
        step: that it was saved at.
        arrays: by name.
        state: as it was given to `save`.
        is_named: whether it is the one that counts as the latest.
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]
    is_named: bool


class Store:
    """The checkpoints of one model."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder, which may not be there yet."""
        self.folder = folder

    @classmethod
    def of(cls, run_dir: Path, model: str) -> Store:
        """Return those of a run's model, "topology" or "default"."""
        return cls(run_dir / "checkpoints" / model)

    def path(self, step: int) -> Path:
        """Return the file of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}.npz"

    def kept(self) -> Kept | None:
        """Read which checkpoints count; None before the first.

        Raises:
            ManifestError: the file that says so is damaged.
        """
        path = self.folder / _POINTER
        if not path.exists():
            return None
        values = atomic.read_json(path, mend=_MEND)
        try:
            kept = Kept(**values)
        except TypeError as error:
            raise ManifestError(f"{path}: damaged: {error}; {_MEND}") from error
        if not all(step is None or isinstance(step, int) for step in values.values()):
            raise ManifestError(f"{path}: damaged: {values}, expected steps; {_MEND}")
        return kept

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to go on from."""
        return not any(self.folder.glob(_PATTERN))

    @property
    def best(self) -> Path:
        """The best checkpoint by validation top-1.

        Raises:
            TrainingError: there is none.
        """
        kept = self.kept()
        if kept is None or kept.best_top1 is None:
            raise TrainingError(f"{self.folder}: no checkpoint; train the run first")
        return self.path(kept.best_top1)

    def save(self, kept: Kept, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of step `kept.latest`, then which count, then delete the others.

        Args:
            kept: which count from now on.
            arrays: names and arrays of any shape and dtype but object.
            state: JSON-able.

        Raises:
            ShardError: the disk refuses; the checkpoints before are whole.
        """
        atomic.make_folder(self.folder)
        save(self.path(kept.latest), arrays, state)
        atomic.write_json(self.folder / _POINTER, asdict(kept))
        self.delete_others()

    def delete_others(self) -> None:
        """Delete what does not count; a process that was killed may have left some."""
        kept = self.kept()
        if kept is None:
            return
        wanted = {self.path(step) for step in kept.steps}
        for path in self.folder.glob(_PATTERN):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def load(self) -> Found | None:
        """Read the checkpoint to go on from: the latest, or else the last that can be read.

        Where the file that says which count is damaged or missing, all that are there count.

        Returns:
            It, or None where there is none.

        Raises:
            TrainingError: there are some, and none can be read.
        """
        kept = self._kept_if_readable()
        if kept:
            steps = kept.steps
        else:
            steps = {int(path.stem.rpartition("-")[2]) for path in self.folder.glob(_PATTERN)}
        reasons = []
        for step in sorted(steps, reverse=True):
            path = self.path(step)
            try:
                arrays, state = _read(path)
            except _BROKEN as error:
                reasons.append(f"{path}: {_reason(error)}")
                continue
            if reasons:
                _logger.warning("%s; going on from step %d", "; ".join(reasons), step)
            is_named = kept is not None and kept.latest == step
            return Found(step, arrays, state, is_named)
        if reasons:
            raise TrainingError(
                f"{'; '.join(reasons)}; no checkpoint is left to go on from: restore one, or "
                "delete the run's folder and train it again"
            )
        return None

    def _kept_if_readable(self) -> Kept | None:
        try:
            kept = self.kept()
        except ManifestError as error:
            _logger.warning("%s; made anew from the checkpoints", error)
            return None
        return kept


def save(path: Path, arrays: Arrays, state: Mapping[str, Any]) -> None:
    """Write a checkpoint durably; the same content gives the same bytes.

    Args:
        path: the .npz file; replaced when it exists.
        arrays: names and arrays of any shape and dtype but object; taken one by one, so that only
            one has to be in memory beside the model.
        state: JSON-able.
    """
    # What np.savez writes, but one by one; the state last, which says how many there are.
    with atomic.atomic_file(path) as file, ZipFile(cast(IO[bytes], file), "w") as archive:
        number = 0
        for name, array in arrays:
            _write_member(archive, name, array)
            number += 1
        values = {**state, _NUM_ARRAYS: number}
        text = json.dumps(values, sort_keys=True, allow_nan=False).encode()
        _write_member(archive, _STATE, np.frombuffer(text, np.uint8))


def _write_member(archive: ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(name + _SUFFIX, "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a checkpoint.

    Returns:
        Arrays by name, and the state.

    Raises:
        TrainingError: it is missing or damaged.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such checkpoint; train the run first") from None
    except _BROKEN as error:
        raise TrainingError(
            f"{path}: {_reason(error)}; restore it, or delete the run's folder and train it again"
        ) from error


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read and check a whole file; a damaged one raises one of `_BROKEN`."""
    arrays = {}
    with ZipFile(path) as archive:
        changed = archive.testzip()  # compares checksums, which reading an array alone may not
        if changed:
            raise ValueError(f"{changed} is not what was written")
        for name in archive.namelist():
            with archive.open(name) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            arrays[name.removesuffix(_SUFFIX)] = array
    state = json.loads(arrays.pop(_STATE).tobytes())
    expected = state.pop(_NUM_ARRAYS)
    if len(arrays) != expected:
        raise ValueError(f"{len(arrays)} arrays, expected {expected}")
    return arrays, state


def _reason(error: Exception) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else f"damaged: {error}"


def sha256(path: Path) -> str:
    """Return the hash of a checkpoint's bytes, hexadecimal.

    Raises:
        TrainingError: it is missing or cannot be read.
    """
    try:
        found = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        return found.hexdigest()
    except OSError as error:
        raise TrainingError(
            f"{path}: no such checkpoint ({error.strerror}); train that run again"
        ) from error
