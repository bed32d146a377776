"""history.jsonl: a line per evaluation, cut back to the checkpoint when a run goes on.

The models of a run are trained one after the other, so each has its lines in one stretch.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pipelines.errors import ShardError
from pipelines.storage import atomic


class History:
    """The evaluations of a run, and the same numbers for TensorBoard."""

    def __init__(self, path: Path, tensorboard_dir: Path) -> None:
        """Open a history.

        Args:
            path: history.jsonl; made when missing.
            tensorboard_dir: made anew from the history, so that a resumed run has no line twice.
        """
        self._path = path
        self._tensorboard_dir = tensorboard_dir
        self._writers: dict[str, Any] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._lines = text.split("\n")[:-1]  # what a kill cut short has no end of line

    def length(self, model: str) -> int:
        """Return how many evaluations of a model there are."""
        return sum(json.loads(line)["model"] == model for line in self._lines)

    def cut(self, model: str, length: int) -> None:
        """Drop a model's lines behind its first `length`, which the replayed steps write again."""
        kept = []
        for line in self._lines:
            if json.loads(line)["model"] == model:
                length -= 1
                if length < 0:
                    continue
            kept.append(line)
        self._lines = kept
        atomic.write_bytes(self._path, "".join(f"{line}\n" for line in self._lines).encode())
        self.close()
        shutil.rmtree(self._tensorboard_dir, ignore_errors=True)
        for line in self._lines:
            self._to_tensorboard(json.loads(line))

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
        self._lines.append(line)
        self._to_tensorboard(evaluation)
        self._writers[evaluation["model"]].flush()

    def close(self) -> None:
        """Flush and close the TensorBoard files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _to_tensorboard(self, evaluation: dict[str, Any]) -> None:
        import tensorflow as tf

        model = evaluation["model"]
        if model not in self._writers:
            folder = str(self._tensorboard_dir / model)
            self._writers[model] = tf.summary.create_file_writer(folder)
        # What tf.summary.scalar writes, without the tensorboard package that it asks for.
        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)
        with self._writers[model].as_default(step=evaluation["step"]):
            for name, value in evaluation.items():
                if name not in ("model", "step") and value is not None:
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)
