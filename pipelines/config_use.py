"""The keys of `[predict]` and `[export]`."""

from __future__ import annotations

from typing import Any

from pipelines.config_keys import Table, key
from pipelines.values import Positive

_WEIGHTS: Any = key(
    "",
    "The backbone's weights; without it, those that the run's cache names.",
    "imagenet, none or a path",
    metavar="WEIGHTS",
)


class PredictConfig(Table):
    """The keys of `[predict]`."""

    top: Positive = key(5, "So many classes of each image, the likeliest first.", "1 or more")
    batch_size: Positive = key(
        8, "Images in one forward pass, each with all its versions.", "1 or more"
    )
    weights: str = _WEIGHTS


class ExportConfig(Table):
    """The keys of `[export]`."""

    to: str = key("", "The folder to write.", "a path", metavar="DIR")
    weights: str = _WEIGHTS
    overwrite: bool = key(False, "Replace an earlier export in that folder.", "true or false")
