"""The scores of all models that are compared, batch by batch over one split of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.analysis.naming import CONTROL_MEAN, MEAN, TOPOLOGY
from pipelines.errors import ManifestError, TrainingError
from pipelines.networks import models
from pipelines.networks.backbones import Backbone
from pipelines.networks.topology import Design, Topology
from pipelines.progress import Progress
from pipelines.storage.cache import FeatureCache
from pipelines.storage.making import Batch
from pipelines.storage.variants import ORIGINAL
from pipelines.training import checkpoints

BATCH_SIZE = 32


@dataclass(frozen=True)
class Contestant:
    """One trained model that is compared.

    Attributes:
        name: that it has among the comparators.
        run: that trained it.
        design: what it is.
        seed: of its run.
        checkpoint: its best weights.
        is_control: whether it reads the cache of the control set.
    """

    name: str
    run: str
    design: Design
    seed: int
    checkpoint: Path
    is_control: bool = False


@dataclass(frozen=True)
class Party:
    """All models that are compared on the same images.

    Attributes:
        topology: of the run that is judged.
        default: its default model, which sees the original alone.
        others: what else is compared with the default model.
        has_mean: whether the mean of the default model's scores over the branches is, too.
        control_branches: of the control set, as many as the topology has of its own.
    """

    topology: Contestant
    default: Contestant
    others: tuple[Contestant, ...] = ()
    has_mean: bool = True
    control_branches: tuple[str, ...] = ()

    @property
    def every(self) -> tuple[Contestant, ...]:
        """All of them."""
        return (self.topology, self.default, *self.others)


@dataclass(frozen=True)
class Scores:
    """What the models say of one batch of images; float32, before the softmax.

    Attributes:
        ids: names of the images.
        labels: int32 (images,).
        default: (images, branches, classes), the default model on each branch alone.
        by_name: (images, classes) by comparator; `topology` is one of them.
        control: (images, branches, classes), the default model on each branch of the control set;
            None where that has no part in it.
        swapped: (images, branches - 1, classes), the topology with the original in the place of
            each other branch; None where it has none.
    """

    ids: list[str]
    labels: np.ndarray
    default: np.ndarray
    by_name: Mapping[str, np.ndarray]
    control: np.ndarray | None = None
    swapped: np.ndarray | None = None


def with_original(branches: Sequence[str]) -> tuple[str, ...]:
    """Return branches with the original, which the default model sees, first where it lacks."""
    return tuple(branches) if ORIGINAL in branches else (ORIGINAL, *branches)


def score(
    party: Party,
    cache: FeatureCache,
    control: FeatureCache | None,
    backbone: Backbone,
    split: str,
    progress: Progress,
) -> Iterator[Scores]:
    """Run every model over the images of a split.

    Args:
        party: the models.
        cache: of the node that they read.
        control: the same of the control set; None for none.
        backbone: that the caches were made with.
        split: of the images.
        progress: told about the images.

    Yields:
        The scores of one batch after another, in the plan's order.

    Raises:
        TrainingError: a checkpoint cannot be used, or a score is no finite number.
        ManifestError: the control set has other images.
        ShardError: a shard is damaged.
    """
    run = _Run(party, cache, control, backbone)
    reader = cache.split(split, run.branches, 0)
    controls = _controls(control, split, reader.num_rows)
    progress.start("eval", reader.num_rows, "image")
    for batch in reader.in_order(BATCH_SIZE):
        yield run.of(batch, next(controls))
        progress.advance(len(batch.labels))


def _controls(cache: FeatureCache | None, split: str, num_rows: int) -> Iterator[Batch | None]:
    if cache is None:
        while True:
            yield None
    reader = cache.split(split, "all", 0)
    if reader.num_rows != num_rows:
        raise ManifestError(
            f"{cache.path}: {reader.num_rows} images of {split}, and the other cache has "
            f"{num_rows}; compress and extract the control set again"
        )
    yield from reader.in_order(BATCH_SIZE)


class _Run:
    """The models, compiled."""

    def __init__(
        self,
        party: Party,
        cache: FeatureCache,
        control: FeatureCache | None,
        backbone: Backbone,
    ) -> None:
        self._party = party
        self._control_branches = control.layout.branches if control is not None else ()
        built = {one: _built(one, cache, backbone) for one in party.every}
        readers = [one.design.branches for one in party.every if not one.is_control]
        wanted = {ORIGINAL, *(name for branches in readers for name in branches)}
        self.branches = cache.choose_branches(sorted(wanted))
        self._default_branches = with_original(party.topology.design.branches)
        self._swaps = _can_swap(party.topology.design)
        self._topology = _compile(built[party.topology], self._swaps)
        self._default = _compile(built[party.default])
        self._others = {one: _compile(built[one]) for one in party.others}

    def of(self, batch: Batch, control: Batch | None) -> Scores:
        """Score one batch."""
        party, features = self._party, batch.features
        if control is not None:
            _check_same_images(batch, control)
        taken = self._columns(features, party.topology.design.branches)
        scores, *rest = (found.numpy() for found in self._topology(taken))
        by_name = {TOPOLOGY: scores}
        default = self._default_on(self._columns(features, self._default_branches))
        if party.has_mean:
            here = [self._default_branches.index(name) for name in party.topology.design.branches]
            by_name[MEAN] = default[:, here].mean(axis=1)
        on_control = None
        if control is not None:
            names = with_original(party.control_branches)
            columns = [self._control_branches.index(name) for name in names]
            on_control = self._default_on(np.ascontiguousarray(control.features[:, columns]))
            here = [names.index(name) for name in party.control_branches]
            by_name[CONTROL_MEAN] = on_control[:, here].mean(axis=1)
        for one, logits_of in self._others.items():
            if one.is_control and control is not None:
                columns = [self._control_branches.index(name) for name in one.design.branches]
                taken = np.ascontiguousarray(control.features[:, columns])
            else:
                taken = self._columns(features, one.design.branches)
            by_name[one.name] = logits_of(taken)[0].numpy()
        swapped = rest[0] if rest else None
        self._check(batch, by_name, default, on_control)
        return Scores(list(batch.ids), batch.labels, default, by_name, on_control, swapped)

    def _columns(self, features: np.ndarray, branches: Sequence[str]) -> np.ndarray:
        columns = [self.branches.index(name) for name in branches]
        return np.ascontiguousarray(features[:, columns])

    def _default_on(self, features: np.ndarray) -> np.ndarray:
        """Run the default model on each branch alone: float32 (images, branches, classes)."""
        alone = (np.ascontiguousarray(features[:, i : i + 1]) for i in range(features.shape[1]))
        return np.stack([self._default(one)[0].numpy() for one in alone], axis=1)

    def _check(
        self,
        batch: Batch,
        by_name: Mapping[str, np.ndarray],
        default: np.ndarray,
        on_control: np.ndarray | None,
    ) -> None:
        found = [(one, by_name.get(one.name, default)) for one in self._party.every]
        if on_control is not None:
            found.append((self._party.default, on_control))
        for one, scores in found:
            is_bad = ~np.isfinite(scores).all(axis=tuple(range(1, scores.ndim)))
            if is_bad.any():
                raise TrainingError(
                    f"run {one.run}: {one.checkpoint} gives image "
                    f"{batch.ids[int(np.argmax(is_bad))]} scores that are not finite numbers; "
                    "train another run at a lower --learning-rate"
                )


def _check_same_images(batch: Batch, control: Batch) -> None:
    is_same = np.array(batch.ids) == np.array(control.ids)
    is_same &= batch.labels == control.labels
    if not is_same.all():
        first = int(np.argmin(is_same))
        raise ManifestError(
            f"the control set has image {control.ids[first]} of label {control.labels[first]} "
            f"where the other cache has {batch.ids[first]} of label {batch.labels[first]}; "
            "compress and extract the control set again"
        )


def _built(one: Contestant, cache: FeatureCache, backbone: Backbone) -> Topology:
    topology = models.build(backbone, cache, one.design, one.seed)
    weights, _ = checkpoints.load(one.checkpoint)
    models.fill(topology, weights, one.checkpoint)
    return topology


def _can_swap(design: Design) -> bool:
    return ORIGINAL in design.branches and len(design.branches) > 1


def _compile(topology: Topology, has_swaps: bool = False) -> Callable[[np.ndarray], Any]:
    """Return a compiled pass: float32 (images, branches, *shape) to the scores, and the swapped."""
    import tensorflow as tf

    def forward(features: Any) -> tuple[Any, ...]:
        rows = topology.features(features, False)
        scores = topology.decide(rows)
        return (scores, topology.swapped(rows)) if has_swaps else (scores,)

    # One trace for batches of every size, the smaller last one included.
    signature = [tf.TensorSpec((None, *topology.input_shape), tf.float32)]
    return tf.function(forward, input_signature=signature, autograph=False)
