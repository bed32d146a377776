"""Runs on disk: runs/<name>/run.json says what a run is, runs/latest.json which one came last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ManifestError, TrainingError
from pipelines.storage import atomic, locks

FORMAT_VERSION = 2
MEND = "restore it, or train the run again with --overwrite"
RUN, HISTORY, SUMMARY, RESULTS = "run.json", "history.jsonl", "summary.json", "results.json"
DIVERGED = "diverged.json"
CURVES, BLOCKS, REPORT = "training.png", "blocks.png", "report.html"


@dataclass(frozen=True)
class Run:
    """What a run was trained from and as what.

    Attributes:
        fingerprint: settings and cache; compared when the run is started again.
        node: the pivotal node.
        blocks: names of the trained blocks, from the front to FC.
        block_number: k, the place of this run in its chain of --start-from, counted from 1.
        classes: class names in the order of the labels.
        branches: branches of the topology.
        fusion: how they are joined.
        default_kind: "trained" or "pretrained".
        features_dir: the cache's folder, relative to the workspace where it is inside.
        seed: of the orders and random starts.
    """

    fingerprint: Mapping[str, Any]
    node: str
    blocks: tuple[str, ...]
    block_number: int
    classes: tuple[str, ...]
    branches: tuple[str, ...]
    fusion: str
    default_kind: str
    features_dir: str
    seed: int

    @property
    def copies(self) -> int:
        """Copies of the original that the head joins; 0 where it joins the branches."""
        return int(self.fingerprint.get("copies", 0))

    @property
    def parent(self) -> str:
        """The run that it started from; empty for none."""
        return str((self.fingerprint.get("start_from") or {}).get("run", ""))


def folder_of(workspace_dir: Path, name: str) -> Path:
    """Return the folder of a run."""
    return workspace_dir / "runs" / name


def is_run(folder: Path) -> bool:
    """Tell whether a folder has something of a run in it, or cannot be looked into."""
    try:
        return any((folder / name).exists() for name in (RUN, HISTORY, "checkpoints"))
    except OSError:  # what it is will be said where it is read
        return True


def write(workspace_dir: Path, name: str, run: Run, is_latest: bool = True) -> None:
    """Publish a run, and point `latest` at it where it is to be the one that eval takes."""
    folder = folder_of(workspace_dir, name)
    atomic.make_folder(folder / "checkpoints")
    atomic.write_json(folder / RUN, {"format_version": FORMAT_VERSION, **asdict(run)})
    if is_latest:
        point_latest(workspace_dir, name)


def point_latest(workspace_dir: Path, name: str) -> None:
    """Make a run the one that eval takes when none is named."""
    folder = workspace_dir / "runs"
    with locks.hold(folder, wait=True):
        atomic.sweep(folder)
        atomic.write_json(folder / "latest.json", {"run": name})


def read(workspace_dir: Path, name: str) -> Run:
    """Read what a run is.

    Raises:
        TrainingError: there is no such run.
        ManifestError: run.json is damaged, or of a newer version.
    """
    path = folder_of(workspace_dir, name) / RUN
    if not path.exists():
        known = sorted(p.parent.name for p in path.parent.parent.glob(f"*/{RUN}"))
        raise TrainingError(
            f"{path.parent}: no such run; "
            + (f"there are {', '.join(known)}" if known else "run `bottleneck train-tail` first")
        )
    return read_file(path)


def read_file(path: Path) -> Run:
    """Read a run.json.

    Raises:
        ManifestError: it is damaged, or of another version.
    """
    value = atomic.read_json(path, mend=MEND)
    try:
        version = value.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ManifestError(
                f"{path}: format version {version}, this program reads {FORMAT_VERSION}; {MEND}"
            )
        lists = {key: tuple(value[key]) for key in ("blocks", "classes", "branches")}
        return Run(**{**value, **lists})
    except (AttributeError, KeyError, TypeError) as error:
        raise ManifestError(f"{path}: damaged: {error!r}; {MEND}") from error


def check_finished(workspace_dir: Path, name: str) -> None:
    """Check that both models of a run are trained.

    Raises:
        TrainingError: they are not; says what is to be done.
    """
    folder = folder_of(workspace_dir, name)
    if (folder / SUMMARY).exists():
        return
    reason = diverged(folder)
    if reason:
        raise TrainingError(f"{folder}: {reason}; train another run at a lower --learning-rate")
    raise TrainingError(
        f"{folder}: not finished; train it to its end first: started with the settings that it was "
        "begun with, which logs/train-tail.log has, it goes on"
    )


def diverged(folder: Path) -> str:
    """Say why a run takes no further step; empty where it does."""
    path = folder / DIVERGED
    if not path.exists():
        return ""
    return f"diverged: {atomic.read_json(path)['reason']}"


def latest(workspace_dir: Path) -> str:
    """Return the name of the run that was trained last.

    Raises:
        TrainingError: there is none.
    """
    path = workspace_dir / "runs" / "latest.json"
    if not path.exists():
        raise TrainingError(
            f"{workspace_dir / 'runs'}: no run yet; run `bottleneck train-tail` first"
        )
    return str(atomic.read_json(path)["run"])
