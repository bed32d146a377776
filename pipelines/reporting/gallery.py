"""The images that a run gained and lost, each beside its best version, within some bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.reporting import differences, marks, thumbnails
from pipelines.reporting.marks import Spark
from pipelines.reporting.pixels import Pictures, Pixels
from pipelines.reporting.predictions import ImagePrediction, Predictions
from pipelines.storage.variants import ORIGINAL

_SIDES = (288, 224, 160, 112)  # of pictures, in pixels; the largest that all have room with
_TYPES = ("A", "B")
_DIFFERENCE = "difference"
_MARKUP_BYTES = 4_000  # of a card, beside its pictures and its name
_NUM_NAMES = 8  # times that the name stands in it


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        image: what both models say of it.
        original: a data URI; empty where there is no picture.
        best: of the best version, likewise.
        difference: of the difference between them.
        factor: by which it is amplified.
        problem: why there are no pictures.
        spark: the label's confidence on the versions.
    """

    image: ImagePrediction
    original: str
    best: str
    difference: str
    factor: int
    problem: str
    spark: Spark | None

    @property
    def size_bytes(self) -> int:
        """What it takes on the page, about."""
        pictures = len(self.original) + len(self.best) + len(self.difference)
        return _MARKUP_BYTES + _NUM_NAMES * len(self.image.id.encode()) + pictures


@dataclass(frozen=True)
class Gallery:
    """Some of the gained and lost images.

    Attributes:
        cards: gained ones first, each in the plan's order.
        num_gained: of all images.
        num_lost: likewise.
        seed: of the choice; None where all are shown.
        num_left_out: chosen, but there was no room for their pictures.
        side: the longest side of the pictures, in pixels.
        problem: why some have no pictures; empty where all have.
    """

    cards: Sequence[Card]
    num_gained: int
    num_lost: int
    seed: int | None
    num_left_out: int
    side: int
    problem: str

    @property
    def num_changed(self) -> int:
        """Of all images."""
        return self.num_gained + self.num_lost


@dataclass(frozen=True)
class Asked:
    """How much of a gallery is wanted.

    Attributes:
        num_images: as many at most.
        budget_bytes: what the cards may take on the page.
        seed: of the choice, where there are more.
    """

    num_images: int
    budget_bytes: int
    seed: int


def make(
    predictions: Predictions, pixels: Pixels, asked: Asked, advance: Callable[[int], None]
) -> Gallery:
    """Choose images and make their pictures.

    Args:
        predictions: of all images.
        pixels: gives their versions.
        asked: how many.
        advance: called after each image.
    """
    budget_bytes, seed = asked.budget_bytes, asked.seed
    rows = predictions.of_types(_TYPES)
    chosen = choose(rows, asked.num_images, seed)
    images = sorted(predictions.rows(chosen), key=lambda image: image.type)
    wanted = {image.id: [ORIGINAL, *filter(None, [image.best_branch])] for image in images}
    found = {}
    for pictures in pixels.of(wanted):
        found[pictures.id] = _shrunk(pictures)
        advance(1)
    side, cards = _SIDES[0], []
    for side in _SIDES:
        cards = [_card(image, found[image.id], side) for image in images]
        if sum(card.size_bytes for card in cards) <= budget_bytes:
            break
    kept = _within(cards, budget_bytes, seed)
    return Gallery(
        cards=kept,
        num_gained=len(predictions.of_types("A")),
        num_lost=len(predictions.of_types("B")),
        seed=seed if len(kept) < len(rows) else None,
        num_left_out=len(cards) - len(kept),
        side=side,
        problem=next((card.problem for card in kept if card.problem), ""),
    )


def choose(rows: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Draw some rows, each as likely as any other; in their order.

    Args:
        rows: int64.
        num: at most; all where there are no more.
        seed: of the draw.
    """
    if len(rows) <= num:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, num, replace=False))


@dataclass(frozen=True)
class _Small:
    """An image's pictures at the size at which they are shown; a photograph would fill memory.

    Attributes:
        pixels: uint8 (height, width, 3) by the version's name, "difference" among them.
        factor: by which that is amplified.
        problem: why there are none.
    """

    pixels: Mapping[str, np.ndarray]
    factor: int
    problem: str


def _shrunk(pictures: Pictures) -> _Small:
    pixels = {
        name: thumbnails.shrink(differences.to_rgb(one), _SIDES[0])
        for name, one in pictures.pixels.items()
    }
    factor = 1
    for name in [name for name in pixels if name != ORIGINAL]:
        original = pixels[ORIGINAL]
        pixels[name] = differences.fitted(pixels[name], original.shape)
        pixels[_DIFFERENCE], factor = differences.difference(original, pixels[name])
    return _Small(pixels, factor, pictures.problem)


def _card(image: ImagePrediction, small: _Small, side: int) -> Card:
    best = image.best_branch
    others = [name for name in image.confidences if name != ORIGINAL]
    spark = None
    if best is not None:
        shares = [image.confidences[name] for name in others]
        spark = marks.spark(shares, image.confidences[ORIGINAL], others.index(best))
    uris = {name: thumbnails.data_uri(one, side) for name, one in small.pixels.items()}
    return Card(
        image=image,
        original=uris.get(ORIGINAL, ""),
        best=uris.get(best or "", ""),
        difference=uris.get(_DIFFERENCE, ""),
        factor=small.factor,
        problem=small.problem,
        spark=spark,
    )


def _within(cards: Sequence[Card], budget_bytes: int, seed: int) -> list[Card]:
    """Leave out cards, drawn at random, until the others have room."""
    kept = set(range(len(cards)))
    left = sum(card.size_bytes for card in cards)
    for number in np.random.default_rng(seed).permutation(len(cards)).tolist():
        if left <= budget_bytes:
            break
        kept.discard(number)
        left -= cards[number].size_bytes
    return [cards[number] for number in sorted(kept)]
