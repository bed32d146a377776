"""What the sections of a run's report show: rows, sentences and pictures, from what is read.

A section without anything to show is None, or has a note that says which command brings it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.analysis.curves import Point, Training, best
from pipelines.analysis.naming import DEFAULT, TOPOLOGY, ordered
from pipelines.analysis.verdicts import Difference
from pipelines.reporting import figures, marks, svg, words
from pipelines.reporting.figures import Measured
from pipelines.reporting.marks import Scale, Whisker
from pipelines.reporting.results import (
    ClassAccuracy,
    Comparator,
    FoldComparator,
    FoldResults,
    PairChange,
    Results,
)
from pipelines.storage.variants import ORIGINAL

NUM_MOVERS = 10
MAX_CLASSES = 1_000  # rows; more would be most of the page

_MOST_POINTS = 100  # evaluations of one model in the table


@dataclass(frozen=True)
class Row:
    """A comparator in the table.

    Attributes:
        key: its name in the results.
        name: as it is shown.
        values: its figures.
        whisker: its difference with interval; None for the default model.
    """

    key: str
    name: str
    values: Comparator
    whisker: Whisker | None


@dataclass(frozen=True)
class Comparison:
    """The table of all comparators, and the common scale of its drawings."""

    rows: Sequence[Row]
    scale: Scale
    gain: Whisker
    gain_scale: Scale


@dataclass(frozen=True)
class Leaning:
    """What the topology loses without a branch, most first.

    Attributes:
        sentence: which one it needs most.
        rows: branch and loss, and the length of its bar in per cent of the largest.
    """

    sentence: str
    rows: Sequence[tuple[str, float, float]]


@dataclass(frozen=True)
class BlockResult:
    """A judged run of the chain.

    Attributes:
        run: its name.
        block: the block that it trained, and all behind it.
        results: on the same split.
    """

    run: str
    block: str
    results: Results


@dataclass(frozen=True)
class Blocks:
    """Accuracy by block.

    Attributes:
        rows: the runs of the chain.
        missing: runs of it that have no results.
        picture: None for one block.
    """

    rows: Sequence[BlockResult]
    missing: Sequence[str]
    picture: Markup | None


@dataclass(frozen=True)
class Classes:
    """Accuracy by class.

    Attributes:
        rows: all, or the first of very many.
        num_classes: of all.
        up: the classes that gained most; empty where the table is short anyway.
        down: those that lost most.
    """

    rows: Sequence[ClassAccuracy]
    num_classes: int
    up: Sequence[ClassAccuracy]
    down: Sequence[ClassAccuracy]


@dataclass(frozen=True)
class FoldRow:
    """A comparator over folds and seeds; as `Row`."""

    key: str
    name: str
    values: FoldComparator
    whisker: Whisker | None


@dataclass(frozen=True)
class FoldComparison:
    """The comparators over folds and seeds.

    Attributes:
        results: of all.
        rows: a comparator each.
        scale: of the drawn intervals.
    """

    results: FoldResults
    rows: Sequence[FoldRow]
    scale: Scale


@dataclass(frozen=True)
class CacheRow:
    """What a cache holds (thesis, tables 4.1 and 4.2); see `holdings.sizes` for the keys."""

    node: str
    sizes: Mapping[str, Any]


def comparison(found: Results) -> Comparison:
    """Lay out the comparators: default model and topology, then the others as they are stored."""
    drawn = [
        values.difference_ci95
        for values in found.comparators.values()
        if values.difference_ci95 is not None
    ]
    scale = Scale.of(drawn)
    rows = []
    for key in ordered(found.comparators):
        values = found.comparators[key]
        whisker = None
        if values.difference is not None and values.difference_ci95 is not None:
            difference = Difference(values.difference, values.mcnemar_p)
            whisker = marks.whisker(difference, values.difference_ci95, scale)
        rows.append(Row(key, words.comparator(key), values, whisker))
    gain_scale = Scale.of([found.gain.ci95], width=480.0)
    own = Difference(found.gain.top1, found.mcnemar_p)
    gain = marks.whisker(own, found.gain.ci95, gain_scale)
    return Comparison(rows, scale, gain, gain_scale)


def folds(found: FoldResults | None) -> FoldComparison | None:
    """Lay out the comparators over folds and seeds."""
    if found is None:
        return None
    bounds = [one.difference_ci95 for one in found.comparators.values() if one.difference_ci95]
    scale = Scale.of(bounds)
    rows = []
    for key in ordered(found.comparators):
        values, whisker = found.comparators[key], None
        if values.difference is not None and values.difference_ci95 is not None:
            difference = Difference(values.difference, values.p)
            whisker = marks.whisker(difference, values.difference_ci95, scale)
        rows.append(FoldRow(key, words.comparator(key), values, whisker))
    return FoldComparison(found, rows, scale)


def leaning(leans_on: Mapping[str, float]) -> Leaning | None:
    """Say which branch the topology needs most."""
    if not leans_on:
        return None
    falling = sorted(leans_on.items(), key=lambda pair: -pair[1])
    most, loss = falling[0]
    if loss <= 0:
        sentence = (
            "It leans on no single branch: with the original in place of any one of them it is as "
            "good or better."
        )
    else:
        sentence = (
            f"It leans most on {words.branch(most)}: with the original in its place, top-1 falls "
            f"by {words.points(loss).lstrip('+')} points."
        )
    widest = max(abs(value) for value in leans_on.values()) or 1.0
    rows = [(words.branch(name), value, 100 * abs(value) / widest) for name, value in falling]
    return Leaning(sentence, rows)


def blocks(rows: Sequence[BlockResult], missing: Sequence[str], prefix: str) -> Blocks | None:
    """Lay out a chain of runs."""
    if not rows or len(rows) + len(missing) < 2:
        return None
    picture = None
    if len(rows) > 1:
        models = {
            model: [
                Measured(row.results.comparators[model].top1, row.results.comparators[model].ci95)
                for row in rows
            ]
            for model in (DEFAULT, TOPOLOGY)
        }
        names = [row.block for row in rows]
        told = "; ".join(
            f"{row.block}: topology {words.percent(row.results.topology.top1)}, default model "
            f"{words.percent(row.results.default.top1)}"
            for row in rows
        )
        figure = figures.by_block(names, models)
        picture = svg.inline(figure, f"{prefix}-blocks", "Top-1 accuracy by block", told)
    return Blocks(rows, missing, picture)


def qualities(found: Results, prefix: str) -> Markup | None:
    """Draw the default model on each version alone; None where there is the original alone."""
    names = [name for name in found.branches if name != ORIGINAL]
    measured = [
        Measured(values.top1, values.ci95)
        for values in (found.comparators.get(f"branch_{name}") for name in names)
        if values is not None
    ]
    if not names or len(measured) != len(names):
        return None
    original, topology = found.default.top1, found.topology.top1
    figure = figures.by_branch([words.tick(name) for name in names], measured, original, topology)
    told = "; ".join(
        f"{words.branch(name)}: {words.percent(found.branches[name].top1)}" for name in names
    )
    return svg.inline(
        figure,
        f"{prefix}-qualities",
        "Top-1 accuracy of the default model on each version alone",
        f"{told}; on the original {words.percent(original)}; topology {words.percent(topology)}",
    )


def calibration(found: Results, prefix: str) -> Markup | None:
    """Draw how far confidence is accuracy; None where the results do not say."""
    if not found.calibration:
        return None
    told = "; ".join(
        f"{words.comparator(model)}: expected calibration error {words.percent(one.ece)}"
        for model, one in found.calibration.items()
    )
    figure = figures.reliability({model: one.bins for model, one in found.calibration.items()})
    return svg.inline(figure, f"{prefix}-calibration", "Accuracy over confidence", told)


def classes(found: Results) -> Classes | None:
    """Lay out the classes; the ones that changed most stand apart where there are many."""
    rows = found.per_class
    if not rows:
        return None
    up: list[ClassAccuracy] = []
    down: list[ClassAccuracy] = []
    if len(rows) > 2 * NUM_MOVERS:
        changed = [row for row in rows if row.change]
        by_change = sorted(changed, key=lambda row: -(row.change or 0))
        up = [row for row in by_change if (row.change or 0) > 0][:NUM_MOVERS]
        down = [row for row in reversed(by_change) if (row.change or 0) < 0][:NUM_MOVERS]
    return Classes(rows[:MAX_CLASSES], len(rows), up, down)


def named(pair: PairChange, names: Sequence[str]) -> tuple[str, str]:
    """Name the two classes of a confusion."""

    def name(key: int | str) -> str:
        return names[key] if isinstance(key, int) and 0 <= key < len(names) else str(key)

    return name(pair.true), name(pair.predicted)


def originals(histogram: Mapping[str, Any] | None, prefix: str) -> Markup | None:
    """Draw the quality factors of the originals; None where none is a JPEG."""
    if not histogram or not histogram["num_by_qf"]:
        return None
    counts = {int(qf): num for qf, num in histogram["num_by_qf"].items()}
    common = sorted(counts.items(), key=lambda pair: -pair[1])[:5]
    told = ", ".join(f"quality {qf}: {num:,} images" for qf, num in common)
    figure = figures.qualities(histogram["num_by_qf"])
    return svg.inline(
        figure, f"{prefix}-originals", "Quality of the originals", f"most frequent: {told}"
    )


def training(data: Training, prefix: str) -> Markup | None:
    """Draw how both models learnt; None where there is no history."""
    if not data.models:
        return None
    told = "; ".join(
        f"{name}: best top-1 on val {words.percent(best(points).val_top1)} at step "
        f"{best(points).step:,}"
        for name, points in data.models
    )
    figure = figures.training(data.topology, data.default)
    return svg.inline(figure, f"{prefix}-training", "Loss and top-1 on val over the steps", told)


def thinned(points: Sequence[Point]) -> list[Point]:
    """Leave out evaluations of a long training: every so many-th stays, the best and the last."""
    every = -(-len(points) // _MOST_POINTS)
    kept = {*range(0, len(points), every), len(points) - 1, points.index(best(points))}
    return [points[i] for i in sorted(kept)]


def flattened(value: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Lay out nested settings as rows: their path and their value."""
    rows: list[tuple[str, str]] = []
    for key in sorted(value):
        path, inner = f"{above} › {key}" if above else str(key), value[key]
        if isinstance(inner, Mapping):
            rows += flattened(inner, path)
        elif isinstance(inner, list | tuple):
            rows.append((path, ", ".join(map(str, inner)) or "none"))
        else:
            rows.append((path, "none" if inner is None else str(inner)))
    return rows
