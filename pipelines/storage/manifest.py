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
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError, ShardError
from pipelines.storage import atomic
from pipelines.storage.fingerprint import seal, unseal
from pipelines.storage.plan import Plan, Receipt

PLAN, MANIFEST, RECEIPTS = "plan.json", "manifest.json", "receipts"
CUT_CHECK, QUARANTINE = "cut-check.json", "quarantine.csv"
_PLAN_KEY = "plan"  # in a receipt: the identity of the plan whose shard it is
_MEND_PLAN = "run `bottleneck verify --repair`, or start over with --overwrite"


class ForeignError(ManifestError):
    """A plan that is not this program's: of another kind, or of a newer format."""


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
        for pattern in ("*.parquet", "*.tfrecord", QUARANTINE, CUT_CHECK, PLAN):
            for path in self.path.glob(pattern):
                path.unlink()

    def sweep(self, shards: Collection[str] | None = None) -> None:
        """Delete what killed attempts left behind.

        Args:
            shards: only of these and their receipts; None for everything, where nobody else works.
        """
        atomic.sweep(self.path, shards)
        if (self.path / RECEIPTS).is_dir():
            atomic.sweep(self.path / RECEIPTS, shards and {f"{shard}.json" for shard in shards})

    def sweep_common(self) -> None:
        """Delete what attempts at the files that all shares have in common left behind."""
        atomic.sweep(self.path, (PLAN, MANIFEST, CUT_CHECK, QUARANTINE))

    def receipts(self, plan: Plan) -> dict[str, Receipt]:
        """Return the receipts that hold: the shard is there and has the size that was written."""
        held = ((task.shard, self.held_receipt(plan, task.shard)) for task in plan.tasks)
        return {shard: receipt for shard, receipt in held if receipt}

    def held_receipt(self, plan: Plan, shard: str) -> Receipt | None:
        """Return the shard's receipt if it holds."""
        receipt = self.read_receipt(plan, shard)
        return receipt if receipt and self.size_of(shard) == receipt.size_bytes else None

    def size_of(self, shard: str) -> int | None:
        """Return a shard's size in bytes, None where it is missing."""
        path = self.path / shard
        return path.stat().st_size if path.is_file() else None

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
            return Plan.from_json(value), [Receipt.from_json(entry) for entry in value["shards"]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}: damaged: {_why(error)}; delete it and run the stage again"
            ) from error

    def _check_size(self, receipt: Receipt, made_by: str) -> None:
        size_bytes = self.size_of(receipt.shard)
        if size_bytes != receipt.size_bytes:
            found = "missing" if size_bytes is None else f"{size_bytes} bytes"
            raise ShardError(
                f"{self.path / receipt.shard}: {found}, its receipt says "
                f"{receipt.size_bytes} bytes; run `{made_by}` again, it makes what is missing"
            )

    def read_receipt(self, plan: Plan, shard: str) -> Receipt | None:
        """Return a shard's receipt; one that is damaged, edited or of another plan is none."""
        try:
            text = (self.path / RECEIPTS / f"{shard}.json").read_text(encoding="utf-8")
            value = unseal(json.loads(text), "receipt")
            # The first release did not write whose it is.
            is_of_plan = value.get(_PLAN_KEY, plan.identity) == plan.identity
            receipt = Receipt.from_json(value)
        except (AttributeError, OSError, ValueError, TypeError, KeyError):
            return None
        return receipt if is_of_plan and receipt.shard == shard else None


def _why(error: Exception) -> str:
    """Say what was wrong: our own words, or which key or type."""
    return str(error) if isinstance(error, ValueError) else repr(error)
