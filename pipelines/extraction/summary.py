"""What a summary says of a cache."""

from __future__ import annotations

from typing import Any

from pipelines.execution.tasks import Output
from pipelines.storage.layout import Layout


def size_bytes(output: Output) -> int:
    """Return what the shards that are there take on disk."""
    return sum(receipt.size_bytes for receipt in output.receipts.values())


def of_cache(output: Output) -> dict[str, Any]:
    """Return density, encoding, reason, dtype, format, size_bytes, num_branches, shape and more.

    `clipped_share` is there for uint8 alone, `cut_check` where one was made; None else.
    """
    details = output.plan.details
    layout = Layout.from_json(details, output.plan.format_version)
    receipts = output.receipts.values()
    num_values = sum(receipt.stats["num_values"] for receipt in receipts)
    clipped = sum(receipt.stats.get("num_clipped", 0) for receipt in receipts)
    is_uint8 = layout.dtype == "uint8"
    return {
        "density": round(sum(r.stats["nnz"] for r in receipts) / max(1, num_values), 6),
        "encoding": layout.encoding,
        "reason": details.get("probe", {}).get("reason"),
        "dtype": layout.dtype,
        "format": layout.format,
        "size_bytes": size_bytes(output),
        "num_branches": len(layout.branches),
        "shape": list(layout.shape),
        "clipped_share": round(clipped / max(1, num_values), 9) if is_uint8 else None,
        "cut_check": output.folder.read_cut_check(),
    }
