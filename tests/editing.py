"""Receipts and manifests changed behind the program's back, as a determined hand would do it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.storage.fingerprint import digest


def edit(path: Path, change: Callable[[Any], object], *, is_sealed: bool = True) -> None:
    """Change the content of a JSON file in place.

    Args:
        path: the file.
        change: changes the value.
        is_sealed: make the checksum of a plan or manifest fit again, never a receipt's.
    """
    value = json.loads(path.read_text("utf-8"))
    change(value)
    if is_sealed and f"{path.stem}_sha256" in value:
        reseal(value, path.stem)
    path.write_text(json.dumps(value), "utf-8")


def reseal(value: Any, what: str) -> None:
    """Make the checksum of a plan, receipt or manifest fit again."""
    del value[f"{what}_sha256"]
    value[f"{what}_sha256"] = digest(value)


def replace(path: Path, old: str, new: str) -> None:
    """Replace text in a plan or manifest."""
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    edit(path, lambda value: None)


def receipt_of(shard: Path) -> Path:
    return shard.parent / "receipts" / f"{shard.name}.json"


def vouch_for(shard: Path, **claims: Any) -> None:
    """Make receipt and manifest fit a shard as it lies there, checksums and all.

    Args:
        shard: the file.
        claims: more that they say of it now.
    """
    content = shard.read_bytes()
    said = {
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **claims,
    }

    def change_receipt(value: Any) -> None:
        value.update(said)
        reseal(value, "receipt")

    def change_manifest(value: Any) -> None:
        next(entry for entry in value["shards"] if entry["shard"] == shard.name).update(said)

    edit(receipt_of(shard), change_receipt)
    edit(shard.parent / "manifest.json", change_manifest)


def footer_sha256(content: bytes) -> str:
    """Hash the footer of a Parquet file: metadata, their length, the magic number."""
    size_bytes = int.from_bytes(content[-8:-4], "little") + 8
    return hashlib.sha256(content[-size_bytes:]).hexdigest()
