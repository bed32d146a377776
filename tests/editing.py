"""Receipts and manifests changed behind the program's back, as a determined hand would do it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.storage.fingerprint import digest


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


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
        value.pop("receipt_sha256")
        value["receipt_sha256"] = digest(value)

    def change_manifest(value: Any) -> None:
        next(entry for entry in value["shards"] if entry["shard"] == shard.name).update(said)

    edit(receipt_of(shard), change_receipt)
    edit(shard.parent / "manifest.json", change_manifest)


def footer_sha256(content: bytes) -> str:
    """Hash the footer of a Parquet file: metadata, their length, the magic number."""
    size_bytes = int.from_bytes(content[-8:-4], "little") + 8
    return hashlib.sha256(content[-size_bytes:]).hexdigest()
