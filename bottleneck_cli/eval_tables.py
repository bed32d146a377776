"""The results of eval as a text table, Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bottleneck_cli.console import percent
from bottleneck_cli.tables import columns
from pipelines.analysis.naming import ordered

_HEAD = (
    "",
    "top-1",
    "95% interval",
    "top-5",
    "difference",
    "95% interval",
    "p",
    "Holm p",
    "of headroom",
)
_ORACLES = (
    ("oracle", "top1", "top5", "oracle over the branches"),
    ("oracle_control", "control_top1", "control_top5", "oracle over the control set"),
)
_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",  # which LaTeX's default font has no sign for, as it has none for these
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_SELECTED_ON = "on the images that the checkpoints were selected on"


def lines(values: Mapping[str, Any], output: str) -> list[str]:
    """Return results as lines.

    Args:
        values: the results.
        output: table, markdown, latex or csv.
    """
    forms: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
        "table": _text,
        "markdown": _markdown,
        "latex": _latex,
        "csv": _csv,
    }
    return forms[output](values)


def _text(values: Mapping[str, Any]) -> list[str]:
    return [
        _title(values),
        *columns(_HEAD, _rows(values)),
        *_notes(values),
        values["verdict"],
    ]


def _title(values: Mapping[str, Any]) -> str:
    """Say what was judged on what; the thesis's protocol is told wherever numbers are."""
    is_thesis = values["protocol"] == "thesis"
    note = f", {_SELECTED_ON}" if is_thesis else ""
    what = f"{values['num_images']:,} images of {values['split']}"
    folds = values.get("folds")
    if folds:
        num_seeds = len(folds["seeds"])
        times = f", {num_seeds} times" if num_seeds > 1 else ""
        what = f"{values['num_images']:,} images in {folds['num_folds']} folds{times}"
    return (
        f"run {values['run']}: node {values['node']}, blocks {', '.join(values['blocks'])}, {what} "
        f"({values['protocol']} protocol{note}), default model {values['default_kind']}"
    )


def _notes(values: Mapping[str, Any]) -> list[str]:
    """Return what stands below the table."""
    notes = []
    places = [k for k in values["top_k"]["default"] if k not in ("1", "5")]
    for k in places:
        shares = ", ".join(f"{name} {percent(of[k])}" for name, of in values["top_k"].items())
        notes.append(f"top-{k}: {shares}")
    if not values.get("folds"):
        notes.append(
            f"gained {values['type_a']} (A), lost {values['type_b']} (B), others "
            f"{values['type_c']} (C); p: McNemar's exact test, Holm p: corrected for all rows"
        )
    else:
        notes.append(
            "intervals and p: t-test over the folds, corrected for their common images (Nadeau and "
            "Bengio 2003); Holm p: corrected for all rows"
        )
    leans = values.get("leans_on") or {}
    if leans:
        name = max(leans, key=lambda branch: float(leans[branch]))
        if leans[name] > 0:
            notes.append(
                f"the topology leans most on {name}: with the original in its place it loses "
                f"{100 * leans[name]:.2f} points"
            )
    return notes


def _rows(values: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of text a comparator, then the oracles."""
    rows = []
    for name in ordered(values["comparators"]):
        found = values["comparators"][name]
        share = found["headroom_share"]
        rows.append(
            [
                name,
                percent(found["top1"]),
                _interval(found["ci95"], sign=""),
                percent(found["top5"]),
                _points(found["difference"]),
                _interval(found["difference_ci95"]),
                _p(found.get("p", found["mcnemar_p"])),
                _p(found["holm_p"]),
                "-" if share is None else f"{share:.0%}",
            ]
        )
    for name, top1, top5, _ in _ORACLES:
        if values["oracle"][top1] is not None:
            top = percent(values["oracle"][top1]), "", percent(values["oracle"][top5])
            rows.append([name, *top, *[""] * 5])
    return rows


def _described(values: Mapping[str, Any]) -> dict[str, str]:
    """Say what each row is."""
    oracles = {name: text for name, _, _, text in _ORACLES}
    return {**{name: of["text"] for name, of in values["comparators"].items()}, **oracles}


def _markdown(values: Mapping[str, Any]) -> list[str]:
    rows = [[f"`{row[0]}`".replace("|", "\\|"), *row[1:]] for row in _rows(values)]
    body = [list(_HEAD), ["---", *["---:"] * (len(_HEAD) - 1)], *rows]
    return [
        _title(values).replace("|", "\\|"),
        "",
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        *_notes(values),
        "",
        values["verdict"],
    ]


def _latex(values: Mapping[str, Any]) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(map(_to_latex, cells)) + r" \\"

    note = []
    if values["protocol"] == "thesis":
        what = f"thesis protocol: {_SELECTED_ON}"
        note = [rf"\multicolumn{{{len(_HEAD)}}}{{l}}{{{what}}} \\"]
    return [
        f"% {_title(values)}",
        f"% {values['verdict']}",
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{l" + "r" * (len(_HEAD) - 1) + "}",
        r"\toprule",
        row(_HEAD),
        r"\midrule",
        *map(row, _rows(values)),
        r"\bottomrule",
        *note,
        r"\end{tabular}",
    ]


def _to_latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _csv(values: Mapping[str, Any]) -> list[str]:
    """Return plain shares, a row a comparator, for programs that draw."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        [
            *("name", "text", "top1", "top1_low", "top1_high", "top5", "difference"),
            *("difference_low", "difference_high", "p", "holm_p", "headroom_share", "protocol"),
        ]
    )
    described = _described(values)
    for name in ordered(values["comparators"]):
        found = values["comparators"][name]
        low, high = found["difference_ci95"] or (None, None)
        writer.writerow(
            [
                *(name, described[name], found["top1"], *(found["ci95"] or (None, None))),
                *(found["top5"], found["difference"], low, high),
                *(found.get("p", found["mcnemar_p"]), found["holm_p"], found["headroom_share"]),
                values["protocol"],
            ]
        )
    for name, top1, top5, text in _ORACLES:
        if values["oracle"][top1] is not None:
            accuracies = values["oracle"][top1], None, None, values["oracle"][top5]
            writer.writerow([name, text, *accuracies, *[None] * 6, values["protocol"]])
    return table.getvalue().splitlines()


def _points(difference: float | None) -> str:
    return "-" if difference is None else f"{100 * difference:+.2f}"


def _interval(bounds: Sequence[float] | None, sign: str = "+") -> str:
    if bounds is None:
        return "-"
    return " to ".join(f"{100 * bound:{sign}.2f}" for bound in bounds)


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}" if p >= 0.0001 else "<0.0001"
