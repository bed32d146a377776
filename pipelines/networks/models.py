"""The two models of a run, built from what its run.json and its cache say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ManifestError, TrainingError
from pipelines.networks import backbones, nodes
from pipelines.networks.topology import Design, Topology
from pipelines.storage.cache import FeatureCache

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
    weights = weights_path(workspace_dir, str(cache.details["weights"]))
    mend = "bring those back, or extract again with --overwrite"
    return load_made(cache.fingerprint, weights, cache.path, mend)


def load_made(
    made_from: Mapping[str, Any], weights: str, path: Path, mend: str
) -> backbones.Backbone:
    """Load the network that something was made with, and check that its weights are the same.

    Args:
        made_from: the fingerprint of a cache.
        weights: `imagenet`, `none` or the path of a weights file.
        path: of what was made, for the message.
        mend: what the user can do, for the message.

    Raises:
        ManifestError: they are not.
        WeightsError: they cannot be loaded.
    """
    backbone = backbones.load(made_from["backbone"], weights, made_from.get("weights_seed", 0))
    if backbone.weights_sha256 != made_from["weights_sha256"]:
        raise ManifestError(f"{path}: made with other weights than {weights} has now; {mend}")
    return backbone


def build(backbone: backbones.Backbone, cache: FeatureCache, design: Design, seed: int) -> Topology:
    """Build a model as it starts: the tail with the backbone's weights, the head as asked.

    Args:
        backbone: the whole network.
        cache: the cache it will read.
        design: what it is; one of the original alone gives the default model.
        seed: of the random head.

    Raises:
        TrainingError: the settings do not go together.
    """
    node = nodes.find_node(backbone.name, backbone.model, cache.node)
    topology = Topology(backbone, node, design, len(cache.classes), seed)
    if design.head_init == "pretrained":
        check_own_classes(backbone, cache.classes)
        topology.head.start_pretrained(*nodes.classifier(backbone.model))
    return topology


def fill(topology: Topology, weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Give a model all its weights.

    Args:
        topology: the model.
        weights: arrays by name.
        path: where they come from, for the message.

    Raises:
        TrainingError: some are missing, or of another shape.
    """
    missing = set(topology.weights()) - set(topology.assign(weights))
    if missing:
        raise TrainingError(
            f"{path}: lacks the weights {', '.join(sorted(missing)[:3])} of this network; delete "
            "the run's folder and train it again"
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
    check_imagenet(classes, backbone.num_classes)


def check_imagenet(classes: Sequence[str], num_classes: int = 1_000) -> None:
    """Check that classes are those of ImageNet; see `check_own_classes`.

    Args:
        classes: names in the order of the labels.
        num_classes: how many there should be.

    Raises:
        TrainingError: they are not.
    """
    is_known = all(_WNID.fullmatch(name) for name in classes) and list(classes) == sorted(classes)
    if len(classes) != num_classes or not is_known:
        shown = ", ".join([*classes[:3], *(["..."] if len(classes) > 3 else [])])
        raise TrainingError(
            f"{len(classes)} classes ({shown}) are not the {num_classes:,} that the network was "
            "trained on (WordNet IDs, ascending); use --default trained and --head-init random"
        )
