"""Peak memory of each stage on a small and on a large set: it should hardly grow.

Every stage runs as the real command in a process of its own (`peaks`). Training reads its cache
from the disk (`--cache-memory 0`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import peaks, report
from pipelines.config import TrainTailConfig
from pipelines.execution.threads import num_cores

_STAGES = ("compress", "extract", "train-tail")
_BACKBONE = "efficientnet_lite0"
_TARGET = "at most 1.1"
_BATCH_SIZE = 8  # of extract on a CPU
# Prints, in bytes, what the widest layer reads and writes of one version of an image, and its maps
# at the nodes.
_SIZES = """
import math, sys
from pipelines.networks import backbones, forward, nodes
name, *asked = sys.argv[1:]
model = backbones.load(name, "none").model
found = [nodes.find_node(name, model, node) for node in asked]
front = nodes.front(model, found)
print(forward.working_bytes(front) // 2, sum(4 * math.prod(node.shape) for node in found))
"""


def main() -> None:
    """Measure and publish."""
    parser = report.parser("memory", "Measure the peak memory of the stages.", repetitions=1)
    parser.add_argument(
        "--images",
        type=report.positive,
        nargs=2,
        default=[600, 2400],
        metavar=("SMALL", "LARGE"),
        help="solar cells of the two sets, of 2,624",
    )
    parser.add_argument(
        "--stages", nargs="+", choices=_STAGES, default=list(_STAGES), help="which to report"
    )
    parser.add_argument(
        "--nodes",
        nargs="+",
        default=["avg_pool", "block7a_expand_activation"],
        help="extracted in one pass, then trained from one by one",
    )
    parser.add_argument(
        "--workers",
        type=report.positive,
        default=2,
        help="also compare so many workers of compress and extract with one, on the small set",
    )
    parser.add_argument("--qualities", metavar="QF,QF,...", help="of the variants, else all ten")
    arguments = parser.parse_args()
    if arguments.images[0] >= arguments.images[1]:
        parser.error("--images: the first number must be the smaller one")
    peaks: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(arguments.repetitions):
        for i, num_images in enumerate(arguments.images):
            for name, peak_mb in _run_all(num_images, arguments):
                peaks.setdefault(name, ([], []))[i].append(peak_mb)
    rows = [_row(name, arguments, *peaks[name]) for name in peaks]
    if arguments.workers > 1:
        rows += _rows_of_workers(arguments)
    report.publish("memory", arguments, rows)


def _rows_of_workers(arguments: argparse.Namespace) -> list[report.Row]:
    """Hold several workers against as many times one, and extract's against the stated bound."""
    stages = [stage for stage in ("compress", "extract") if stage in arguments.stages]
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.repetitions):
        for num in (1, arguments.workers):
            for stage, peak_mb in _run_with_workers(num, stages, arguments):
                found.setdefault((stage, num), []).append(peak_mb)
    rows = [
        report.compare(
            f"{stage}, {arguments.workers} workers",
            "MB at most",
            found[stage, arguments.workers],
            [arguments.workers * peak_mb for peak_mb in found[stage, 1]],
            f"{arguments.workers} times one worker with its parent",
            "at most 1",
        )
        for stage in stages
    ]
    for num in (1, arguments.workers) if "extract" in stages else ():
        peaks = found["extract", num]
        stated = [_stated_mb(num, arguments)] * len(peaks)
        name, baseline = f"extract, workers: {num}", "the bound that docs/one-machine.md states"
        rows.append(report.compare(name, "MB at most", peaks, stated, baseline, "at most 1"))
    return rows


def _stated_mb(num_workers: int, arguments: argparse.Namespace) -> float:
    """Compute the bound of docs/one-machine.md."""
    command = [sys.executable, "-c", _SIZES, _BACKBONE, *arguments.nodes]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    num_branches = 1 + len((arguments.qualities or ",,,,,,,,,").split(","))
    versions = _BATCH_SIZE * num_branches
    widest_mb, nodes_mb = (versions * int(size) * 1e-6 for size in result.stdout.split())
    return 250 + num_workers * (900 + 1.5 * widest_mb + 4 * nodes_mb)


def _run_with_workers(
    num_workers: int, stages: Sequence[str], arguments: argparse.Namespace
) -> Iterator[tuple[str, float]]:
    """Compress and extract the small set; give the peaks in MB."""
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        workspace_dir = Path(folder) / "workspace"
        peaks.peak_mb("init", str(workspace_dir), "--images", "elpv")
        for name, stage, flags in _commands(min(arguments.images), arguments):
            if stage not in ("compress", *stages):
                continue
            same = ["-C", str(workspace_dir), *flags, "--workers", str(num_workers)]
            work = ["--threads", "1", "--shards", "12", "--batch-size", str(_BATCH_SIZE)]
            peak_mb = peaks.peak_mb(stage, *same, *(work if stage == "extract" else []))
            if stage in stages:
                yield name, peak_mb


def _row(
    name: str, arguments: argparse.Namespace, small: list[float], large: list[float]
) -> report.Row:
    few, many = arguments.images
    return report.compare(
        f"{name}, {many:,} images", "MB at most", large, small, f"{few:,} images", _TARGET
    )


def _run_all(num_images: int, arguments: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Run the stages up to the last one asked for; give name and peak in MB of those asked."""
    last = max(_STAGES.index(stage) for stage in arguments.stages)
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        workspace_dir = Path(folder) / "workspace"
        peaks.peak_mb("init", str(workspace_dir), "--images", "elpv")
        for name, stage, flags in _commands(num_images, arguments):
            if _STAGES.index(stage) > last:
                return
            peak_mb = peaks.peak_mb(stage, "-C", str(workspace_dir), *flags)
            if stage in arguments.stages:
                yield name, peak_mb


def _commands(
    num_images: int, arguments: argparse.Namespace
) -> Iterator[tuple[str, str, list[str]]]:
    """Give a name, the command and its flags, in the order in which they can run."""
    qualities = ["--qualities", arguments.qualities] if arguments.qualities else []
    # As many processes for the small set as for the large one.
    workers = ["--workers", str(num_cores())]
    yield "compress", "compress", ["--limit", str(num_images), *workers, *qualities]
    named = [flag for node in arguments.nodes for flag in ("--node", node)]
    yield "extract", "extract", ["--backbone", _BACKBONE, *named]
    # As many steps for both, or the large set's peak is higher for having more of them to rise in.
    epochs = round(max(arguments.images) / num_images)
    batch_size = min(TrainTailConfig().batch_size, min(arguments.images) // 2)
    for node in arguments.nodes:
        flags = ["--node", node, "--cache-memory", "0", "--batch-size", str(batch_size)]
        flags += ["--epochs", str(epochs), "--patience", str(epochs)]
        yield f"train-tail {node}", "train-tail", flags


if __name__ == "__main__":
    main()
