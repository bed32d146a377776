"""What the figures of an evaluation mean, in sentences for readers without statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ALPHA = 0.05  # a difference that chance makes more seldom than this is taken for one
BETTER, WORSE, CHANCE = "better", "worse", "chance"


@dataclass(frozen=True)
class Difference:
    """One model's accuracy less another's.

    Attributes:
        value: share of the images, -1..1.
        p: probability of a difference as large where there is none; None where it is not known.
    """

    value: float
    p: float | None

    @property
    def is_shown(self) -> bool:
        """Tell whether chance is unlikely."""
        return self.p is not None and self.p < ALPHA

    @property
    def kind(self) -> str:
        """`BETTER`, `WORSE` or `CHANCE`."""
        if not self.is_shown or not self.value:
            return CHANCE
        return BETTER if self.value > 0 else WORSE


@dataclass(frozen=True)
class Finding:
    """What an evaluation found.

    Attributes:
        gain: of the topology over the default model.
        interval: 95% of the gain, shares; None where there is none.
        min_gain: the smallest gain that these images would have shown; None for there is none.
        corrected_p: of the gain, corrected for all comparisons made.
        num_comparisons: made.
        is_honest: whether the images are not those that the checkpoints were selected on.
        controls: by what they are, the topology's lead over them.
    """

    gain: Difference
    interval: Sequence[float] | None
    min_gain: float | None
    corrected_p: float | None = None
    num_comparisons: int = 1
    is_honest: bool = True
    controls: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`BETTER`, `WORSE` or `CHANCE`."""
        return self.gain.kind


def sentence(found: Finding) -> str:
    """Say it in words."""
    said = [_chance(found) if found.kind == CHANCE else _shown(found)]
    if found.kind != CHANCE and found.corrected_p is not None and found.corrected_p >= ALPHA:
        said.append(
            f"Among {found.num_comparisons} comparisons one such by luck is not rare "
            f"(p = {_p(found.corrected_p)} corrected for all of them)."
        )
    is_better = found.kind == BETTER
    said += [_control(what, lead, is_better) for what, lead in found.controls.items()]
    if not found.is_honest:
        said.append(
            "The checkpoints were selected on these same images, which flatters both models."
        )
    return " ".join(said)


def _shown(found: Finding) -> str:
    word = "better" if found.gain.value > 0 else "worse"
    within = ""
    if found.interval is not None:
        low, high = found.interval
        within = f" (95% interval {100 * low:+.2f} to {100 * high:+.2f})"
    return (
        f"The topology is {word} than the default model by {_points(found.gain)}{within}; chance "
        f"alone would seldom do that (p = {_p(found.gain.p)})."
    )


def _chance(found: Finding) -> str:
    least = found.min_gain
    shows = (
        "so few folds of so few images tell nothing of chance"
        if found.gain.p is None
        else "a set of this size shows no gain at all"
        if least is None
        else f"a set of this size shows gains from {_round_up(100 * least)} points up"
    )
    if not found.gain.value:
        return f"The two models are right equally often; {shows}."
    word = "gain" if found.gain.value > 0 else "loss"
    return f"The {word} of {_points(found.gain)} could be chance: {shows}."


def _control(what: str, lead: Difference, is_better: bool) -> str:
    if lead.is_shown and lead.value > 0:
        too = ", too," if is_better else ""
        return f"It is better than {what}{too} by {_points(lead)} (p = {_p(lead.p)})."
    if lead.is_shown:
        return f"It is worse than {what} by {_points(lead)} (p = {_p(lead.p)})."
    if lead.value > 0:
        return f"Its lead of {_points(lead)} over {what} could be chance."
    better = f"does {_points(lead)} better, which could be chance"
    tie = better if lead.value else "does as well"
    return f"{what[0].upper()}{what[1:]} {tie}."


def _points(difference: Difference) -> str:
    """Return the size in points; of more than 10,000 images one is less than a hundredth."""
    points = 100 * abs(difference.value)
    number = f"{points:.2f}" if points >= 0.01 or not points else f"{points:.1g}"
    return f"{number} points"


def _round_up(points: float) -> str:
    """Return points with one digit that says something; never less than they are."""
    step = 0.1 if points < 10 else 1.0
    rounded = -(-round(points / step, 6) // 1) * step
    return f"{rounded:.1f}" if step < 1 else f"{rounded:.0f}"


def _p(p: float | None) -> str:
    if p is None:
        return "unknown"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
