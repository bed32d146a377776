"""How models do on a split: mean cross entropy, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.analysis import metrics
from pipelines.execution.replicas import Replicas
from pipelines.training.feeds import Fed, Feed

Scores = Callable[[Fed], np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """How a model does on one split.

    Attributes:
        loss: mean cross entropy in nats; not finite where a score is not.
        top1: accuracy, 0..1.
        top5: the same within the five highest; None at five classes or fewer.
    """

    loss: float
    top1: float
    top5: float | None


def evaluate(
    models: Sequence[Scores],
    feed: Feed,
    batch_size: int,
    replicas: Replicas,
    on_batch: Callable[[], None] = lambda: None,
) -> list[Evaluation]:
    """Judge models on all images of a split, side by side on one reading of it.

    Args:
        models: from batches to scores.
        feed: of the split.
        batch_size: images in one forward pass.
        replicas: the devices; each host judges its part of every batch.
        on_batch: called behind each.
    """
    # For each model: the loss, images right at first, images right within five.
    sums, num_classes = np.zeros((len(models), 3)), 0
    for fed in feed.in_order(batch_size):
        for found, scores_of in zip(sums, models, strict=True):
            scores = scores_of(fed)
            num_classes = scores.shape[1]
            if not np.isfinite(scores).all():
                found[0] = np.nan
                continue
            ranks = metrics.label_ranks(scores, fed.labels)
            found += [
                _cross_entropy(scores, fed.labels).sum(),
                *((ranks < k).sum() for k in (1, 5)),
            ]
        on_batch()
    shares = replicas.total(sums.ravel()).reshape(sums.shape) / feed.reader.num_rows
    return [
        Evaluation(float(loss), float(top1), float(top5) if num_classes > 5 else None)
        for loss, top1, top5 in shares
    ]


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return float64 (batch,) losses in nats from float32 (batch, classes) logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return log_sum - shifted[np.arange(len(labels)), labels]
