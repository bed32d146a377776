"""What is trained and judged in folds: a run, what it is compared with, and their caches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import comparators, control_caches, run_folder, runs
from pipelines.analysis.naming import CONTROL, COPIES, RUN, TOPOLOGY
from pipelines.comparators import Chosen, Control, control_of
from pipelines.errors import ManifestError, PipelineError
from pipelines.runs import Run
from pipelines.storage.cache import FeatureCache, find_folder
from pipelines.storage.fingerprint import digest
from pipelines.train_runs import Ask

FOLDS = "folds"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A model that is trained in every fold.

    Attributes:
        called: its name among the comparators.
        chain: the runs it starts from, the first one first, and then itself: their names and
            settings, and the caches that they read.
    """

    called: str
    chain: tuple[Control, ...]

    @property
    def run(self) -> str:
        """Name of its run, in the folds."""
        return self.chain[-1].ask.run


@dataclass(frozen=True)
class Plan:
    """What is trained and judged in folds.

    Attributes:
        workspace_dir: the workspace.
        name: of the run that is judged.
        described: what it is.
        entries: the models, the run's own first.
        cache: of the run.
        control: the same of the control set, where it takes part.
        has_mean: whether the mean of the default model's scores takes part.
        num_folds: parts.
        seeds: of the divisions, and of the starts.
        is_honest: select on other images than are reported on.
    """

    workspace_dir: Path
    name: str
    described: Run
    entries: tuple[Entry, ...]
    cache: FeatureCache
    control: FeatureCache | None
    has_mean: bool
    num_folds: int
    seeds: tuple[int, ...]
    is_honest: bool

    @property
    def folder(self) -> Path:
        """Where the folds lie."""
        kind = "" if self.is_honest else "-val"
        return runs.folder_of(self.workspace_dir, self.name) / f"{FOLDS}{kind}"

    @property
    def with_defaults(self) -> frozenset[str]:
        """Runs that have a default model: the run's own, which is that of all, and any chain's."""
        chains = [one.chain for one in self.entries if one.called == TOPOLOGY or len(one.chain) > 1]
        return frozenset(run.ask.run for chain in chains for run in chain)

    @property
    def control_branches(self) -> tuple[str, ...]:
        """Of the control set, as many as the run has of its own."""
        branches = self.control.layout.branches if self.control else ()
        return control_caches.branches_for(self.described, branches)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the results of a fold follow from, beside its seed and number."""
        return {
            "control": None if self.control is None else digest(self.control.fingerprint),
            "num_folds": self.num_folds,
            "is_honest": self.is_honest,
            "has_mean": self.has_mean,
            "entries": {
                one.called: [
                    [digest(run.cache.fingerprint), run.ask.config.model_dump(mode="json")]
                    for run in one.chain
                ]
                for one in self.entries
            },
        }

    @property
    def caches(self) -> dict[Path, FeatureCache]:
        """All that are read, by their folders."""
        read = [self.cache, *(run.cache for one in self.entries for run in one.chain)]
        return {one.path: one for one in [*read, *([self.control] if self.control else [])]}


def make_plan(
    workspace_dir: Path,
    name: str,
    described: Run,
    chosen: Chosen,
    control: FeatureCache | None,
    num_folds: int,
    seeds: tuple[int, ...],
    is_honest: bool,
) -> Plan:
    """Plan what is trained in every fold; see `Plan` for the arguments.

    Raises:
        ManifestError: the run's cache is gone or was made anew with other settings.
        TrainingError: a run that one of them starts from is gone; one that was not asked for by
            name is told and left out.
    """
    own = comparators.chain_of(workspace_dir, name)
    entries = [Entry(TOPOLOGY, _as_trained(workspace_dir, own))]
    for other in chosen.others:
        try:
            chain = _as_trained(workspace_dir, comparators.chain_of(workspace_dir, other))
        except PipelineError as error:
            if other in chosen.named:
                raise
            _logger.warning("run %s is left out: %s", other, error)
        else:
            entries.append(Entry(f"{RUN}{other}", chain))
    for word, is_chosen in ((COPIES, chosen.copies), (CONTROL, chosen.control)):
        if is_chosen:
            controls = (control_of(workspace_dir, *one, word) for one in own)
            entries.append(Entry(word, tuple(controls)))
    return Plan(
        workspace_dir,
        name,
        described,
        tuple(entries),
        entries[0].chain[-1].cache,
        control,
        chosen.has_mean,
        num_folds,
        seeds,
        is_honest,
    )


def _as_trained(workspace_dir: Path, chain: Sequence[tuple[str, Run]]) -> tuple[Control, ...]:
    """Return runs with their own settings, and the caches that they were trained from."""
    found = []
    for name, run in chain:
        cache = FeatureCache(find_folder(workspace_dir / run.features_dir, run.node))
        if cache.fingerprint != run.fingerprint["cache"]:
            raise ManifestError(
                f"{cache.path}: made anew with other settings since run {name} was trained; train "
                "it again"
            )
        found.append(Control(Ask(name, run_folder.settings_of(run)), cache))
    return tuple(found)
