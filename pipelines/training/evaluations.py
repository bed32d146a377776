"""The evaluations of a run, read back from history.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from pipelines.analysis.curves import Point
from pipelines.errors import ManifestError

MODELS = ("topology", "default")
_KEYS = tuple(field.name for field in fields(Point))


def read(path: Path) -> dict[str, Sequence[Point]]:
    """Read what a history says of "topology" and of "default", also while it is written.

    Args:
        path: history.jsonl, which may not be there yet.

    Returns:
        The evaluations of each model in their order; none where there are none.

    Raises:
        ManifestError: it cannot be read, or holds something else.
    """
    found: dict[str, list[Point]] = {model: [] for model in MODELS}
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.split("\n")[:-1]:  # what is being written has no end of line yet
            value = json.loads(line)
            found[value["model"]].append(Point(**{key: value[key] for key in _KEYS}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path}: damaged: {error!r}; delete the run's folder and train it again"
        ) from error
    return dict(found)
