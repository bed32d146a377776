"""What all benchmarks share: measuring in turn, rows with a ratio, the table and the JSON file.

A ratio travels from machine to machine, an absolute figure does not: every figure stands beside a
baseline that was measured in the same run, the two by turns, so that a machine that slows down
meanwhile slows both.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.execution.threads import num_cores

# The CPU-only wheel of TensorFlow is a distribution of its own.
_DISTRIBUTIONS = (
    "bottleneck-pipeline",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "numpy",
    "pyarrow",
    "pillow",
    "simplejpeg",
)


@dataclass(frozen=True)
class Row:
    """One figure beside its baseline.

    Attributes:
        name: what was measured.
        unit: of figure and baseline.
        figure: median over the repetitions.
        baseline: median over the repetitions.
        baseline_name: what the baseline is.
        ratio: median of figure over baseline, repetition by repetition.
        ratio_range: lowest and highest of those.
        target: what the ratio should be, in words; never asserted, a machine may be busy.
        details: more figures, by a name that holds their unit.
    """

    name: str
    unit: str
    figure: float
    baseline: float
    baseline_name: str
    ratio: float
    ratio_range: tuple[float, float]
    target: str
    details: Mapping[str, float] = field(default_factory=dict)


def compare(
    name: str,
    unit: str,
    figures: Sequence[float],
    baselines: Sequence[float],
    baseline_name: str,
    target: str,
    details: Mapping[str, float] | None = None,
) -> Row:
    """Make the row of one figure; see `Row` for the arguments.

    Raises:
        ValueError: there is not one baseline for each figure.
    """
    ratios = [figure / baseline for figure, baseline in zip(figures, baselines, strict=True)]
    return Row(
        name,
        unit,
        statistics.median(figures),
        statistics.median(baselines),
        baseline_name,
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        target,
        details or {},
    )


def take_turns(
    measures: Mapping[str, Callable[[], float]], repetitions: int, warm_up: bool = False
) -> dict[str, list[float]]:
    """Measure in turn, A B A B, so that what drifts meets all alike.

    Args:
        measures: by name, functions that return one figure.
        repetitions: rounds.
        warm_up: measure once more at the start and throw that away: the first time reads files
            from the disk and imports modules.

    Returns:
        The figures of each measure, one a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repetitions + warm_up):
        for name, measure in measures.items():
            figures[name].append(measure())
    return {name: values[warm_up:] for name, values in figures.items()}


def parser(module: str, description: str, repetitions: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every benchmark takes.

    Args:
        module: the benchmark's name, as in `python -m benchmarks.<module>`.
        description: its first line of help.
        repetitions: default rounds.
    """
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument(
        "--repetitions", type=positive, default=repetitions, help="rounds of measuring"
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return result


def positive(text: str) -> int:
    """Parse a whole number of 1 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def publish(benchmark: str, arguments: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Print the rows on stdout and write them where `--json` says.

    Args:
        benchmark: its name.
        arguments: as parsed; all but `json` are published as settings.
        rows: what was measured.
    """
    about = machine()
    print(f"{benchmark}: {about['cores']} cores, {about['processor']}")
    for row in rows:
        low, high = row.ratio_range
        print(
            f"  {row.name}: {row.figure:,.4g} {row.unit}\n"
            f"    {row.baseline_name}: {row.baseline:,.4g} {row.unit}\n"
            f"    ratio {row.ratio:.3f} ({low:.3f} to {high:.3f}), target {row.target}"
        )
        for name, value in row.details.items():
            print(f"    {name}: {value:,.4g}")
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        content = {
            "benchmark": benchmark,
            "machine": about,
            "settings": settings,
            "rows": [asdict(row) for row in rows],
        }
        text = json.dumps(content, indent=2, allow_nan=False)
        arguments.json.write_text(text + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Say what the figures were measured on: cores, processor, versions."""
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cores": num_cores(),
        "processor": _processor(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
