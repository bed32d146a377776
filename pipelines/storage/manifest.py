"""What a stage's folder holds: plan before the work, a receipt a shard, manifest at the end.

    plan.json               what is made from what (fingerprint), and the shards as row ranges
    receipts/<shard>.json   proof that the shard is whole: rows, bytes, SHA-256
    manifest.json           plan and receipts together, once every shard is there

Receipts are the truth: what is left to do is the plan minus the receipts that hold. None of these
files holds a time, a host or a process number: the same inputs give the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic

PLAN, MANIFEST, RECEIPTS = "plan.json", "manifest.json", "receipts"
_SHA256 = re.compile("[0-9a-f]{64}")


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
    """

    shard: str
    num_rows: int
    size_bytes: int
    sha256: str
    quarantined: tuple[tuple[str, str], ...] = ()
    stats: Mapping[str, int] = dataclasses.field(default_factory=dict)


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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Build a plan from `to_json`'s values."""
        return cls(
            value["kind"],
            value["format_version"],
            value["fingerprint"],
            value["details"],
            tuple(Task(**task) for task in value["shards"]),
        )


class ShardFolder:
    """The folder of one stage's output: its plan, receipts and shards."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_plan(self, kind: str, newest_version: int) -> Plan | None:
        """Return the published plan, None where there is none.

        Raises:
            ManifestError: another kind of folder, or a newer format than this version reads.
        """
        path = self.path / PLAN
        if not path.exists():
            return None
        value = atomic.read_json(path)
        if not isinstance(value, dict) or value.get("kind") != kind:
            raise ManifestError(f"{path}: no plan of {kind}; choose another folder")
        try:
            if value["format_version"] > newest_version:
                raise ManifestError(
                    f"{path}: format version {value['format_version']}, this program reads up to "
                    f"{newest_version}; update it"
                )
            return Plan.from_json(value)
        except (KeyError, TypeError) as error:
            raise ManifestError(
                f"{path}: damaged: {error!r}; start over with --overwrite"
            ) from error

    def publish(self, plan: Plan) -> None:
        """Write plan.json, before any shard; receipts of a plan that is gone prove nothing."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        if (self.path / RECEIPTS).is_dir():
            shutil.rmtree(self.path / RECEIPTS)
        atomic.make_folder(self.path / RECEIPTS)
        atomic.write_json(self.path / PLAN, plan.to_json())

    def clear(self) -> None:
        """Delete everything a stage made here, and nothing else that lies beside it.

        The plan goes after the receipts: killed in between, a plan of other settings would find
        receipts of shards with the same names that seem to hold.
        """
        (self.path / MANIFEST).unlink(missing_ok=True)
        if (self.path / RECEIPTS).is_dir():
            shutil.rmtree(self.path / RECEIPTS)
        (self.path / PLAN).unlink(missing_ok=True)
        for pattern in ("*.parquet", "quarantine.csv"):
            for path in self.path.glob(pattern):
                path.unlink()

    def sweep(self) -> None:
        """Delete what killed attempts left behind."""
        atomic.sweep(self.path)
        if (self.path / RECEIPTS).is_dir():
            atomic.sweep(self.path / RECEIPTS)

    def receipts(self, plan: Plan) -> dict[str, Receipt]:
        """Return the receipts that hold: the shard is there and has the size that was written."""
        found = {}
        for task in plan.tasks:
            receipt = self._read_receipt(task.shard)
            if receipt is not None:
                found[task.shard] = receipt
        return found

    def commit(self, receipt: Receipt) -> None:
        """Write the receipt of a shard that is durably there."""
        value = dataclasses.asdict(receipt)
        atomic.write_json(self.path / RECEIPTS / f"{receipt.shard}.json", value)

    def finish(self, plan: Plan, receipts: Mapping[str, Receipt]) -> None:
        """Write manifest.json: the set is whole."""
        shards = [
            {**dataclasses.asdict(task), **dataclasses.asdict(receipts[task.shard])}
            for task in plan.tasks
        ]
        value = {**plan.to_json(), "shards": shards}
        atomic.update_bytes(self.path / MANIFEST, atomic.to_json(value))

    def read_manifest(
        self, kind: str, newest_version: int, made_by: str
    ) -> tuple[Plan, list[Receipt]]:
        """Return plan and receipts of a whole set, each shard checked for presence and size.

        Args:
            kind: the plan's kind.
            newest_version: the newest format version this program reads.
            made_by: the command that makes this folder, for messages.

        Raises:
            ManifestError: there is no whole set.
            ShardError: a shard is missing or has another size.
        """
        plan = self.read_plan(kind, newest_version)
        if plan is None:
            raise ManifestError(f"{self.path}: nothing here yet; run `{made_by}` first")
        path = self.path / MANIFEST
        if not path.exists():
            raise ManifestError(f"{self.path}: not finished; run `{made_by}` again, it goes on")
        names = {field.name for field in dataclasses.fields(Receipt)}
        try:
            receipts = [
                _to_receipt({key: value for key, value in entry.items() if key in names})
                for entry in atomic.read_json(path)["shards"]
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}: damaged: {error!r}; delete it and run `{made_by}` again"
            ) from error
        for receipt in receipts:
            self._check_size(receipt, made_by)
        return plan, receipts

    def _check_size(self, receipt: Receipt, made_by: str) -> None:
        path = self.path / receipt.shard
        size_bytes = path.stat().st_size if path.is_file() else None
        if size_bytes != receipt.size_bytes:
            found = "missing" if size_bytes is None else f"{size_bytes} bytes"
            raise ShardError(
                f"{path}: {found}, its receipt says {receipt.size_bytes} bytes; "
                f"run `{made_by}` again, it makes what is missing"
            )

    def _read_receipt(self, shard: str) -> Receipt | None:
        try:
            text = (self.path / RECEIPTS / f"{shard}.json").read_text(encoding="utf-8")
            receipt = _to_receipt(json.loads(text))
            size_bytes = (self.path / shard).stat().st_size
        except (OSError, ValueError, TypeError, KeyError):  # a receipt that is damaged is none
            return None
        return receipt if size_bytes == receipt.size_bytes else None


def check_same(made: Mapping[str, Any], asked: Mapping[str, Any], path: Path, mend: str) -> None:
    """Compare the fingerprint of what is there with the one asked for.

    Args:
        made: the fingerprint on disk.
        asked: the fingerprint of this start.
        path: where, for the message.
        mend: what the user can do, for the message.

    Raises:
        ManifestError: they differ; names each difference in words.
    """
    differences = list(_differences(made, json.loads(json.dumps(asked)), ""))
    if differences:
        more = f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise ManifestError(f"{path}: made with {'; '.join(differences[:4])}{more}; {mend}")


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON-able value, hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


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


def _to_receipt(value: dict[str, Any]) -> Receipt:
    pairs = tuple((str(name), str(reason)) for name, reason in value["quarantined"])
    return Receipt(**{**value, "quarantined": pairs})


def _differences(made: Any, asked: Any, name: str) -> Iterator[str]:
    if isinstance(made, Mapping) and isinstance(asked, Mapping):
        for key in sorted({*made, *asked}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(made.get(key), asked.get(key), inner)
    elif made != asked:
        yield f"{name} {_short(made)}, now {_short(asked)}"


def _short(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if _SHA256.fullmatch(text):
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "..."
