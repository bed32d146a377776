"""Every setting once: its name, default, meaning, and what is allowed.

The key `batch_size` of the table `[extract]` is the flag `--batch-size` of `bottleneck extract`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pipelines.config_eval import EvalConfig as EvalConfig
from pipelines.config_extract import ExtractConfig as ExtractConfig
from pipelines.config_keys import FEATURES_DIR, HANG_TIMEOUT, NUM_TASKS, TASK_INDEX, Table, key
from pipelines.config_train import TrainTailConfig as TrainTailConfig
from pipelines.config_use import ExplainConfig as ExplainConfig
from pipelines.config_use import ExportConfig as ExportConfig
from pipelines.config_use import PredictConfig as PredictConfig
from pipelines.config_use import ReportConfig as ReportConfig
from pipelines.errors import ConfigError
from pipelines.storage.set_folders import CONTROL
from pipelines.values import (
    Count,
    Names,
    Positive,
    PositiveFloat,
    Qualities,
    Seed,
    Share,
    Verbosity,
    Workers,
)

_OF_JPEG = ("qualities", "subsampling")


class CompressConfig(Table):
    """The keys of `[compress]`."""

    images: str = key(
        "",
        "The labelled images: a folder of class folders (or of train/val/test folders of them), "
        "a .csv/.tsv/.jsonl list, or the word elpv for the packaged solar cells.",
        "a path, or elpv",
        metavar="PATH",
    )
    classes: str = key(
        "",
        "A text file with one class name a line, in the order of their labels; "
        "without it, labels are the sorted names.",
        "a path",
        metavar="FILE",
    )
    set: Literal["jpeg", "control"] = key(
        "jpeg",
        "Which versions to make: jpeg, or control, ten under changes that are no compression.",
        "jpeg or control",
    )
    qualities: Qualities = key(
        (10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
        "The JPEG quality factors; not for the control set.",
        "whole numbers from 1 to 100, each once",
        metavar="QF,QF,...",
    )
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = key(
        "4:2:0", "Chroma subsampling of JPEG; not for the control set.", "4:2:0, 4:2:2 or 4:4:4"
    )
    shards: Count = key(
        0, "Number of output files, at least one a split; 0 chooses by size.", "0 or more"
    )
    workers: Workers = key(
        "auto",
        "Processes that encode; auto takes one a core, fewer for few images.",
        "auto, or 1 or more",
        metavar="N|auto",
    )
    task_index: Count = TASK_INDEX
    num_tasks: Positive = NUM_TASKS
    hang_timeout: Count = HANG_TIMEOUT
    limit: Count = key(
        0, "Take only so many images, stratified by label; 0 takes all.", "0 or more"
    )
    max_bad_share: Share = key(
        0.05, "Stop when more than this share of the images is quarantined.", "from 0 to 1"
    )
    max_megapixels: PositiveFloat = key(
        100.0, "Quarantine an image whose header declares more pixels than this.", "above 0"
    )
    overwrite: bool = key(
        False, "Delete the variants made with other settings and start over.", "true or false"
    )

    @classmethod
    def beneath(cls, values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse flags that say nothing to the control set; in the file they stay for the other."""
        if {**values, **flags}.get("set") == CONTROL:
            for name in _OF_JPEG:
                if name in flags:
                    raise ConfigError(
                        f"--{name}: the control set holds no JPEG; leave it out, or give "
                        "--set jpeg",
                        is_usage=True,
                    )
        return dict(values)


class StatusConfig(Table):
    """The keys of `[status]`."""

    features_dir: str = FEATURES_DIR


class RunsConfig(Table):
    """The keys of `[runs]`."""

    sort: Literal["name", "top1", "time"] = key(
        "name",
        "What comes first: by name, the best on val (top1), or the last worked on (time).",
        "name, top1 or time",
    )


class StatsConfig(Table):
    """The keys of `[stats]`."""

    node: Names = key(
        (),
        "Show this node's cache; give it again for more. Without it, all there are.",
        "names of cached nodes",
        metavar="NAME",
        repeat=True,
    )
    images: Count = key(
        10_000, "Images that the pictures are drawn from; 0 takes all.", "0 or more"
    )
    features_dir: str = FEATURES_DIR


class VerifyConfig(Table):
    """The keys of `[verify]`."""

    deep: bool = key(False, "Decode every image and every map, too.", "true or false")
    repair: bool = key(
        False,
        "Move bad files aside, so that the next run of their stage makes exactly those again; "
        "write plans and receipts again that a manifest holds.",
        "true or false",
    )
    features_dir: str = FEATURES_DIR


class GlobalConfig(Table):
    """The keys outside any table; flags of every command."""

    seed: Seed = key(0, "Fixes splits, orders and random starts.", "from 0 to 4294967295")
    verbosity: Verbosity = key(0, "-1 as -q: errors only; 1 as -v: details.", "-1, 0 or 1")
    json_output: bool = Field(
        False,
        alias="json",
        description="Print the summary as one JSON object on one line of stdout.",
        json_schema_extra={"allowed": "true or false"},
    )


TABLES: Mapping[str, type[Table]] = {
    "compress": CompressConfig,
    "extract": ExtractConfig,
    "train-tail": TrainTailConfig,
    "eval": EvalConfig,
    "report": ReportConfig,
    "explain": ExplainConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "status": StatusConfig,
    "runs": RunsConfig,
    "stats": StatsConfig,
    "verify": VerifyConfig,
}
