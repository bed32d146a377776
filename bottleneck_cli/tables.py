"""Results as text tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bottleneck_cli.console import duration, percent
from pipelines.reporting import words

_LONG_SILENT_S = 15  # three heartbeats of a lock that did not come


def predictions(values: Mapping[str, Any]) -> list[str]:
    """Return a line for each image that was predicted: its path, its likeliest classes."""
    return [
        f"{one['path']}: "
        + ", ".join(f"{best['label']} {percent(best['probability'])}" for best in one["top"])
        for one in values["predictions"]
        if "top" in one
    ]


def shards(values: Mapping[str, Any]) -> str:
    """Return the line that sums up a stage which writes shards."""
    num_other = values["num_other_shards"]
    is_idle = values["num_resumed_shards"] == values["num_shards"]
    return (
        f"{values['stage']}: {'nothing to do; ' if is_idle else ''}"
        f"{count(values['num_images'], 'image')}, {values['num_quarantined']} quarantined, "
        f"{count(values['num_shards'], 'shard')} ({values['num_resumed_shards']} from before"
        f"{f', {num_other} from others' if num_other else ''}), "
        f"{words.size(values['size_bytes'])}, {values['seconds']:.1f} s"
        + (f", {values['images_per_s']:.1f} images/s" if values.get("images_per_s") else "")
        + _rest(values)
    )


def _rest(values: Mapping[str, Any]) -> str:
    """Say what other shares have to do yet."""
    if values["is_whole"]:
        return ""
    num_left = values["num_planned_shards"] - values["num_shards"]
    return f"; {count(num_left, 'shard')} left to other shares"


def work(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that say how an extract went: its devices, variants made on the way."""
    lines, device = [], values["device"]
    if device:
        waits = ", ".join(
            f"for {name} {device[f'wait_{name}']:.0%}" for name in ("decode", "disk", "write")
        )
        lines.append(
            f"{count(values['num_workers'], 'worker')}, device busy {device['busy']:.0%}; "
            f"waiting {waits}"
        )
    made = values["on_the_fly"]
    if made:
        lines.append(
            f"on the fly: {made['check_s']:.1f} s to check the images, "
            f"{made['variants_s']:.1f} s of processor time to make variants"
        )
    return [f"  {line}" for line in lines]


def extracted(node: Mapping[str, Any]) -> list[str]:
    """Return the lines that say how a cache was made."""
    lines = [node["reason"]] if node["reason"] else []
    if node["clipped_share"] is not None:
        lines.append(f"{percent(node['clipped_share'])} of the values beyond their scale, clipped")
    check = node["cut_check"]
    if check:
        start = check["start"]
        way = "" if start == "images" else f", from the cached {start} on,"
        lines.append(
            f"the cut: {count(check['num_images'], 'image')}{way} differ by at most "
            f"{check['max_difference']:.1e} of their largest score ({check['bound']:.0e} accepted),"
            f" {percent(check['same_top1'])} have the same best class"
        )
    return [f"    {line}" for line in lines]


