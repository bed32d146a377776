"""What a stage's folder holds: plan before the work, a receipt a shard, manifest at the end.

    plan.json               what is made from what (fingerprint), and the shards as row ranges
    receipts/<shard>.json   proof that the plan's shard is whole: rows, bytes, SHA-256
    manifest.json           plan and receipts together, once every shard is there

Receipts are the truth: what is left to do is the plan minus the receipts that hold. None of these
files holds a time, a host or a process number: the same inputs give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic
from pipelines.storage.fingerprint import digest, seal, unseal

PLAN, MANIFEST, RECEIPTS = "plan.json", "manifest.json", "receipts"
CUT_CHECK = "cut-check.json"
_IDENTITY_DIGITS = 16
_PLAN_KEY = "plan"  # in a receipt: the identity of the plan whose shard it is
_MEND_PLAN = "run `bottleneck verify --repair`, or start over with --overwrite"


class ForeignError(ManifestError):
    """A plan that is not this program's: of another kind, or of a newer format."""


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

    @property
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


class ShardFolder:
    """The folder of one stage's output: its plan, receipts and shards."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_plan(self, kind: str, newest_version: int) -> Plan | None:
        """Return the published plan, None where there is none.

        Raises:
            ForeignError: another kind of folder, or a newer format than this version reads.
            ManifestError: the plan is damaged, or is missing though there is a manifest.
        """
        path = self.path / PLAN
        if not path.exists():
            if (self.path / MANIFEST).exists():  # goes before the plan and comes after it
                raise ManifestError(f"{path}: is missing, though {MANIFEST} is there; {_MEND_PLAN}")
            return None
        value = atomic.read_json(path, _MEND_PLAN)
        try:
            value = unseal(value, "plan")
            if value.get("kind") != kind:
                raise ForeignError(f"{path}: no plan of {kind}; choose another folder")
            if value["format_version"] > newest_version:
                raise ForeignError(
                    f"{path}: format version {value['format_version']}, this program reads up to "
                    f"{newest_version}; update it"
                )
            return Plan.from_json(value)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{path}: damaged: {_why(error)}; {_MEND_PLAN}") from error

    def publish(self, plan: Plan) -> None:
        """Write plan.json, before any shard; what a plan that is gone has left proves nothing."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        (self.path / CUT_CHECK).unlink(missing_ok=True)
        if (self.path / RECEIPTS).is_dir():
            shutil.rmtree(self.path / RECEIPTS)
        atomic.make_folder(self.path / RECEIPTS)
        self.restore(plan)

    def restore(self, plan: Plan) -> None:
        """Write plan.json alone, in the place of one that was damaged."""
        atomic.write_json(self.path / PLAN, seal(plan.to_json(), "plan"))

    def withdraw(self) -> None:
        """Delete manifest.json: the set is not to be used as it is."""
        (self.path / MANIFEST).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything a stage made here, and nothing else that lies beside it.

        The plan goes last: killed before, what is left of the old settings still says so, and
        nothing of it is taken for something of others.
        """
        (self.path / MANIFEST).unlink(missing_ok=True)
        if (self.path / RECEIPTS).is_dir():
            shutil.rmtree(self.path / RECEIPTS)
        for pattern in ("*.parquet", "*.tfrecord", "quarantine.csv", CUT_CHECK, PLAN):
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
            receipt, path = self.read_receipt(plan, task.shard), self.path / task.shard
            if receipt and path.is_file() and path.stat().st_size == receipt.size_bytes:
                found[task.shard] = receipt
        return found

    def commit(self, plan: Plan, receipt: Receipt) -> None:
        """Write the receipt of a plan's shard that is durably there."""
        atomic.make_folder(self.path / RECEIPTS)
        path = self.path / RECEIPTS / f"{receipt.shard}.json"
        atomic.write_json(path, seal({**receipt.to_json(), _PLAN_KEY: plan.identity}, "receipt"))

    def write_cut_check(self, value: Mapping[str, Any]) -> None:
        """Write what the check of the cut has found."""
        atomic.write_json(self.path / CUT_CHECK, seal(value, "check"))

    def read_cut_check(self) -> dict[str, Any] | None:
        """Return what the check of the cut has found; one that is damaged, or edited, is none."""
        try:
            value = json.loads((self.path / CUT_CHECK).read_text(encoding="utf-8"))
            return unseal(value, "check") if "check_sha256" in value else None
        except (OSError, TypeError, ValueError):
            return None

    def finish(self, plan: Plan, receipts: Mapping[str, Receipt]) -> None:
        """Write manifest.json: the set is whole."""
        shards = [
            {**dataclasses.asdict(task), **receipts[task.shard].to_json()} for task in plan.tasks
        ]
        value = seal({**plan.to_json(), "shards": shards}, "manifest")
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
        if not (self.path / MANIFEST).exists():
            raise ManifestError(f"{self.path}: not finished; run `{made_by}` again, it goes on")
        listed, receipts = self.parse_manifest()
        if listed != plan:
            raise ManifestError(
                f"{self.path / MANIFEST}: holds another plan than {PLAN}; "
                f"run `bottleneck verify --repair`, then `{made_by}` again"
            )
        for receipt in receipts:
            self._check_size(receipt, made_by)
        return plan, receipts

    def is_finished(self, plan: Plan) -> bool:
        """Tell whether there is a manifest of this plan; a damaged one is written again."""
        try:
            return (self.path / MANIFEST).exists() and self.parse_manifest()[0] == plan
        except ManifestError:
            return False

    def parse_manifest(self) -> tuple[Plan, list[Receipt]]:
        """Return what manifest.json says, whatever lies beside it.

        Raises:
            ManifestError: it is damaged.
        """
        path = self.path / MANIFEST
        value = atomic.read_json(path)
        try:
            value = unseal(value, "manifest")
            return Plan.from_json(value), [_to_receipt(entry) for entry in value["shards"]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}: damaged: {_why(error)}; delete it and run the stage again"
            ) from error

    def _check_size(self, receipt: Receipt, made_by: str) -> None:
        path = self.path / receipt.shard
        size_bytes = path.stat().st_size if path.is_file() else None
        if size_bytes != receipt.size_bytes:
            found = "missing" if size_bytes is None else f"{size_bytes} bytes"
            raise ShardError(
                f"{path}: {found}, its receipt says {receipt.size_bytes} bytes; "
                f"run `{made_by}` again, it makes what is missing"
            )

    def read_receipt(self, plan: Plan, shard: str) -> Receipt | None:
        """Return a shard's receipt; one that is damaged, edited or of another plan is none."""
        try:
            text = (self.path / RECEIPTS / f"{shard}.json").read_text(encoding="utf-8")
            value = unseal(json.loads(text), "receipt")
            # The first release did not write whose it is.
            is_of_plan = value.get(_PLAN_KEY, plan.identity) == plan.identity
            receipt = _to_receipt(value)
        except (AttributeError, OSError, ValueError, TypeError, KeyError):
            return None
        return receipt if is_of_plan and receipt.shard == shard else None


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


def _why(error: Exception) -> str:
    """Say what was wrong: our own words, or which key or type."""
    return str(error) if isinstance(error, ValueError) else repr(error)


def _to_task(value: Mapping[str, Any]) -> Task:
    task = Task(**_only(Task, value))
    if Path(task.shard).name != task.shard:
        raise ValueError(f"shard {task.shard} lies in another folder")
    return task


def _only(kind: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a dataclass has a field for."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {key: item for key, item in value.items() if key in names}


def _to_receipt(value: dict[str, Any]) -> Receipt:
    pairs = tuple((str(name), str(reason)) for name, reason in value["quarantined"])
    return Receipt(**{**_only(Receipt, value), "quarantined": pairs})
