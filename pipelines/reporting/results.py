"""results.json of a judged run, read and checked.

Accuracies and their differences are shares, 0..1 and -1..1; a difference is the other minus the
default model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ManifestError, TrainingError
from pipelines.storage import atomic

SPLITS = ("test", "val")
Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
Interval = tuple[Difference, Difference]
Bounds = tuple[float, float]  # of a mean over few folds, which may lie beyond what can be
Count = Annotated[int, Field(ge=0)]
Verdict = Literal["better", "worse", "chance"]


class _Part(BaseModel):
    """What this page does not show is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


PartT = TypeVar("PartT", bound=_Part)


class Accuracy(_Part):
    """How often the label is first, and among the first five; None at five classes or fewer."""

    top1: Share
    top5: Share | None = None


class Comparator(Accuracy):
    """One way to classify the images, beside the default model on the originals."""

    ci95: tuple[Share, Share]
    difference: Difference | None = None
    difference_ci95: Interval | None = None
    gained: Count | None = None
    lost: Count | None = None
    mcnemar_p: Share | None = None
    holm_p: Share | None = None
    headroom_share: float | None = None
    run: str | None = None
    text: str = ""


class Against(_Part):
    """The topology minus another comparator."""

    difference: Difference
    ci95: Interval | None = None
    mcnemar_p: Share | None = None
    holm_p: Share | None = None


class Gain(_Part):
    """The topology's gain over the default model, with its 95% interval."""

    top1: Difference
    ci95: Interval


class Oracle(_Part):
    """What a chooser among the branches would reach that is always right where one is."""

    top1: Share
    top5: Share | None = None
    control_top1: Share | None = None


class Averages(_Part):
    """Figures in which every class weighs the same."""

    balanced_accuracy: Share
    macro_accuracy: Share | None = None
    macro_f1: Share | None = None
    roc_auc: Share | None = None


class Bin(_Part):
    """The images whose best class has a confidence in (low, high]."""

    low: Share
    high: Share
    num_images: Count
    confidence: Share | None = None
    accuracy: Share | None = None


class Reliability(_Part):
    """How far a model's confidence is its accuracy; `ece` is the expected calibration error."""

    ece: Share
    bins: tuple[Bin, ...]


class ClassAccuracy(_Part):
    """The accuracies of both models on the images of one class."""

    name: str = Field(alias="class")
    num_images: Count
    default: Share | None = None
    topology: Share | None = None
    change: Difference | None = None


class PairChange(_Part):
    """How often one class is taken for another, by each model."""

    true: int | str
    predicted: int | str
    default: Count
    topology: Count
    change: int


class Confusions(_Part):
    """The pairs that became rarer, and those that became more frequent."""

    gained: tuple[PairChange, ...] = ()
    lost: tuple[PairChange, ...] = ()


class Results(_Part):
    """What `bottleneck eval` found; see docs/evaluation.md."""

    run: str
    split: Literal["test", "val"]
    protocol: Literal["honest", "thesis"]
    seed: int
    node: str
    blocks: tuple[str, ...]
    num_images: Annotated[int, Field(ge=1)]
    num_classes: Annotated[int, Field(ge=1)]
    default_kind: Literal["trained", "pretrained"]
    fusion: str
    default: Accuracy
    topology: Accuracy
    branches: dict[str, Accuracy]
    oracle: Oracle | None = None
    oracle_top1: Share
    type_a: Count
    type_b: Count
    type_c: Count
    mcnemar_p: Share
    gain: Gain
    comparators: dict[str, Comparator]
    against: dict[str, Against] = {}
    min_detectable_gain: Share | None = None
    verdict: str
    verdict_kind: Verdict
    averages: dict[str, Averages] = {}
    calibration: dict[str, Reliability] = {}
    per_class: tuple[ClassAccuracy, ...] = ()
    confusions: Confusions = Confusions()
    leans_on: dict[str, Difference] = {}
    command: tuple[str, ...] = ()
    control_cache: str | None = None  # digest of its fingerprint


class FoldComparator(_Part):
    """One way to classify the images, over folds and seeds; `p` is that of the t-test."""

    top1: Share
    top5: Share | None = None
    ci95: Bounds | None = None
    difference: Difference | None = None
    difference_ci95: Bounds | None = None
    p: Share | None = None
    holm_p: Share | None = None
    headroom_share: float | None = None
    text: str = ""


class FoldGain(_Part):
    """The mean gain over the default model; no interval where there is one fold alone."""

    top1: Difference
    ci95: Bounds | None = None


class Division(_Part):
    """The folds, and the seeds of their divisions."""

    num_folds: Count
    seeds: tuple[int, ...]


class FoldResults(_Part):
    """What `bottleneck eval --folds` found; see docs/evaluation.md."""

    run: str
    protocol: Literal["honest", "thesis"]
    num_images: Annotated[int, Field(ge=1)]
    gain: FoldGain
    comparators: dict[str, FoldComparator]
    oracle: Oracle
    min_detectable_gain: Share | None = None
    verdict: str
    verdict_kind: Verdict
    folds: Division
    command: tuple[str, ...] = ()


def path_of(run_dir: Path, split: str) -> Path:
    """Return the file of a split's results."""
    return run_dir / f"results{_suffix(split)}.json"


def predictions_path_of(run_dir: Path, split: str) -> Path:
    """Return the file of a split's predictions, image by image."""
    return run_dir / f"predictions{_suffix(split)}.parquet"


def eval_command(run: str, split: str) -> str:
    """Return what makes these files."""
    return f"bottleneck eval --run {run}" + ("" if split == "test" else f" --split {split}")


def choose_split(run_dir: Path, asked: str) -> str:
    """Return the split to show: the one asked for, or test, or val where only that was judged."""
    judged = [split for split in SPLITS if path_of(run_dir, split).exists()]
    return asked or next(iter(judged), SPLITS[0])


def read(run_dir: Path, split: str) -> Results:
    """Read the results of one split.

    Raises:
        TrainingError: the run was not judged on it.
        ManifestError: the file is damaged, of an earlier version, or another run's.
    """
    path, command = path_of(run_dir, split), eval_command(run_dir.name, split)
    if not path.exists():
        raise TrainingError(f"{run_dir}: run {run_dir.name} has no results; run `{command}` first")
    mend = f"delete it and run `{command}` again"
    found = _validated(Results, path, mend)
    if (found.run, found.split) != (run_dir.name, split):
        raise ManifestError(
            f"{path}: results of run {found.run} on {found.split}, expected run {run_dir.name} "
            f"on {split}; {mend}"
        )
    return found


def read_folds(run_dir: Path, split: str) -> FoldResults | None:
    """Read the results over folds that go with a split's protocol; None where there are none.

    Raises:
        ManifestError: the file is damaged, of another version, or another run's.
    """
    path = run_dir / f"results{_suffix(split)}-folds.json"
    if not path.exists():
        return None
    mend = f"delete it and run `{eval_command(run_dir.name, split)} --folds 5` again"
    found = _validated(FoldResults, path, mend)
    if found.run != run_dir.name:
        raise ManifestError(
            f"{path}: results of run {found.run}, expected run {run_dir.name}; {mend}"
        )
    return found


def _validated(model: type[PartT], path: Path, mend: str) -> PartT:
    try:
        return model.model_validate(atomic.read_json(path, mend=mend))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ManifestError(
            f"{path}: damaged, or of another version of this program: {where}: "
            f"{first['msg'].lower()}; {mend}"
        ) from error


def _suffix(split: str) -> str:
    return "" if split == "test" else f"-{split}"
