"""The keys of `[extract]`."""

from __future__ import annotations

from typing import Literal

from pipelines.config_keys import HANG_TIMEOUT, NUM_TASKS, TASK_INDEX, Table, key
from pipelines.storage import set_folders
from pipelines.values import Batch, Branches, Count, Devices, Names, Positive, SizeBytes, Workers


class ExtractConfig(Table):
    """The keys of `[extract]`."""

    backbone: str = key(
        "inception_v3",
        "The pretrained network: a keras.applications name such as inception_v3, "
        "or efficientnet_lite0.",
        "a network's name",
        metavar="NAME",
    )
    weights: str = key(
        "imagenet",
        "imagenet, none (random, from the seed) or the path of a Keras weights file.",
        "imagenet, none or a path",
        metavar="WEIGHTS",
    )
    node: Names = key(
        (),
        "The pivotal node to cut at; give it again for more nodes in one pass. "
        "Without it, the one that the decision layer reads.",
        "names that `bottleneck nodes` prints",
        metavar="NAME",
        repeat=True,
    )
    set: Literal["jpeg", "control"] = key(
        "jpeg",
        "Which set of variants to run, as compress makes it: jpeg or control.",
        "jpeg or control",
    )
    branches: Branches = key(
        ("all",),
        "The variants to run, by name (original,q010,...).",
        "all, or names of variants",
        metavar="NAME,NAME,...",
    )
    from_node: str = key(
        "",
        "Start from the cache of this node, in front of the ones asked for, instead of the images.",
        "a cached node's name",
        metavar="NAME",
    )
    dtype: Literal["float32", "float16", "uint8"] = key(
        "float16",
        "How activations are stored: float32 is bit-exact, uint8 has a scale for each channel.",
        "float32, float16 or uint8",
    )
    encoding: Literal["auto", "sparse", "dense"] = key(
        "auto",
        "Keep only what is not zero, or everything; auto takes the smaller on the first images.",
        "auto, sparse or dense",
    )
    format: Literal["parquet", "tfrecord"] = key(
        "parquet", "The shards' file format.", "parquet or tfrecord"
    )
    shard_size: SizeBytes = key(
        "128MB",
        "Size of an output file, about (kB, MB, GB); at most 1,024 images.",
        "a size such as 128MB",
        metavar="SIZE",
    )
    shards: Count = key(
        0, "Number of output files, at least one a split; 0 goes by --shard-size.", "0 or more"
    )
    check_images: Count = key(
        32,
        "Compare so many images' scores through the whole network and through the cache; "
        "0 checks nothing.",
        "0 or more",
    )
    on_the_fly: bool = key(
        False,
        "Make the variants in memory from the images of [compress], without storing them; "
        "the cache is the same.",
        "true or false",
    )
    batch_size: Batch = key(
        "auto",
        "Images in one forward pass, each with all its versions, fixed by the cache's plan; "
        "auto takes as many as fit: 8 or fewer on the CPU, up to 64 on a GPU.",
        "auto, or 1 or more",
        metavar="N|auto",
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = key(
        "float32",
        "In what the network computes; the mixed ones are for speed on a GPU, with other numbers.",
        "float32, mixed_float16 or mixed_bfloat16",
        metavar="NAME",
    )
    devices: Devices = key(
        "auto",
        "Where the network runs, one worker a GPU; auto takes every GPU, or else the CPU.",
        "auto, cpu, gpu, or GPUs such as gpu:0,1",
        metavar="auto|cpu|gpu:N,N",
    )
    threads: Positive = key(
        2,
        "Threads of a worker's TensorFlow; its numbers depend on it, so that it stays the same "
        "on every machine.",
        "1 or more",
    )
    workers: Workers = key(
        "auto",
        "Processes that run the network; auto takes one a GPU, or as many as have --threads "
        "cores each.",
        "auto, or 1 or more",
        metavar="N|auto",
    )
    task_index: Count = TASK_INDEX
    num_tasks: Positive = NUM_TASKS
    hang_timeout: Count = HANG_TIMEOUT
    features_dir: str = key(
        "features",
        "The folder for the caches; those of the control set go to one beside it, with -control "
        "behind its name.",
        "a path",
        metavar="DIR",
    )
    overwrite: bool = key(
        False, "Delete caches of the same node made with other settings.", "true or false"
    )

    @property
    def caches_dir(self) -> str:
        """The folder that the caches of the set go to."""
        return set_folders.features(self.features_dir, self.set)
