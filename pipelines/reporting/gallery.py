"""The images that a run gained and lost, each beside its best version, within some bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import escape

from pipelines.reporting import differences, marks, thumbnails
from pipelines.reporting.marks import Spark
from pipelines.reporting.pixels import Pictures, Pixels
from pipelines.reporting.predictions import ImagePrediction, Predictions
from pipelines.storage.variants import ORIGINAL

_SIDES = (288, 224, 160, 112)  # of pictures, in pixels; the largest that all have room with
_TYPES = ("A", "B")
_DIFFERENCE = "difference"
_MARKUP_BYTES = 1_900  # of a card, beside its pictures, its versions and its name
_VERSION_BYTES = 100  # of each version in it: a row of the table, a point of the curve
_NUM_NAMES = 8  # times that the name stands in it
_SQUARE_BYTE = 5  # an image's pictures take a fifth of their side squared in bytes, or more


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
        name = str(escape(self.image.id)).encode()
        return _least_bytes(len(self.image.confidences)) + _NUM_NAMES * len(name) + pictures


@dataclass(frozen=True)
class Gallery:
    """Some of the gained and lost images.

    Attributes:
        cards: gained ones first, each in the plan's order.
        num_gained: of all images.
        num_lost: likewise.
        seed: of the choice; None where all are shown.
        num_left_out: wanted, but there was no room for them.
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

    @property
    def size_bytes(self) -> int:
        """What its cards take on the page, about."""
        return sum(card.size_bytes for card in self.cards)


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


def num_drawn(predictions: Predictions, asked: Asked) -> int:
    """Return how many images are looked at: no more than could have room without any picture."""
    num_changed = len(predictions.of_types(_TYPES))
    room = asked.budget_bytes // _least_bytes(len(predictions.branches))
    return min(asked.num_images, num_changed, room)


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
    chosen = choose(rows, num_drawn(predictions, asked), seed)
    images = sorted(predictions.rows(chosen), key=lambda image: image.type)
    wanted = {image.id: [ORIGINAL, *filter(None, [image.best_branch])] for image in images}
    sides = _sides(len(images), budget_bytes, _least_bytes(len(predictions.branches)))
    found = {}
    for pictures in pixels.of(wanted):
        found[pictures.id] = _shrunk(pictures, sides[0])
        advance(1)
    side, cards = sides[0], []
    for side in sides:
        cards = [_card(image, found[image.id], side) for image in images]
        if sum(card.size_bytes for card in cards) <= budget_bytes:
            break
    whole = Gallery(
        cards=cards,
        num_gained=len(predictions.of_types("A")),
        num_lost=len(predictions.of_types("B")),
        seed=seed if len(cards) < len(rows) else None,
        num_left_out=min(asked.num_images, len(rows)) - len(cards),
        side=side,
        problem="",
    )
    return within(whole, budget_bytes, seed)


def within(gallery: Gallery, budget_bytes: int, seed: int) -> Gallery:
    """Leave out cards, drawn at random, until the others have room.

    Args:
        gallery: so far.
        budget_bytes: what the cards may take on the page.
        seed: of the draw.
    """
    cards = gallery.cards
    kept, left = set(range(len(cards))), gallery.size_bytes
    for number in np.random.default_rng(seed).permutation(len(cards)).tolist():
        if left <= budget_bytes:
            break
        kept.discard(number)
        left -= cards[number].size_bytes
    shown = [cards[number] for number in sorted(kept)]
    num_dropped = len(cards) - len(shown)
    return replace(
        gallery,
        cards=shown,
        seed=seed if num_dropped else gallery.seed,
        num_left_out=gallery.num_left_out + num_dropped,
        problem=next((card.problem for card in shown if card.problem), ""),
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


def _shrunk(pictures: Pictures, side: int) -> _Small:
    pixels = {
        name: thumbnails.shrink(differences.to_rgb(one), side)
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


def _least_bytes(num_versions: int) -> int:
    """Return what a card takes on the page without pictures and name, about."""
    return _MARKUP_BYTES + _VERSION_BYTES * num_versions


def _sides(num: int, budget_bytes: int, least_bytes: int) -> Sequence[int]:
    """Return the sides of pictures that so many cards may have room with, the largest first.

    Pixels are held until all sizes are known; so these bound memory, too.
    """
    room = budget_bytes // max(1, num) - least_bytes
    return [side for side in _SIDES if side * side // _SQUARE_BYTE <= room] or _SIDES[-1:]
