"""Every setting once: its name, default, meaning, and what is allowed.

The key `batch_size` of the table `[extract]` is the flag `--batch-size` of `bottleneck extract`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipelines.config_extract import ExtractConfig as ExtractConfig
from pipelines.config_keys import FEATURES_DIR, HANG_TIMEOUT, NUM_TASKS, TASK_INDEX, Table, key
from pipelines.values import (
    Branches,
    Count,
    Names,
    Positive,
    PositiveFloat,
    Qualities,
    RunName,
    Seed,
    Share,
    Verbosity,
    Workers,
)


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
    qualities: Qualities = key(
        (10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
        "The JPEG quality factors.",
        "whole numbers from 1 to 100, each once",
        metavar="QF,QF,...",
    )
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = key(
        "4:2:0", "Chroma subsampling of the variants.", "4:2:0, 4:2:2 or 4:4:4"
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


class TrainTailConfig(Table):
    """The keys of `[train-tail]`."""

    node: str = key(
        "",
        "Train from this node's cache; without it, the only cache there is.",
        "a cached node's name",
        metavar="NAME",
    )
    run: RunName = key(
        "", "The run's name, a folder in runs/; without it, the node's name.", "a plain name"
    )
    start_from: RunName = key(
        "",
        "Take over the best weights of an earlier run for the layers they share.",
        "a run's name",
        metavar="RUN",
    )
    branches: Branches = key(
        ("all",),
        "The branches of the topology, by name.",
        "all, or names of cached branches",
        metavar="NAME,NAME,...",
    )
    default: Literal["trained", "pretrained"] = key(
        "trained",
        "The default model to compare with: trained with the same tail and budget on the "
        "original alone, or the backbone's own classifier.",
        "trained or pretrained",
    )
    epochs: Positive = key(20, "Most passes over the train split (thesis 3.4.1).", "1 or more")
    batch_size: Positive = key(100, "Images in one step (thesis 3.4.1).", "1 or more")
    learning_rate: PositiveFloat = key(
        0.01,
        "Learning rate of the first block; the k-th run of a --start-from chain takes a tenth "
        "of the one before (thesis, Algorithm 2).",
        "above 0",
    )
    gradients: Literal["original", "all"] = key(
        "original",
        "Which branches the tail learns from; the others only go forward (thesis 3.4.2).",
        "original or all",
    )
    head_init: Literal["random", "pretrained"] = key(
        "random",
        "How the head starts: random, or the backbone's classifier on the original branch.",
        "random or pretrained",
    )
    eval_every: Count = key(
        0,
        "Steps between evaluations; 0 means 2,000 (thesis) or one epoch, the shorter.",
        "0 or more",
    )
    patience: Positive = key(
        1, "Epochs without a better validation error that end the block.", "1 or more"
    )
    expand: Literal["auto", "host", "device"] = key(
        "auto",
        "Where sparse maps become dense: in the reader's threads, or inside the training step; "
        "auto takes the device when it is a GPU. The numbers are the same.",
        "auto, host or device",
    )
    memory_budget_mb: Count = key(
        512, "Keep a split's cells in memory when they fit this many MB.", "0 or more"
    )
    features_dir: str = FEATURES_DIR
    overwrite: bool = key(
        False, "Delete a run of this name made with other settings.", "true or false"
    )


class EvalConfig(Table):
    """The keys of `[eval]`."""

    run: RunName = key("", "The run to judge; without it, the latest.", "a run's name")
    split: Literal["test", "val"] = key(
        "test",
        "The images to report on; val reports on the images that the checkpoint was selected on.",
        "test or val",
    )


class StatusConfig(Table):
    """The keys of `[status]`."""

    features_dir: str = FEATURES_DIR


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
    "status": StatusConfig,
    "stats": StatsConfig,
    "verify": VerifyConfig,
}
