"""The runs of a workspace side by side: what they are, how far and how good; nothing is written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import runs
from pipelines.analysis import curves
from pipelines.errors import ManifestError, PipelineError
from pipelines.storage import atomic, locks
from pipelines.training import evaluations
from pipelines.training.checkpoints import Store

KEYS = (
    *("run", "state", "problem", "node", "blocks", "branches", "fusion", "default_kind"),
    *("start_from", "num_steps", "best_val_top1", "default_best_val_top1"),
    *("test_top1", "default_test_top1", "gain", "mcnemar_p", "last_worked", "settings"),
)
# Of a fingerprint, what has a key of its own here.
_NO_SETTINGS = {"cache", "branches", "fusion", "default", "start_from"}


def run(workspace_dir: Path, sort: str = "name") -> dict[str, Any]:
    """Look at all runs, also while some are trained.

    Args:
        workspace_dir: the workspace.
        sort: "name"; "top1", the best on val first; or "time", the last worked on first.

    Returns:
        The summary: stage; runs: for each of them the `KEYS`, None for what is not known. state is
        "training", "stopped", "diverged", "done", "judging", "judged", "damaged" or "other
        version"; problem says in words what diverged and the last two mean; blocks and branches
        are names; start_from is the run before; num_steps are the topology's; test_top1,
        default_test_top1, gain (0..1) and mcnemar_p are those of results.json; last_worked is unix
        time; settings has those that are not the same in all runs.
    """
    folders = sorted((workspace_dir / "runs").glob("*/"))
    rows = [_row(workspace_dir, folder) for folder in folders if runs.is_run(folder)]
    _keep_what_differs(rows)
    rows.sort(key=lambda row: _natural(row["run"]))
    by = {"top1": "best_val_top1", "time": "last_worked"}.get(sort)
    if by:
        rows.sort(key=lambda row: -1.0 if row[by] is None else row[by], reverse=True)
    return {"stage": "runs", "runs": rows}


def _row(workspace_dir: Path, folder: Path) -> dict[str, Any]:
    """Describe a run, whatever lies in its folder."""
    row: dict[str, Any] = {
        **dict.fromkeys(KEYS),
        "run": folder.name,
        "last_worked": _last_worked(folder),
        "settings": {},
    }
    try:
        row.update(_described(workspace_dir, folder))
        row.update(_trained(folder))
        row.update(_judged(folder))
        if row["state"] is None:
            row["state"], row["problem"] = _state(folder), runs.diverged(folder) or None
    except (PipelineError, OSError) as error:
        row.update(state="damaged", problem=str(error))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        row.update(state="damaged", problem=f"{folder}: damaged: {error!r}")
    return row


def _described(workspace_dir: Path, folder: Path) -> dict[str, Any]:
    """Say what a run is; of one of another version, as much as it tells."""
    if not (folder / runs.RUN).exists():
        return {}  # half deleted, or not begun yet
    value = atomic.read_json(folder / runs.RUN, mend=runs.MEND)
    version, found = value["format_version"], {}
    if version == runs.FORMAT_VERSION:
        runs.read(workspace_dir, folder.name)  # says what is damaged
    else:
        which = "an earlier" if version < runs.FORMAT_VERSION else "a later"
        problem = f"made by {which} version of this program; train it again, or use that version"
        found = {"state": "other version", "problem": problem}
    fingerprint = value["fingerprint"]
    return {
        **found,
        **{key: value.get(key) for key in ("node", "blocks", "branches", "fusion", "default_kind")},
        "start_from": (fingerprint.get("start_from") or {}).get("run"),
        "settings": {key: fingerprint[key] for key in sorted(fingerprint.keys() - _NO_SETTINGS)},
    }


def _trained(folder: Path) -> dict[str, Any]:
    """Say how good the best checkpoints are, from the summary or, before there is one, so far."""
    keys = ("num_steps", "best_val_top1", "default_best_val_top1")
    if (folder / runs.SUMMARY).exists():
        summary = atomic.read_json(folder / runs.SUMMARY)
        return {key: summary[key] for key in keys}
    found = evaluations.read(folder / runs.HISTORY)
    topology, default = (found[model] for model in evaluations.MODELS)
    kept = Store.of(folder, evaluations.MODELS[0]).kept()
    return {
        "num_steps": kept.latest if kept else 0,
        "best_val_top1": curves.best(topology).val_top1 if topology else None,
        "default_best_val_top1": curves.best(default).val_top1 if default else None,
    }


def _judged(folder: Path) -> dict[str, Any]:
    if not (folder / runs.RESULTS).exists():
        return {}
    results = atomic.read_json(folder / runs.RESULTS)
    return {
        "test_top1": results["topology"]["top1"],
        "default_test_top1": results["default"]["top1"],
        "gain": results["gain"]["top1"],
        "mcnemar_p": results["mcnemar_p"],
    }


def _state(folder: Path) -> str:
    """Say how far a run is; training and evaluation hold the same lock.

    Raises:
        ManifestError: it is trained, and its checkpoints are gone.
    """
    is_trained = (folder / runs.RUN).exists() and (folder / runs.SUMMARY).exists()
    for model in evaluations.MODELS if is_trained else ():
        if not Store.of(folder, model).kept():
            raise ManifestError(
                f"{folder}: the checkpoints of its {model} model are gone; restore them, or train "
                "the run again"
            )
    if any(lock.share != "read" for lock in locks.standing(folder)):
        return "judging" if is_trained else "training"
    if not is_trained:
        return "diverged" if runs.diverged(folder) else "stopped"
    return "judged" if any(folder.glob("results*.json")) else "done"


def _last_worked(folder: Path) -> float | None:
    """Return when something was last written of a run, unix time."""
    times = []
    for pattern in ("*.json*", "checkpoints/*/*.json"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):  # gone meanwhile
                times.append(path.stat().st_mtime)
    return round(max(times), 3) if times else None


def _keep_what_differs(rows: Sequence[Mapping[str, Any]]) -> None:
    """Drop from all runs the settings that are the same in all that have any."""
    known = [row["settings"] for row in rows if row["settings"]]
    for key in {key for settings in known for key in settings}:
        if all(settings.get(key) == known[0].get(key) for settings in known):
            for settings in known:
                settings.pop(key, None)


def _natural(name: str) -> list[str | int]:
    """Return what sorts a-2 in front of a-10."""
    parts = re.split(r"([0-9]+)", name)  # every other one is a number
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]
