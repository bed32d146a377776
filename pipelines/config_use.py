"""The keys of `[predict]`, `[export]`, `[report]` and `[explain]`."""

from __future__ import annotations

from typing import Any, Literal

from pipelines.config_keys import Table, key
from pipelines.values import Count, Positive

_WEIGHTS: Any = key(
    "",
    "The backbone's weights; without it, those that the run's cache names.",
    "imagenet, none or a path",
    metavar="WEIGHTS",
)
_SPLIT: Any = key(
    "",
    "The images that were judged; without it, test, or val where only that was judged.",
    "test or val",
    metavar="test|val",
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


class ReportConfig(Table):
    """The keys of `[report]`."""

    to: str = key(
        "",
        "The file to write; without it, report.html of the run's folder, or of the workspace for "
        "several runs.",
        "a path",
        metavar="FILE",
    )
    images: Count = key(60, "So many gained and lost images of each run at most.", "0 or more")
    split: Literal["", "test", "val"] = _SPLIT


class ExplainConfig(Table):
    """The keys of `[explain]`."""

    to: str = key(
        "",
        "The picture to write, .png or .svg; without it, into explain/ of the run's folder.",
        "a path",
        metavar="FILE",
    )
    split: Literal["", "test", "val"] = _SPLIT
