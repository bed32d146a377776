"""The keys of `[train-tail]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from pipelines.config_keys import FEATURES_DIR, Table, key
from pipelines.values import (
    Branches,
    Count,
    MemoryBytes,
    Part,
    Positive,
    PositiveFloat,
    RunName,
    Steps,
    Sweeps,
    TrainDevices,
)

# What the thesis did (3.4.1, 3.4.2, 4.3.1, Algorithm 2), key by key.
RECIPES: dict[str, dict[str, Any]] = {
    "thesis": {
        "blocks": 4,
        "branches": ("all",),
        "fusion": "concat",
        "gradients": "original",
        "head_init": "random",
        "batch_norm": "stored",
        "default": "pretrained",
        "epochs": 20,
        "batch_size": 100,
        "learning_rate": 0.01,
        "schedule": "constant",
        "warmup": "0",
        "cuts": 0,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "precision": "float32",
        "eval_every": "2000",
        "patience": 1,
    }
}
# What says which one run, or which heads, and so excludes a chain of blocks.
_NO_CHAIN = ("node", "sweep", "start_from")


class TrainTailConfig(Table):
    """The keys of `[train-tail]`."""

    node: str = key(
        "",
        "Train from this node's cache; without it, the only cache there is.",
        "a cached node's name",
        metavar="NAME",
    )
    blocks: Count = key(
        0,
        "Train so many blocks in turn, from the end of the network towards the front, each from "
        "the best of the one before; 0 trains one run, from --node.",
        "0 or more",
    )
    extract: bool = key(
        False, "With --blocks, first make the caches that are missing.", "true or false"
    )
    recipe: Literal["", "thesis"] = key(
        "",
        "thesis: set every option to what the thesis did; those given beside it win.",
        "thesis, or nothing",
        metavar="thesis",
    )
    run: RunName = key(
        "",
        "The run's name, a folder in runs/; without it, the node's name. With --blocks and --sweep "
        "the runs' names begin with it (with --blocks alone, with `blocks`).",
        "a plain name",
    )
    start_from: RunName = key(
        "",
        "Take over the best weights of an earlier run for the layers they share.",
        "a run's name",
        metavar="RUN",
    )
    sweep: Sweeps = key(
        (),
        "Train heads side by side on one reading of the cache, one for each value, such as "
        "learning_rate=0.1,0.03; given again, one for each combination.",
        "KEY=VALUE,VALUE",
        metavar="KEY=V,V",
        repeat=True,
    )
    branches: Branches = key(
        ("all",),
        "The branches of the topology, by name.",
        "all, or names of cached branches",
        metavar="NAME,NAME,...",
    )
    copies: Count = key(
        0,
        "With --branches original: join so many copies of it as if each were a branch; a control "
        "with a head as wide, which sees no other version. 0 for none.",
        "0 or more",
    )
    fusion: Literal["concat", "mean", "original_mean", "weighted", "gated"] = key(
        "concat",
        "How the branches are joined in front of the head: concat (thesis), or as averages, with a "
        "smaller head: mean, original_mean, weighted or gated.",
        "concat, mean, original_mean, weighted or gated",
        metavar="NAME",
    )
    gradients: Literal["original", "all"] = key(
        "original",
        "Which branches the tail learns from; the others only go forward (thesis 3.4.2).",
        "original or all",
    )
    head_init: Literal["random", "pretrained"] = key(
        "random",
        "How the head starts: random, or as the backbone's classifier, with fusion concat and "
        "original_mean on the original branch.",
        "random or pretrained",
    )
    batch_norm: Literal["stored", "batch"] = key(
        "stored",
        "The statistics of BatchNorm while it is trained: those of the pretrained network, or of "
        "each batch.",
        "stored or batch",
    )
    default: Literal["trained", "pretrained"] = key(
        "trained",
        "The default model to compare with: trained with the same tail and budget on the "
        "original alone, or the backbone's own classifier.",
        "trained or pretrained",
    )
    epochs: Positive = key(20, "Most passes over the train split (thesis 3.4.1).", "1 or more")
    batch_size: Positive = key(
        100, "Images in one step, over all devices (thesis 3.4.1).", "1 or more"
    )
    learning_rate: PositiveFloat = key(
        0.01,
        "Learning rate of the first block; the k-th run of a chain takes a tenth of the one "
        "before (thesis, Algorithm 2).",
        "above 0",
    )
    schedule: Literal["constant", "cosine"] = key(
        "constant",
        "The learning rate within a block: constant (thesis), or down to 0 along a cosine.",
        "constant or cosine",
    )
    warmup: Steps = key(
        "0",
        "Steps, or part of an epoch (0.5epochs), over which the learning rate rises.",
        "a number of steps, or 0.5epochs",
        metavar="STEPS",
    )
    cuts: Count = key(
        0,
        "How often a plateau cuts the learning rate to a tenth before one ends the block.",
        "0 or more",
    )
    momentum: Part = key(0.0, "Momentum of gradient descent.", "from 0 to below 1")
    weight_decay: Part = key(
        0.0,
        "Share of each weight, but not of biases and norms, that a step takes away, times the "
        "learning rate.",
        "from 0 to below 1",
    )
    label_smoothing: Part = key(
        0.0, "Share of the target spread evenly over all classes.", "from 0 to below 1"
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = key(
        "float32",
        "In what the tail computes: float32, or, with other numbers, mixed_float16 or "
        "mixed_bfloat16, whose speed has not been measured.",
        "float32, mixed_float16 or mixed_bfloat16",
        metavar="NAME",
    )
    eval_every: Steps = key(
        "0",
        "Steps, or part of an epoch (0.5epochs), between evaluations; 0 means 2,000 (thesis) or "
        "one epoch, the shorter.",
        "a number of steps, or 0.5epochs",
        metavar="STEPS",
    )
    patience: Positive = key(
        1, "Epochs without a better validation error that end the block.", "1 or more"
    )
    devices: TrainDevices = key(
        "auto",
        "The devices that share each batch; auto takes every GPU, or else the CPU. cpu:2 divides "
        "the CPU in two, to try it out.",
        "auto, cpu, cpu:2, gpu, or GPUs such as gpu:0,1",
        metavar="auto|cpu|gpu:N,N",
    )
    expand: Literal["auto", "host", "device"] = key(
        "auto",
        "Where sparse maps become dense: in the reader's threads, or inside the training step; "
        "auto takes the device when it is a GPU. The numbers are the same.",
        "auto, host or device",
    )
    cache_memory: MemoryBytes = key(
        "512MB",
        "Keep splits in memory that fit into this (kB, MB, GB), decoded or else as stored.",
        "a size such as 512MB, or 0",
        metavar="SIZE",
    )
    features_dir: str = FEATURES_DIR
    overwrite: bool = key(
        False, "Delete a run of this name made with other settings.", "true or false"
    )

    @classmethod
    def beneath(cls, values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
        """Let flags win over what they exclude, and a recipe over what it says, in the file."""
        beaten = set(RECIPES.get(flags.get("recipe") or "", {}))
        if any(flags.get(name) for name in _NO_CHAIN):
            beaten |= {"blocks", "extract"}
        if flags.get("blocks"):
            beaten |= set(_NO_CHAIN)
        return {name: value for name, value in values.items() if name not in beaten}

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        """Let the recipe say what nothing else does."""
        recipe = RECIPES.get(values.get("recipe") or "", {}) if isinstance(values, dict) else {}
        if recipe and any(values.get(name) for name in _NO_CHAIN):
            recipe = {name: value for name, value in recipe.items() if name != "blocks"}
        return {**recipe, **values} if recipe else values
