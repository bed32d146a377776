"""The training split of a cache, and the ways to read its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shards import BRANCHES

from pipelines.storage.batches import FeatureReader
from pipelines.storage.cache import FeatureCache

HOW = pytest.mark.parametrize("how", ["epoch", "in_order", "sparse_epoch", "sparse_in_order"])
BUDGETS = pytest.mark.parametrize("budget_bytes", [0, 1 << 30], ids=["streamed", "resident"])


def open_split(folder: Path, budget_bytes: int = 0, branches=BRANCHES) -> FeatureReader:
    return FeatureCache(folder).split("train", branches, budget_bytes)


def take(reader: FeatureReader, how: str, batch_size: int) -> Any:
    """Begin to read in one of four ways."""
    arguments = (batch_size, 0, 0) if how.endswith("epoch") else (batch_size,)
    return getattr(reader, how)(*arguments)
