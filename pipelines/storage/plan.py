"""What a stage is going to make: shards as row ranges, and the receipt that proves one whole."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.storage.fingerprint import digest

_IDENTITY_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to make: rows `start` to `stop` of a split, in the order of the plan."""

    shard: str
    split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Proof that a shard is whole.

    Attributes:
        shard: file name.
        num_rows: rows in it; fewer than the task's where images were quarantined.
        size_bytes: the file's size.
        sha256: of the file's bytes, hexadecimal.
        quarantined: (id, reason) of each image that was left out.
        stats: counts that the stage sums up in its summary.
        footer_sha256: of the end of a file that has no checksum of its own, where there is one.
    """

    shard: str
    num_rows: int
    size_bytes: int
    sha256: str
    quarantined: tuple[tuple[str, str], ...] = ()
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    footer_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the receipt as JSON-able values, without what it has not."""
        value = dataclasses.asdict(self)
        return {key: item for key, item in value.items() if item is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Receipt:
        """Build a receipt from `to_json`'s values, whatever else is among them."""
        pairs = tuple((str(name), str(reason)) for name, reason in value["quarantined"])
        return cls(**{**_only(cls, value), "quarantined": pairs})


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a stage is going to make.

    Attributes:
        kind: "variants" or "features".
        format_version: of the shards' layout.
        fingerprint: what the shards are made from; compared key by key on every start.
        details: what follows from the fingerprint and is published for readers.
        tasks: the shards.
    """

    kind: str
    format_version: int
    fingerprint: Mapping[str, Any]
    details: Mapping[str, Any]
    tasks: tuple[Task, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return {
            "kind": self.kind,
            "format_version": self.format_version,
            "fingerprint": self.fingerprint,
            "details": self.details,
            "shards": [dataclasses.asdict(task) for task in self.tasks],
        }

    @functools.cached_property
    def identity(self) -> str:
        """A few digits that no plan of another content has; shards hold them."""
        return digest(self.to_json())[:_IDENTITY_DIGITS]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Build a plan from `to_json`'s values.

        Raises:
            ValueError: a shard does not lie in the plan's folder.
        """
        return cls(
            value["kind"],
            value["format_version"],
            value["fingerprint"],
            value["details"],
            tuple(_to_task(task) for task in value["shards"]),
        )


def split_into_tasks(num_rows: Mapping[str, int], num_shards: int, suffix: str) -> tuple[Task, ...]:
    """Cut the rows of each split into shards of nearly the same size; none crosses a split.

    Args:
        num_rows: rows of each split, in order; splits without rows get no shard.
        num_shards: wanted in all; at least one a split, at most one a row.
        suffix: the files' extension, without dot.
    """
    rows = {split: count for split, count in num_rows.items() if count}
    shares = dict.fromkeys(rows, 1)
    while sum(shares.values()) < min(num_shards, sum(rows.values())):
        shares[max(rows, key=lambda s: rows[s] / shares[s] if shares[s] < rows[s] else 0)] += 1
    tasks = []
    for split, count in rows.items():
        of = shares[split]
        for i in range(of):
            name = f"{split}-{i:05d}-of-{of:05d}.{suffix}"
            tasks.append(Task(name, split, count * i // of, count * (i + 1) // of))
    return tuple(tasks)


def _to_task(value: Mapping[str, Any]) -> Task:
    task = Task(**_only(Task, value))
    if Path(task.shard).name != task.shard:
        raise ValueError(f"shard {task.shard} lies in another folder")
    return task


def _only(kind: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a dataclass has a field for."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {key: item for key, item in value.items() if key in names}
