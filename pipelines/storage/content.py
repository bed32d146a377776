"""Which images a set of variants holds, as one digest, whatever shards they are cut into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from pipelines.storage.plan import Receipt

_MODULUS = 2**256
KEY = "images_sha256"  # in the stats of a receipt


class ContentSum:
    """The sum of a SHA-256 for each image, modulo 2^256: shards can be added up in any order.

    Images that have been left out leave their number out.
    """

    def __init__(self, split: str) -> None:
        self._split = split
        self._sum = 0

    def add(self, number: int, name: str, label: int, sha256: bytes) -> None:
        """Take in the split's `number`-th image of the plan."""
        place = json.dumps([self._split, number, name, label])
        digest = hashlib.sha256(place.encode() + sha256).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % _MODULUS

    def hexdigest(self) -> str:
        """Return the sum, hexadecimal."""
        return _hex(self._sum)


def digest_of(receipts: Iterable[Receipt]) -> str:
    """Return the digest of all images of a set, hexadecimal.

    Receipts of the first release, which say nothing of it, count with their shard's hash.
    """
    found = (receipt.stats.get(KEY) or receipt.sha256 for receipt in receipts)
    return _hex(sum(int(text, 16) for text in found) % _MODULUS)


def _hex(number: int) -> str:
    return f"{number:064x}"
