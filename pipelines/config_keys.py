"""How a key of bottleneck.toml is described, and the keys that several tables have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def key(default: Any, help_text: str, allowed: str, **extra: Any) -> Any:
    """Make a key of a table.

    Args:
        default: its value where it is not set.
        help_text: one sentence, for the file and for the flag.
        allowed: which values are.
        extra: `metavar` of the flag, `repeat` where it may be given again.
    """
    schema = {"allowed": allowed, **extra}
    return Field(default, validate_default=True, description=help_text, json_schema_extra=schema)


TASK_INDEX: Any = key(
    0,
    "Which share of the shards to make, counted from 0; for array jobs with --num-tasks.",
    "0 or more, below num_tasks",
)
NUM_TASKS: Any = key(
    1, "Number of shares; each is one start of the command, on any machine.", "1 or more"
)
HANG_TIMEOUT: Any = key(
    600,
    "Seconds without a sign of life after which a worker is ended and its shard given to "
    "another; 0 for never.",
    "0 or more",
)
FEATURES_DIR: Any = key(
    "", "The folder of the caches; without it, the one of [extract].", "a path", metavar="DIR"
)


class Table(BaseModel):
    """One table of bottleneck.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def beneath(cls, values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the file still counts beside the flags that were given."""
        del flags
        return dict(values)
