"""Results as text tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bottleneck_cli.console import percent, size


def results(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that show an evaluation."""
    note = "" if values["protocol"] == "honest" else ", on the images it was selected on"
    rows = [
        ["default model", *_accuracy(values["default"])],
        ["topology", *_accuracy(values["topology"])],
        ["oracle over branches", percent(values["oracle_top1"]), ""],
        *(
            [f"  default on {name} alone", *_accuracy(value)]
            for name, value in values["branches"].items()
        ),
    ]
    gain = values["gain"]
    low, high = (100 * bound for bound in gain["ci95"])
    return [
        f"run {values['run']}: node {values['node']}, blocks {', '.join(values['blocks'])}, "
        f"{values['num_images']} images of {values['split']} "
        f"({values['protocol']} protocol{note}), default model {values['default_kind']}",
        *columns(["", "top-1", "top-5"], rows),
        f"gain {100 * gain['top1']:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}; "
        f"gained {values['type_a']} (A), lost {values['type_b']} (B), "
        f"others {values['type_c']} (C); McNemar's exact p = {values['mcnemar_p']:.3g}",
        _verdict(gain["top1"], values["mcnemar_p"]),
    ]


def shards(values: Mapping[str, Any]) -> str:
    """Return the line that sums up a stage which writes shards."""
    is_idle = values["num_resumed_shards"] == values["num_shards"]
    return (
        f"{values['stage']}: {'nothing to do; ' if is_idle else ''}"
        f"{count(values['num_images'], 'image')}, {values['num_quarantined']} quarantined, "
        f"{count(values['num_shards'], 'shard')} ({values['num_resumed_shards']} from before), "
        f"{size(values['size_bytes'])}, {values['seconds']:.1f} s"
        + (f", {values['images_per_s']:.1f} images/s" if values.get("images_per_s") else "")
    )


def count(number: int, noun: str) -> str:
    """Format a number of things: 1 shard, 2 shards, 11 branches."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def nodes(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that list a network's nodes."""
    rows = [
        [
            node["name"],
            "x".join(map(str, node["shape"])),
            f"{node['num_values']:,}",
            size(node["size_bytes"]),
            f"{node['tail_params']:,}",
            percent(node["tail_macs_share"]),
            node["block"],
        ]
        for node in values["nodes"]
    ]
    head = ["node", "shape", "numbers", "float32", "tail params", "tail MACs", "block behind it"]
    return columns(head, rows)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align cells: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines


def _accuracy(value: Mapping[str, Any]) -> list[str]:
    return [percent(value["top1"]), percent(value["top5"])]


def _verdict(gain: float, p: float) -> str:
    if p >= 0.05:
        return "The difference could be chance: no gain or loss is shown on these images."
    word = "better" if gain > 0 else "worse"
    return f"The topology is {word} than the default model on these images; chance is unlikely."
