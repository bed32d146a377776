"""The two models of a run, built from what its run.json and its cache say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import ManifestError, TrainingError
from pipelines.networks import backbones, nodes
from pipelines.networks.topology import Topology
from pipelines.storage.cache import FeatureCache
from pipelines.storage.variants import ORIGINAL

_WNID = re.compile(r"n\d{8}")  # WordNet IDs, the class names of ImageNet's folders


def weights_path(workspace_dir: Path, weights: str) -> str:
    """Resolve the setting `weights`: a path is relative to the workspace, a word stays as it is."""
    if weights in (backbones.IMAGENET, backbones.NONE):
        return weights
    return str(workspace_dir / weights)


def kept_weights(workspace_dir: Path, weights: str) -> str:
    """Undo `weights_path`, so that a workspace with its weights file can be moved as a whole."""
    path = Path(weights)
    is_inside = path.is_absolute() and path.is_relative_to(workspace_dir)
    return path.relative_to(workspace_dir).as_posix() if is_inside else weights


def load_backbone(cache: FeatureCache, workspace_dir: Path) -> backbones.Backbone:
    """Load the network that a cache was made with.

    Args:
        cache: an open cache.
        workspace_dir: where a relative path of a weights file starts.

    Raises:
        ManifestError: the weights are not those of the cache.
        WeightsError: they cannot be loaded.
    """
    made = cache.fingerprint
    weights = weights_path(workspace_dir, str(cache.details["weights"]))
    backbone = backbones.load(made["backbone"], weights, made.get("weights_seed", 0))
    if backbone.weights_sha256 != made["weights_sha256"]:
        raise ManifestError(
            f"{cache.path}: made with other weights than {weights} has now; "
            "bring those back, or extract again with --overwrite"
        )
    return backbone


def build(
    backbone: backbones.Backbone,
    cache: FeatureCache,
    branches: Sequence[str],
    gradients: str,
    head_init: str,
    seed: int,
) -> Topology:
    """Build a model as it starts: the tail with the backbone's weights, the head as asked.

    Args:
        backbone: the whole network.
        cache: the cache it will read.
        branches: of the model; `("original",)` gives the default model.
        gradients: "original" or "all".
        head_init: "random" or "pretrained".
        seed: of the random head.

    Raises:
        TrainingError: the settings do not go together.
    """
    node = nodes.find_node(backbone.name, backbone.model, cache.node)
    topology = Topology(backbone, node, branches, len(cache.classes), gradients, seed)
    if head_init == "pretrained":
        check_own_classes(backbone, cache.classes)
        check_branches(branches, gradients, head_init)
        topology.set_pretrained_head(*nodes.classifier(backbone.model))
    return topology


def check_branches(branches: Sequence[str], gradients: str, head_init: str) -> None:
    """Check that settings that speak of the original find it among the branches.

    Raises:
        TrainingError: they do not.
    """
    if ORIGINAL in branches:
        return
    if gradients == "original":
        raise TrainingError(
            "gradients original, but the branches lack original; add it or use --gradients all"
        )
    if head_init == "pretrained":
        raise TrainingError(
            "head-init pretrained, but the branches lack original; add it or use --head-init random"
        )


def check_own_classes(backbone: backbones.Backbone, classes: Sequence[str]) -> None:
    """Check that the images' classes are those of the backbone's own classifier.

    ImageNet's 1,000 classes are known by their WordNet IDs in ascending order, which is the order
    of the outputs of every network here.

    Raises:
        TrainingError: they are not, or the weights came without a classifier.
    """
    if not backbone.has_classifier:
        raise TrainingError(
            f"{backbone.name}: its weights came without a classifier; "
            "use --default trained and --head-init random"
        )
    is_imagenet = all(_WNID.fullmatch(name) for name in classes) and list(classes) == sorted(
        classes
    )
    if len(classes) != backbone.num_classes or not is_imagenet:
        raise TrainingError(
            f"{len(classes)} classes ({', '.join(classes[:3])}, ...) are not the "
            f"{backbone.num_classes} that {backbone.name} was trained on (WordNet IDs, ascending); "
            "use --default trained and --head-init random"
        )
