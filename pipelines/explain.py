"""One judged image: what both models say of it, and what compression changes in it."""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines import findings
from pipelines.analysis import style
from pipelines.config import ExplainConfig
from pipelines.errors import ConfigError, PipelineError
from pipelines.findings import Finding
from pipelines.images import index
from pipelines.reporting import portrait, results, words
from pipelines.reporting.pixels import Pictures
from pipelines.reporting.portrait import Portrait
from pipelines.reporting.predictions import ImagePrediction
from pipelines.storage import atomic, parquet
from pipelines.storage.variants import ORIGINAL

FOLDER = "explain"
_SUFFIXES = (".png", ".svg")
_NUM_NEAR = 3
_MAX_NAME = 150  # letters; a file's name may have 255 bytes


def run(workspace_dir: Path, config: ExplainConfig, name: str, image: str) -> dict[str, Any]:
    """Say why an image was gained or lost, and draw it beside its best version.

    Args:
        workspace_dir: the workspace.
        config: the settings.
        name: of the run.
        image: its name in the run's predictions, or a path that ends in one.

    Returns:
        The summary: stage, run, split, protocol ("honest", or "thesis" where the checkpoints were
        selected on these images), id, label, type; topology: rank, confidence, top5; default:
        rank, confidence, top5 (on the original) and branches, rank and confidence of the label on
        each version; best_version; difference: factor and crop (top, left, height, width), None
        without pixels; picture, its path, None where there are no pixels, for which problem says
        why. Ranks count from 1, confidences are shares.

    Raises:
        TrainingError: there is no such run, or it is not judged.
        ManifestError: a file of it is damaged.
        ConfigError: there is no such image, or the picture's name ends in something else.
        ShardError: the file system refuses.
    """
    if config.to and Path(config.to).suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"--to {config.to}: ends in neither {' nor '.join(_SUFFIXES)}", is_usage=True
        )
    finding = findings.find(workspace_dir, name, config.split)
    found = finding.predictions.rows([_row_of(finding, image)])[0]
    best = found.best_branch
    (pictures,) = finding.pixels.of({found.id: [ORIGINAL, *([best] if best else [])]})
    classes = finding.described.classes
    drawn = _draw(finding, config, found, pictures) if pictures.pixels else None
    return {
        "stage": "explain",
        "run": finding.name,
        "split": finding.results.split,
        "protocol": finding.results.protocol,
        "id": found.id,
        "label": classes[found.label],
        "type": found.type,
        "topology": {
            "rank": found.topology_rank + 1,
            "confidence": found.topology_confidence,
            "top5": _named(found.topology_top5, classes),
        },
        "default": {
            "rank": found.ranks[ORIGINAL] + 1,
            "confidence": found.confidences[ORIGINAL],
            "top5": _named(found.default_top5, classes),
            "branches": {
                branch: {"rank": found.ranks[branch] + 1, "confidence": confidence}
                for branch, confidence in found.confidences.items()
            },
        },
        "best_version": best,
        **(drawn or {"difference": None, "picture": None}),
        "problem": pictures.problem or None,
    }


def safe_name(image_id: str) -> str:
    """Make a file's name of an image's, which may hold folders; different for different images."""
    plain = re.sub(r"[^\w.-]+", "_", image_id, flags=re.ASCII).strip("._")
    if plain and plain == image_id and len(plain) <= _MAX_NAME:
        return plain
    return f"{plain[-_MAX_NAME:] or 'image'}-{hashlib.sha256(image_id.encode()).hexdigest()[:8]}"


def _draw(
    finding: Finding, config: ExplainConfig, found: ImagePrediction, pictures: Pictures
) -> dict[str, Any]:
    """Write the picture; say what is in it."""
    note = words.THESIS if finding.results.protocol == "thesis" else ""
    data = Portrait(found, finding.described.classes, pictures.pixels, finding.name, note)
    default = finding.path / FOLDER / f"{safe_name(found.id)}.png"
    path = finding.workspace_dir / config.to if config.to else default
    atomic.make_folder(path.parent)
    changed = portrait.changed(data)
    with warnings.catch_warnings():
        # Names in scripts that the font lacks are boxes in the picture; the table has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        style.write(portrait.figure(data, changed), path)
    told = None
    if changed is not None:
        top, left, height, width = changed.crop
        crop = {"top": top, "left": left, "height": height, "width": width}
        told = {"factor": changed.factor, "crop": crop}
    return {"difference": told, "picture": str(path)}


def _named(best: Sequence[tuple[int, float]], classes: Sequence[str]) -> list[dict[str, Any]]:
    return [{"label": classes[number], "confidence": share} for number, share in best]


def _row_of(finding: Finding, image: str) -> int:
    """Find an image by its name, or by a path that ends in it.

    Raises:
        ConfigError: there is none; names those of nearly the same name.
    """
    parts = PurePosixPath(Path(image).as_posix()).parts
    for asked in dict.fromkeys([image, *("/".join(parts[i:]) for i in range(len(parts)))]):
        row = finding.predictions.find(asked)
        if row is not None:
            return row
    split = finding.results.split
    where = f"run {finding.name}, {split}"
    elsewhere = _split_of(finding, image, parts)
    if elsewhere and elsewhere != split:
        mend = "only images that were judged can be explained"
        if elsewhere in results.SPLITS:
            command = results.eval_command(finding.name, elsewhere)
            mend = f"run `{command}`, then this with --split {elsewhere}"
        raise ConfigError(f"{where}: image {image} is in split {elsewhere}; {mend}")
    near = difflib.get_close_matches(image, finding.predictions.ids(), _NUM_NEAR, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ConfigError(f"{where}: no image {image} among {finding.results.num_images:,}{hint}")


def _split_of(finding: Finding, image: str, parts: Sequence[str]) -> str | None:
    """Look an image up in the index, which may be gone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    path = finding.workspace_dir / index.FOLDER / "images.parquet"
    if not path.exists():
        return None
    try:
        table = parquet.read_table(path, ["id", "split"])
    except PipelineError:
        return None
    for asked in [image, *("/".join(parts[i:]) for i in range(len(parts)))]:
        row = pc.index(table["id"], pa.scalar(asked, pa.string())).as_py()
        if row >= 0:
            return str(table["split"][row].as_py())
    return None
