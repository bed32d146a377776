"""One judging: a party of models over one split of a cache, tallied and written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import comparators, control_caches, runs
from pipelines.analysis import verdicts
from pipelines.analysis.naming import (
    CONTROL,
    CONTROL_MEAN,
    COPIES,
    DEFAULT,
    MEAN,
    RUN,
    TOPOLOGY,
)
from pipelines.analysis.verdicts import Difference, Finding
from pipelines.comparators import Chosen
from pipelines.errors import ConfigError
from pipelines.evaluation import figures, predictions
from pipelines.evaluation.figures import Asked
from pipelines.evaluation.scoring import Party, score, with_original
from pipelines.evaluation.tally import Tally
from pipelines.execution import devices
from pipelines.networks import models
from pipelines.progress import Progress
from pipelines.runs import Run
from pipelines.storage.cache import FeatureCache
from pipelines.storage.variants import ORIGINAL

_CONTROLS = {
    COPIES: "the control of as many copies of the original",
    CONTROL: "the control of changes that are no compression",
}


@dataclass(frozen=True)
class Judging:
    """What is judged, on what.

    Attributes:
        workspace_dir: where a relative path of the backbone's weights starts.
        described: the run.
        party: the models.
        cache: that they read.
        control: the same of the control set, where it takes part.
        split: of the images.
    """

    workspace_dir: Path
    described: Run
    party: Party
    cache: FeatureCache
    control: FeatureCache | None
    split: str

    @property
    def branches(self) -> tuple[str, ...]:
        """That the default model is run on."""
        return with_original(self.described.branches)

    @property
    def names(self) -> list[str]:
        """Names of the comparators beside topology and default, as they are scored."""
        means = [MEAN] if self.party.has_mean else []
        controls = [CONTROL_MEAN] if self.control is not None else []
        return [*means, *controls, *(one.name for one in self.party.others)]

    def tally(self, predictions_path: Path, progress: Progress, check: Callable[[], None]) -> Tally:
        """Run all models over the images; write what each image was taken for.

        Raises:
            TrainingError: a checkpoint cannot be used, or a score is no finite number.
            ManifestError: the control set has other images.
            ShardError: a shard is damaged, or the disk refuses.
            WeightsError: the backbone's weights cannot be loaded.
        """
        devices.configure()
        devices.make_deterministic()
        backbone = models.load_backbone(self.cache, self.workspace_dir)
        tally = Tally(len(self.described.classes), self.branches.index(ORIGINAL))
        found = score(self.party, self.cache, self.control, backbone, self.split, progress)
        columns = self.branches, self.names, self.control is not None
        with predictions.open_writer(predictions_path, *columns, check) as writer:
            for scores in found:
                writer.add(tally.add(scores))
        return tally


def ask(
    described: Run,
    name: str,
    others: Iterable[tuple[str, str, str]],
    top_k: tuple[int, ...],
    seed: int,
) -> Asked:
    """Say what figures are of.

    Args:
        described: the run.
        name: of the run.
        others: called, run and fusion of each other trained model that is compared.
        top_k: places for which the accuracies are given.
        seed: of the resampling.
    """
    branches = with_original(described.branches)
    texts = figures.texts(branches, len(described.branches))
    texts[TOPOLOGY] = f"run {name}, fusion {described.fusion}"
    trained_by = {TOPOLOGY: name}
    for called, other, fusion in others:
        trained_by[called] = other
        what = _CONTROLS.get(called)
        texts[called] = f"{what}, run {other}" if what else f"run {other}, fusion {fusion}"
    return Asked(branches, described.classes, texts, trained_by, top_k, seed)


def open_party(
    workspace_dir: Path,
    name: str,
    described: Run,
    chosen: Chosen,
    run_dir: Path,
    control: FeatureCache | None,
) -> Party:
    """Find the checkpoints of all models that are compared.

    Args:
        workspace_dir: the workspace, in whose runs/ the others lie.
        name: of the run.
        described: what it is.
        chosen: what it is compared with.
        run_dir: its folder.
        control: cache of the control set, where it takes part.

    Raises:
        TrainingError: a run is not finished, or its checkpoint is missing.
    """
    others = {
        **{f"{RUN}{other}": other for other in chosen.others},
        **({COPIES: comparators.control_name(name, COPIES)} if chosen.copies else {}),
        **({CONTROL: comparators.control_name(name, CONTROL)} if chosen.control else {}),
    }
    found = []
    for called, other in others.items():
        runs.check_finished(workspace_dir, other)
        there = runs.read(workspace_dir, other)
        folder = runs.folder_of(workspace_dir, other)
        found.append(comparators.of_run(other, there, folder, TOPOLOGY, called))
    return Party(
        comparators.of_run(name, described, run_dir, TOPOLOGY, TOPOLOGY),
        comparators.of_run(name, described, run_dir, DEFAULT, DEFAULT),
        tuple(found),
        chosen.has_mean,
        control_caches.branches_for(described, control.layout.branches) if control else (),
    )


def choose_top_k(asked: tuple[int, ...], num_classes: int) -> tuple[int, ...]:
    """Return the places for which accuracies are given.

    Raises:
        ConfigError: there are so few classes that it would always be 1.
    """
    for k in asked:
        if k >= num_classes:
            raise ConfigError(
                f"--top-k {k}: of {num_classes} classes, where that is always right; give numbers "
                f"below {num_classes}",
                is_usage=True,
            )
    return asked or ((1, 5) if num_classes > 5 else (1,))


def verdict(found: dict[str, Any], is_honest: bool) -> dict[str, str]:
    """Say what figures mean: `verdict`, a sentence or two, and `verdict_kind`."""
    own, against = found["comparators"][TOPOLOGY], found["against"]
    # What is said of controls goes by the p that is corrected for all that it is held against.
    controls = {
        text: Difference(against[name]["difference"], against[name]["holm_p"])
        for name, text in _CONTROLS.items()
        if name in against
    }
    finding = Finding(
        _difference(own),
        own["difference_ci95"],
        found["min_detectable_gain"],
        own["holm_p"],
        len(found["comparators"]) - 1,
        is_honest,
        controls,
    )
    return {"verdict": verdicts.sentence(finding), "verdict_kind": finding.kind}


def _difference(found: dict[str, Any]) -> Difference:
    """Return a difference with the p that it is judged by: over folds that of their t-test."""
    return Difference(found["difference"], found.get("p", found["mcnemar_p"]))
