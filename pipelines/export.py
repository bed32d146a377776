"""A trained run as files that are used without this package: Keras, SavedModel, what goes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines import exported, trained
from pipelines.config import ExportConfig
from pipelines.errors import ConfigError, ManifestError
from pipelines.execution import devices
from pipelines.images import bytes_ops
from pipelines.networks import portable, saved_model
from pipelines.progress import Progress
from pipelines.storage import atomic
from pipelines.storage.whole_folder import whole_folder

KERAS, SAVED_MODEL, DESCRIPTION, README = "model.keras", "saved_model", "model.json", "README.md"


def run(workspace_dir: Path, config: ExportConfig, name: str, progress: Progress) -> dict[str, Any]:
    """Write a trained run's model into a folder, whole or not at all.

    Args:
        workspace_dir: the workspace.
        config: the settings.
        name: of the run.
        progress: told what is left out.

    Returns:
        The summary: stage, run, to, signatures of the SavedModel, files below `to`, size_bytes.

    Raises:
        ConfigError: no folder is given, or it holds something else than an earlier export.
        TrainingError: there is no such run, or it is not finished.
        ManifestError: it does not say how its images were prepared, or other weights are there.
        WeightsError: the backbone's weights cannot be found.
        ShardError: the file system refuses.
    """
    if not config.to:
        raise ConfigError("--to: give the folder to write", is_usage=True)
    to = (workspace_dir / config.to).resolve()
    _check_place(to, config.overwrite)
    found = trained.find(workspace_dir, name)
    profile = devices.configure()
    loaded = trained.load(found, config.weights)
    left_out = bytes_ops.why_not(found.versions)
    model = portable.build(loaded.backbone.model, loaded.node, loaded.topology)
    with whole_folder(to) as folder:
        portable.save(model, folder / KERAS)
        signatures = saved_model.write(model, found.versions, folder / SAVED_MODEL)
        described = exported.describe(found, signatures, profile)
        atomic.write_json(folder / DESCRIPTION, described)
        atomic.write_bytes(folder / README, exported.read_me(described, left_out).encode("utf-8"))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        _check_place(to, config.overwrite)
    if left_out:
        progress.say(f"note: no signature {saved_model.BYTES}: {left_out}")
    return {
        "stage": "export",
        "run": name,
        "to": str(to),
        "signatures": signatures,
        "files": list(sizes),
        "size_bytes": sum(sizes.values()),
    }


def _check_place(to: Path, overwrite: bool) -> None:
    """Refuse a place that holds what this did not write, or an export that is to stay."""
    if not to.exists():
        return
    if not to.is_dir():
        raise ConfigError(f"{to}: is a file; give a folder with --to", is_usage=True)
    names = {path.name for path in to.iterdir()}
    if not names:
        return
    others = sorted(names - {KERAS, SAVED_MODEL, DESCRIPTION, README})
    if others or not _is_ours(to / DESCRIPTION):
        shown = ", ".join(others[:3] or sorted(names)[:3])
        raise ConfigError(
            f"{to}: not empty, and more or else than an export ({shown}); choose another folder "
            "with --to",
            is_usage=True,
        )
    if not overwrite:
        raise ConfigError(
            f"{to}: holds an export; replace it with --overwrite, or choose another folder with "
            "--to",
            is_usage=True,
        )


def _is_ours(path: Path) -> bool:
    try:
        return bool(atomic.read_json(path)["format"] == exported.FORMAT)
    except (ManifestError, KeyError, TypeError):
        return False
