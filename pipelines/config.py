"""Every setting once: its name, default, meaning, and what is allowed.

The key `batch_size` of the table `[extract]` is the flag `--batch-size` of `bottleneck extract`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    SizeBytes,
    Verbosity,
)


def _key(default: Any, help_text: str, allowed: str, **extra: Any) -> Any:
    schema = {"allowed": allowed, **extra}
    return Field(default, validate_default=True, description=help_text, json_schema_extra=schema)


class Table(BaseModel):
    """One table of bottleneck.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CompressConfig(Table):
    """The keys of `[compress]`."""

    images: str = _key(
        "",
        "The labelled images: a folder of class folders (or of train/val/test folders of them), "
        "a .csv/.tsv/.jsonl list, or the word elpv for the packaged solar cells.",
        "a path, or elpv",
        metavar="PATH",
    )
    classes: str = _key(
        "",
        "A text file with one class name a line, in the order of their labels; "
        "without it, labels are the sorted names.",
        "a path",
        metavar="FILE",
    )
    qualities: Qualities = _key(
        (10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
        "The JPEG quality factors.",
        "whole numbers from 1 to 100, each once",
        metavar="QF,QF,...",
    )
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = _key(
        "4:2:0", "Chroma subsampling of the variants.", "4:2:0, 4:2:2 or 4:4:4"
    )
    shards: Count = _key(
        0, "Number of output files, at least one a split; 0 chooses by size.", "0 or more"
    )
    workers: Count = _key(
        0, "Processes that encode; 0 takes one a core, fewer for few images.", "0 or more"
    )
    limit: Count = _key(
        0, "Take only so many images, stratified by label; 0 takes all.", "0 or more"
    )
    max_bad_share: Share = _key(
        0.05, "Stop when more than this share of the images is quarantined.", "from 0 to 1"
    )
    max_megapixels: PositiveFloat = _key(
        100.0, "Quarantine an image whose header declares more pixels than this.", "above 0"
    )
    overwrite: bool = _key(
        False, "Delete the variants made with other settings and start over.", "true or false"
    )


class ExtractConfig(Table):
    """The keys of `[extract]`."""

    backbone: str = _key(
        "inception_v3",
        "The pretrained network: a keras.applications name such as inception_v3, "
        "or efficientnet_lite0.",
        "a network's name",
        metavar="NAME",
    )
    weights: str = _key(
        "imagenet",
        "imagenet, none (random, from the seed) or the path of a Keras weights file.",
        "imagenet, none or a path",
        metavar="WEIGHTS",
    )
    node: Names = _key(
        (),
        "The pivotal node to cut at; give it again for more nodes in one pass. "
        "Without it, the one that the decision layer reads.",
        "names that `bottleneck nodes` prints",
        metavar="NAME",
        repeat=True,
    )
    branches: Branches = _key(
        ("all",),
        "The variants to run, by name (original,q010,...).",
        "all, or names of variants",
        metavar="NAME,NAME,...",
    )
    from_node: str = _key(
        "",
        "Start from the cache of this node, in front of the ones asked for, instead of the images.",
        "a cached node's name",
        metavar="NAME",
    )
    dtype: Literal["float32", "float16", "uint8"] = _key(
        "float16",
        "How activations are stored: float32 is bit-exact, uint8 has a scale for each channel.",
        "float32, float16 or uint8",
    )
    encoding: Literal["auto", "sparse", "dense"] = _key(
        "auto",
        "Keep only what is not zero, or everything; auto takes the smaller on the first images.",
        "auto, sparse or dense",
    )
    format: Literal["parquet", "tfrecord"] = _key(
        "parquet", "The shards' file format.", "parquet or tfrecord"
    )
    shard_size: SizeBytes = _key(
        "128MB",
        "Size of an output file, about (kB, MB, GB); at most 1,024 images.",
        "a size such as 128MB",
        metavar="SIZE",
    )
    shards: Count = _key(
        0, "Number of output files, at least one a split; 0 goes by --shard-size.", "0 or more"
    )
    check_images: Count = _key(
        32,
        "Compare so many images' scores through the whole network and through the cache; "
        "0 checks nothing.",
        "0 or more",
    )
    batch_size: Positive = _key(
        8,
        "Images in one forward pass, each with all its versions; part of the cache's settings.",
        "1 or more",
    )
    features_dir: str = _key(
        "features",
        "The folder for the caches.",
        "a path",
        metavar="DIR",
    )
    overwrite: bool = _key(
        False, "Delete caches of the same node made with other settings.", "true or false"
    )


class TrainTailConfig(Table):
    """The keys of `[train-tail]`."""

    node: str = _key(
        "",
        "Train from this node's cache; without it, the only cache there is.",
        "a cached node's name",
        metavar="NAME",
    )
    run: RunName = _key(
        "", "The run's name, a folder in runs/; without it, the node's name.", "a plain name"
    )
    start_from: RunName = _key(
        "",
        "Take over the best weights of an earlier run for the layers they share.",
        "a run's name",
        metavar="RUN",
    )
    branches: Branches = _key(
        ("all",),
        "The branches of the topology, by name.",
        "all, or names of cached branches",
        metavar="NAME,NAME,...",
    )
    default: Literal["trained", "pretrained"] = _key(
        "trained",
        "The default model to compare with: trained with the same tail and budget on the "
        "original alone, or the backbone's own classifier.",
        "trained or pretrained",
    )
    epochs: Positive = _key(20, "Most passes over the train split (thesis 3.4.1).", "1 or more")
    batch_size: Positive = _key(100, "Images in one step (thesis 3.4.1).", "1 or more")
    learning_rate: PositiveFloat = _key(
        0.01,
        "Learning rate of the first block; the k-th run of a --start-from chain takes a tenth "
        "of the one before (thesis, Algorithm 2).",
        "above 0",
    )
    gradients: Literal["original", "all"] = _key(
        "original",
        "Which branches the tail learns from; the others only go forward (thesis 3.4.2).",
        "original or all",
    )
    head_init: Literal["random", "pretrained"] = _key(
        "random",
        "How the head starts: random, or the backbone's classifier on the original branch.",
        "random or pretrained",
    )
    eval_every: Count = _key(
        0,
        "Steps between evaluations; 0 means 2,000 (thesis) or one epoch, the shorter.",
        "0 or more",
    )
    patience: Positive = _key(
        1, "Epochs without a better validation error that end the block.", "1 or more"
    )
    expand: Literal["auto", "host", "device"] = _key(
        "auto",
        "Where sparse maps become dense: in the reader's threads, or inside the training step; "
        "auto takes the device when it is a GPU. The numbers are the same.",
        "auto, host or device",
    )
    memory_budget_mb: Count = _key(
        512, "Keep a split's cells in memory when they fit this many MB.", "0 or more"
    )
    features_dir: str = _key(
        "",
        "The folder of the caches; without it, the one of [extract].",
        "a path",
        metavar="DIR",
    )
    overwrite: bool = _key(
        False, "Delete a run of this name made with other settings.", "true or false"
    )


class EvalConfig(Table):
    """The keys of `[eval]`."""

    run: RunName = _key("", "The run to judge; without it, the latest.", "a run's name")
    split: Literal["test", "val"] = _key(
        "test",
        "The images to report on; val reports on the images that the checkpoint was selected on.",
        "test or val",
    )


class StatsConfig(Table):
    """The keys of `[stats]`."""

    node: Names = _key(
        (),
        "Show this node's cache; give it again for more. Without it, all there are.",
        "names of cached nodes",
        metavar="NAME",
        repeat=True,
    )
    images: Count = _key(
        10_000, "Images that the pictures are drawn from; 0 takes all.", "0 or more"
    )
    features_dir: str = _key(
        "",
        "The folder of the caches; without it, the one of [extract].",
        "a path",
        metavar="DIR",
    )


class VerifyConfig(Table):
    """The keys of `[verify]`."""

    deep: bool = _key(False, "Decode every image and every map, too.", "true or false")
    repair: bool = _key(
        False,
        "Move bad files aside, so that the next run of their stage makes exactly those again; "
        "write plans and receipts again that a manifest holds.",
        "true or false",
    )
    features_dir: str = _key(
        "",
        "The folder of the caches; without it, the one of [extract].",
        "a path",
        metavar="DIR",
    )


class GlobalConfig(Table):
    """The keys outside any table; flags of every command."""

    seed: Seed = _key(0, "Fixes splits, orders and random starts.", "from 0 to 4294967295")
    verbosity: Verbosity = _key(0, "-1 as -q: errors only; 1 as -v: details.", "-1, 0 or 1")
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
    "stats": StatsConfig,
    "verify": VerifyConfig,
}