def count(number: int, noun: str) -> str:
    """Format a number of things: 1 shard, 2 shards, 11 branches, 3 epochs."""
    plural = "es" if noun.endswith("nch") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def nodes(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that list a network's nodes."""
    rows = [
        [
            node["name"],
            "x".join(map(str, node["shape"])),
            f"{node['num_values']:,}",
            words.size(node["size_bytes"]),
            f"{node['tail_params']:,}",
            percent(node["tail_macs_share"]),
            node["block"],
        ]
        for node in values["nodes"]
    ]
    head = ["node", "shape", "numbers", "float32", "tail params", "tail MACs", "block behind it"]
    return columns(head, rows)


def trained(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that sum up a training: of a run, of a chain of blocks, of a sweep."""
    found = values.get("runs", [values])
    swept = [name for name in found[0] if name not in values and name != "diverged_step"]
    rows = [
        [
            run["run"],
            *(str(run[name]) for name in swept),
            run["node"],
            _steps(run),
            percent(run["best_val_top1"]),
            percent(run["default_best_val_top1"]),
        ]
        for run in found
    ]
    head = ["run", *swept, "node", "steps", "best val top-1", "default model"]
    lines = columns(head, rows) if "runs" in values else []
    rate, wait = values["images_per_s"], values["data_wait"]
    pace = "" if rate is None else f", {rate:,.0f} images/s, data wait {percent(wait)}"
    return [
        *lines,
        f"train-tail: run {values['run']} from node {values['node']}, "
        f"{values['num_steps']:,} steps, best val top-1 {percent(values['best_val_top1'])}, "
        f"default model {percent(values['default_best_val_top1'])}{pace}, "
        f"{values['seconds']:.1f} s",
    ]


def _steps(run: Mapping[str, Any]) -> str:
    diverged_step = run.get("diverged_step")
    return f"{run['num_steps']:,}" if diverged_step is None else f"diverged at {diverged_step:,}"


def stats(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that show what caches hold."""
    rows = []
    for name, node in values["nodes"].items():
        here, raw = node["bytes_per_map"], node["raw_sparse_bytes_per_map"]
        rows.append(
            [
                name,
                percent(1 - node["density"]),
                words.size(round(here)),
                _times(node["dense_bytes_per_map"], here),
                _times(raw, here),
                words.size(node["shard_bytes"]),
                f"{node['num_shards']:,}",
                f"{node['dtype']} {node['encoding']}",
            ]
        )
    head = ["node", "zeros", "a map", "of float32", "of value/position", "a shard", "shards", ""]
    lines = columns(head, rows) if rows else []
    shares = {name: node["zeros_by_branch"] or {} for name, node in values["nodes"].items()}
    branches = dict.fromkeys(branch for found in shares.values() for branch in found)
    if branches:
        by_branch = [
            [branch, *(percent(found.get(branch)) for found in shares.values())]
            for branch in branches
        ]
        lines += ["", *columns(["zeros by branch", *shares], by_branch), ""]
    found = values["qf_histogram"]
    if found:
        known = found["num_images"] - found["num_unknown"]
        common = sorted(found["num_by_qf"].items(), key=lambda pair: -pair[1])[:3]
        shown = ", ".join(f"{qf} ({number:,})" for qf, number in common)
        lines.append(
            f"quality factors of {known:,} of {found['num_images']:,} originals"
            + (f", the most frequent: {shown}" if shown else ": none is a JPEG")
        )
    return [*lines, *(f"picture: {path}" for path in values["pictures"])]


def verification(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that show which files are bad."""
    lines = [
        f"{entry['file']}: {entry['reason']}" + (f"; {entry['done']}" if "done" in entry else "")
        for entry in values["bad"]
    ]
    repaired = f"{values['num_moved']} repaired" if values["num_moved"] else "see --repair"
    what = f"{count(values['num_bad'], 'bad file')} ({repaired})" if lines else "all whole"
    return [
        *lines,
        f"verify: {count(values['num_shards'], 'shard')}, {what}, {values['seconds']:.1f} s",
    ]


def status(values: Mapping[str, Any]) -> list[str]:
    """Return the lines that show how far each stage is, and who is at work on it."""
    stages = values["stages"]
    rows = [[name, *_progress(name, stage)] for name, stage in stages.items()]
    lines = []
    for line, stage in zip(columns(rows[0], rows[1:]), stages.values(), strict=True):
        lines += [line, *(f"    {_holder(holder)}" for holder in stage["holders"])]
        lines += [f"    {stage['problem']}"] if "problem" in stage else []
    return lines


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align cells: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines


def _progress(name: str, stage: Mapping[str, Any]) -> list[str]:
    """Return the state, what is done of how much, and what was left out."""
    num_done, num_total = stage["num_done"], stage["num_total"]
    if None in (num_done, num_total) or name.startswith("eval"):
        done = ""
    elif name.startswith("train-tail"):
        most = f"{num_done:,} of at most " if stage["state"] != "done" else ""
        done = most + count(num_total, "epoch")
    else:
        share = percent(num_done / num_total) if num_total else "-"
        done = f"{num_done:,} of {count(num_total, 'image')} ({share})"
    left_out = stage["num_quarantined"] if num_total is not None else None
    return [stage["state"], done, "" if left_out is None else f"{left_out:,} quarantined"]


def _holder(holder: Mapping[str, Any]) -> str:
    """Say who is at work on what, for how long and how fast."""
    share = holder["share"]
    what = {"": "", "plan": "planning: "}.get(share, f"share {share}: ")
    who = "its lock cannot be read"
    if holder["pid"] is not None:
        who = f"pid {holder['pid']} on {holder['host']}"
    known = [
        f"for {duration(holder['seconds'])}" if holder["seconds"] is not None else "",
        f"{holder['rate']:,.1f} {holder['unit']}s/s" if holder["rate"] is not None else "",
        f"silent for {duration(holder['silent_s'])}" if holder["silent_s"] > _LONG_SILENT_S else "",
    ]
    return ", ".join([what + who, *filter(None, known)])


def _times(other: float, here: float) -> str:
    """Say how many times smaller the cache is."""
    return f"{words.size(round(other))} ({other / max(1, here):.1f}x)"
