"""Names of what is compared in an evaluation, and the order in which they are shown.

default               the default model, on the original alone
topology              the run that is judged
mean_logits           the mean of the default model's scores over the branches
run_<name>            another run on the same cache
copies, control       the controls, trained with the run's settings
control_mean_logits   the mean of the default model's scores over the control set
branch_<name>         the default model on one other branch alone
"""

from __future__ import annotations

from collections.abc import Iterable

DEFAULT, TOPOLOGY = "default", "topology"
MEAN, CONTROL_MEAN = "mean_logits", "control_mean_logits"
COPIES, CONTROL = "copies", "control"
RUN, BRANCH = "run_", "branch_"
_FIRST = (DEFAULT, TOPOLOGY, MEAN)
_LAST = (COPIES, CONTROL, CONTROL_MEAN)


def ordered(names: Iterable[str]) -> list[str]:
    """Sort names as tables show them: the default model first, single branches last."""

    def place(name: str) -> tuple[int, str]:
        if name in _FIRST:
            return _FIRST.index(name), ""
        if name in _LAST:
            return len(_FIRST) + 1 + _LAST.index(name), ""
        if name.startswith(BRANCH):
            return len(_FIRST) + len(_LAST) + 1, name
        return len(_FIRST), name

    return sorted(names, key=place)
