"""The combinations of a sweep: "learning_rate=0.1,0.03" and "fusion=concat,mean" are four."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pipelines.errors import ConfigError

# What may differ between heads that take the same batches at the same steps.
SWEPT = (
    *("learning_rate", "fusion", "head_init", "schedule", "warmup", "cuts", "momentum"),
    *("weight_decay", "label_smoothing", "patience"),
)
MAX_HEADS = 100


def combinations(sweeps: Sequence[str]) -> list[dict[str, str]]:
    """List what each head is to be trained with, the last key changing fastest.

    Args:
        sweeps: a key and its values each, such as "learning_rate=0.1,0.03".

    Returns:
        For each combination its values by key, as text.

    Raises:
        ConfigError: a key cannot be swept, or or a value stands twice; or too many.
    """
    values: dict[str, list[str]] = {}
    for sweep in sweeps:
        name, _, text = sweep.partition("=")
        key = name.strip().replace("-", "_")
        if key not in SWEPT:
            raise ConfigError(
                f"sweep {sweep}: heads side by side cannot differ in {key}; choose from "
                f"{', '.join(SWEPT)}",
                is_usage=True,
            )
        listed = [value.strip() for value in text.split(",")]
        if key in values or len(set(listed)) < len(listed) or not all(listed):
            raise ConfigError(
                f"sweep {sweep}: give each key once, with each value once", is_usage=True
            )
        values[key] = listed
    found = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    if len(found) > MAX_HEADS:
        raise ConfigError(
            f"sweep: {len(found)} combinations, at most {MAX_HEADS} go side by side; "
            "leave out some values",
            is_usage=True,
        )
    return found
