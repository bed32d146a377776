"""history.jsonl: a line per evaluation, cut back to the checkpoint when a run goes on.

The models of a run are trained one after the other, so each has its lines in one stretch. What a
clock says is in timings.jsonl, which is never cut: the same run gives the same history every time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic

TIMINGS = "timings.jsonl"
_logger = logging.getLogger(__name__)


class History:
    """The evaluations of a run, and the same numbers for TensorBoard."""

    def __init__(self, path: Path, tensorboard_dir: Path) -> None:
        """Open a history.

        Args:
            path: history.jsonl; made when missing.
            tensorboard_dir: made anew from the history, so that a resumed run has no line twice.

        Raises:
            ManifestError: there is something else in it, or it cannot be read.
        """
        self._path = path
        self._tensorboard_dir = tensorboard_dir
        self._writers: dict[str, Any] = {}
        self._has_tensorboard = True
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}: cannot be read: {error}; {self._mend}") from error
        # What a kill cut short has no end of line.
        self._lines = [(line, self._read(line)) for line in text.split("\n")[:-1]]

    def _read(self, line: str) -> dict[str, Any]:
        try:
            value = json.loads(line)
            if value["model"]:
                return dict(value)
        except (KeyError, TypeError, ValueError):
            pass
        raise ManifestError(f"{self._path}: damaged: {line[:60]!r} is no evaluation; {self._mend}")

    @property
    def _mend(self) -> str:
        return f"restore it, or delete {self._path.parent} and train it again"

    def cut(self, model: str, length: int) -> None:
        """Drop a model's lines behind its first `length`, which the replayed steps write again.

        Raises:
            ManifestError: there are fewer, so some have been lost.
            ShardError: the disk refuses.
        """
        num_found = sum(evaluation["model"] == model for _, evaluation in self._lines)
        if num_found < length:
            raise ManifestError(
                f"{self._path}: damaged: {num_found} evaluations of {model}, expected {length} or "
                f"more; {self._mend}"
            )
        kept = []
        for line, evaluation in self._lines:
            if evaluation["model"] == model:
                length -= 1
                if length < 0:
                    continue
            kept.append((line, evaluation))
        self._lines = kept
        atomic.write_bytes(self._path, "".join(f"{line}\n" for line, _ in kept).encode())
        self.close()
        shutil.rmtree(self._tensorboard_dir, ignore_errors=True)
        for _, evaluation in kept:
            self._to_tensorboard(evaluation)

    def append(self, evaluation: dict[str, Any]) -> None:
        """Write one evaluation durably."""
        line = json.dumps(evaluation, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ShardError(
                f"{self._path}: cannot be written: {error.strerror}; mend that and run again: "
                "the last checkpoint is kept"
            ) from error
        self._lines.append((line, evaluation))
        self._to_tensorboard(evaluation)

    def note(self, timing: dict[str, Any]) -> None:
        """Write a line of timings.jsonl, if the disk lets it."""
        with contextlib.suppress(OSError), self._path.with_name(TIMINGS).open("a") as file:
            file.write(json.dumps(timing, allow_nan=False) + "\n")

    def close(self) -> None:
        """Flush and close the TensorBoard files."""
        writers, self._writers = self._writers, {}
        with self._without_tensorboard_if_refused():
            for writer in writers.values():
                writer.close()

    def _to_tensorboard(self, evaluation: dict[str, Any]) -> None:
        import tensorflow as tf

        model = evaluation["model"]
        # What tf.summary.scalar writes, without the tensorboard package that it asks for.
        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)
        with self._without_tensorboard_if_refused():
            if not self._has_tensorboard:
                return
            if model not in self._writers:
                folder = str(self._tensorboard_dir / model)
                self._writers[model] = tf.summary.create_file_writer(folder)
            with self._writers[model].as_default(step=evaluation["step"]):
                for name, value in evaluation.items():
                    if name not in ("model", "step") and value is not None:
                        tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)
            self._writers[model].flush()

    @contextlib.contextmanager
    def _without_tensorboard_if_refused(self) -> Iterator[None]:
        """Go on without these files where the disk refuses them: the next start makes them anew."""
        import tensorflow as tf

        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self._has_tensorboard = False
            _logger.warning("%s: no more is written: %s", self._tensorboard_dir, error)
