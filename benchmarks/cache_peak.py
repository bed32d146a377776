"""Read an epoch of a share of a cache and print the process's peak memory in MB (for `cache`)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pipelines.storage.cache import FeatureCache


def main() -> None:
    """Read and print."""
    cache, share = FeatureCache(Path(sys.argv[1])), float(sys.argv[2])
    num_rows = int(share * cache.num_rows("train"))
    for _ in cache.reader("train", rows=np.arange(num_rows)).epoch(16, seed=0, epoch=0):
        pass
    # Not getrusage: its peak begins with what the parent held when it forked.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak_kb,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(int(peak_kb) * 1.024 / 1000)


if __name__ == "__main__":
    main()
