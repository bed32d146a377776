"""Judging the scores of ImageNet's size: how long it takes, and that memory does not grow.

The scores are made up; the networks that would give them are not part of it.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import report
from benchmarks.evaluation_scores import Size, judge, read_once

_MINUTE_S = 60.0


def main() -> None:
    """Measure and publish."""
    parser = report.parser("evaluation", "Judge made-up scores.", repetitions=3)
    parser.add_argument("--images", type=report.positive, default=50_000, help="of the set")
    parser.add_argument("--branches", type=report.positive, default=11, help="of the topology")
    parser.add_argument("--classes", type=report.positive, default=1_000, help="of the set")
    arguments = parser.parse_args()
    size = Size(arguments.images, arguments.branches, arguments.classes)
    measures = {"judged": lambda: judge(size), "read": lambda: read_once(size)}
    found = report.take_turns(measures, arguments.repetitions)
    what = f"judge {size.images:,} images, {size.branches} branches, {size.classes:,} classes"
    rows = [
        report.compare(
            what,
            "s",
            found["judged"],
            [_MINUTE_S] * arguments.repetitions,
            "a minute",
            "under 1",
        ),
        report.compare(
            what,
            "s",
            found["judged"],
            found["read"],
            "looking at every score once, for the highest",
            "as low as it gets",
        ),
        _memory(size, arguments.repetitions),
    ]
    report.publish("evaluation", arguments, rows)


def _memory(size: Size, repetitions: int) -> report.Row:
    """Compare the peak of a process that judges all with one that judges a quarter."""
    quarter = Size(max(1, size.images // 4), size.branches, size.classes)
    measures = {"all": lambda: _peak_mb(size), "quarter": lambda: _peak_mb(quarter)}
    found = report.take_turns(measures, repetitions)
    return report.compare(
        f"peak memory of that, {size.images:,} images",
        "MB",
        found["all"],
        found["quarter"],
        f"at {quarter.images:,} images",
        "at most 1.25",
    )


def _peak_mb(size: Size) -> float:
    command = [sys.executable, "-m", "benchmarks.evaluation_scores"]
    arguments = [str(size.images), str(size.branches), str(size.classes)]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    return float(result.stdout)


if __name__ == "__main__":
    main()
