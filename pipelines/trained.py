"""A finished run, opened to be used: its network, its best weights, how images become its input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines import runs
from pipelines.errors import ManifestError, PipelineError, WeightsError
from pipelines.images.versions import Versions
from pipelines.networks import backbones, models, nodes
from pipelines.networks.backbones import Backbone
from pipelines.networks.topology import Design, Topology
from pipelines.storage import atomic
from pipelines.storage.cache import find_folder
from pipelines.storage.manifest import PLAN
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store


@dataclass(frozen=True)
class Finished:
    """What is known of a run before its network is loaded.

    Attributes:
        workspace_dir: the workspace.
        name: of the run.
        described: what it is.
        versions: how images become its input.
        checkpoint: the topology's best.
    """

    workspace_dir: Path
    name: str
    described: runs.Run
    versions: Versions
    checkpoint: Path

    @property
    def path(self) -> Path:
        """Its folder."""
        return runs.folder_of(self.workspace_dir, self.name)


@dataclass(frozen=True)
class Trained:
    """A run with its weights.

    Attributes:
        run: what it is.
        backbone: the whole network, as it was pretrained.
        node: where it is cut.
        topology: tail and head with the best weights.
    """

    run: Finished
    backbone: Backbone
    node: nodes.Node
    topology: Topology


def find(workspace_dir: Path, name: str) -> Finished:
    """Find a finished run; its cache may be gone.

    Raises:
        TrainingError: there is no such run, or it is not finished.
        ManifestError: it does not say how its images were prepared.
    """
    described = runs.read(workspace_dir, name)
    run_dir = runs.folder_of(workspace_dir, name)
    runs.check_finished(workspace_dir, name)
    try:
        made_from = described.fingerprint["cache"]
        versions = Versions.of_cache(made_from, described.branches)
    except (KeyError, ManifestError) as error:
        raise ManifestError(f"{run_dir / runs.RUN}: {error}") from error
    checkpoint = Store.of(run_dir, "topology").best
    return Finished(workspace_dir, name, described, versions, checkpoint)


def load(run: Finished, weights: str = "") -> Trained:
    """Load a run's network and its best weights, in float32.

    Args:
        run: the run.
        weights: the backbone's weights file; empty for what the run's cache names.

    Raises:
        WeightsError: the backbone's weights cannot be found or loaded.
        ManifestError: they are not those that the run was trained with.
        NodeError: the network has no such node.
        TrainingError: the checkpoint is missing, damaged, or another network's.
    """
    described = run.described
    made_from = described.fingerprint["cache"]
    backbone = models.load_made(
        made_from, _weights(run, weights), run.path, "bring those back, or name them with --weights"
    )
    node = nodes.find_node(backbone.name, backbone.model, described.node)
    # No training here: which branches would be walked backward does not matter.
    design = Design(described.branches, described.fusion, gradients="all", copies=described.copies)
    topology = Topology(backbone, node, design, len(described.classes), described.seed)
    values, _ = checkpoints.load(run.checkpoint)
    models.fill(topology, values, run.checkpoint)
    return Trained(run, backbone, node, topology)


def _weights(run: Finished, asked: str) -> str:
    """Return the backbone's weights: a word, or the path of a file, which the cache's plan names.

    Raises:
        WeightsError: neither anybody names the file, nor does it lie in the workspace.
    """
    made_from = run.described.fingerprint["cache"]
    name = str(made_from["weights"])
    if asked:
        return models.weights_path(run.workspace_dir, asked)
    if name in (backbones.IMAGENET, backbones.NONE):
        return name
    found = [run.workspace_dir / name]
    try:
        folder = find_folder(run.workspace_dir / run.described.features_dir, run.described.node)
        kept = str(atomic.read_json(folder / PLAN)["details"]["weights"])
        found.insert(0, Path(models.weights_path(run.workspace_dir, kept)))
    except (PipelineError, KeyError, TypeError):
        pass  # the cache is gone, which alone says where the file was
    for path in found:
        if path.is_file():
            return str(path)
    raise WeightsError(
        f"run {run.name}: found no weights file {name} of {made_from['backbone']} "
        f"({', '.join(map(str, found))}); name it with --weights PATH"
    )
