"""What things were made from: hashed, compared key by key in words, sealed against damage."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError

_SHA256 = re.compile("[0-9a-f]{64}")


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


def seal(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Add a checksum, by which a file that was damaged or edited by hand is told."""
    return {**value, f"{what}_sha256": digest(value)}


def unseal(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Take the checksum away again; files of the first release have none.

    Raises:
        ValueError: it is not that of the rest, or this is no JSON object.
    """
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    rest = dict(value)
    if rest.pop(f"{what}_sha256", None) not in (None, digest(rest)):
        raise ValueError(f"its {what}_sha256 is not that of its content")
    return rest


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
