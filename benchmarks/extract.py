"""`extract` against what its two halves allow: decoding with resizing, and the forward pass.

Each half is measured alone on all cores. On a CPU they share the cores, so the limit of both
together is 1 / (1 / forward + 1 / preparation); beside a GPU they can run at once, and the slower
one is the limit.

The stage's clock starts when it begins on its first shard and stops when the whole stage returns:
loading TensorFlow, building the network, compiling and the probe come before, filling the
pipeline, encoding, writing and the manifests are counted.
"""

from __future__ import annotations

import csv
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import report
from pipelines import compress, extract
from pipelines.config import CompressConfig, ExtractConfig
from pipelines.execution import devices
from pipelines.execution.threads import num_cores, ordered_map
from pipelines.extraction.inputs import Images, Inputs
from pipelines.images import preprocess, sources
from pipelines.networks import backbones, forward, nodes
from pipelines.progress import Silent
from pipelines.storage import set_folders, variants

_BACKBONE = "efficientnet_lite0"
_NODES = ("avg_pool", "block7a_expand_activation")
_TARGET = "at least 0.95"
_MAX_BATCHES = 16  # ready in memory; more images go through the same ones again


class _Clock(Silent):
    """Notes when the stage begins on its shards."""

    def __init__(self) -> None:
        self.started = float("nan")

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Note the time."""
        if what == "extract":
            self.started = time.perf_counter()


@dataclass(frozen=True)
class _Halves:
    """The two halves of the work, ready to be measured alone.

    Attributes:
        inputs: the batches as the stage reads them, the encoded images in memory.
        forward: the compiled frozen pass of one batch.
        batches: uint8 (batch, branches, size, size, 3), prepared ones.
    """

    inputs: Sequence[Inputs]
    forward: Callable[[np.ndarray], list[np.ndarray]]
    batches: Sequence[np.ndarray]

    @property
    def num_images(self) -> int:
        """Of all batches, which are whole."""
        return sum(len(inputs.ids) for inputs in self.inputs)

    def rate_of_preparation(self) -> float:
        """Decode and resize image by image in a thread a core; images/s."""
        cores = num_cores()
        started = time.perf_counter()
        for _ in ordered_map(lambda task: task(), self._parts(), cores, 2 * cores):
            pass
        return self.num_images / (time.perf_counter() - started)

    def _parts(self) -> Iterator[Callable[[], None]]:
        for inputs in self.inputs:
            array = inputs.make()
            yield from (partial(part, array) for part in inputs.parts)

    def rate_of_forward(self) -> float:
        """Run the frozen pass over as many batches as the stage has; images/s."""
        started = time.perf_counter()
        for batch in itertools.islice(itertools.cycle(self.batches), len(self.inputs)):
            self.forward(batch)
        return self.num_images / (time.perf_counter() - started)


def main() -> None:
    """Measure and publish."""
    parser = report.parser("extract", "Measure the stage extract.", repetitions=9)
    parser.add_argument(
        "--images", type=report.positive, default=128, help="solar cells, rounded to whole batches"
    )
    parser.add_argument("--batch-size", type=report.positive, default=8, help="images a batch")
    parser.add_argument("--qualities", metavar="QF,QF,...", help="of the variants, else all ten")
    arguments = parser.parse_args()
    # The check of the cut takes its 32 images whatever the set: no share of a real one's work.
    config = ExtractConfig(
        backbone=_BACKBONE,
        node=_NODES,
        batch_size=arguments.batch_size,
        check_images=0,
        workers=1,  # others would start while the clock runs
        threads=num_cores(),
    )
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        workspace_dir = Path(folder)
        list_path = write_list(workspace_dir, arguments.images, arguments.batch_size)
        given = {"images": str(list_path), "qualities": arguments.qualities}
        made_from = {key: value for key, value in given.items() if value}
        compress.run(workspace_dir, CompressConfig.model_validate(made_from), 0, Silent())
        profile = devices.configure()
        halves = _ready_halves(workspace_dir, config, arguments.batch_size)
        figures = report.take_turns(
            {
                "stage": lambda: _rate_of_stage(workspace_dir, config, halves.num_images),
                "forward": halves.rate_of_forward,
                "preparation": halves.rate_of_preparation,
            },
            arguments.repetitions,
            warm_up=True,
        )
    pairs = list(zip(figures["forward"], figures["preparation"], strict=True))
    if profile["device"] == "cpu":
        limits = [1 / (1 / passed + 1 / prepared) for passed, prepared in pairs]
        limit_name = "1 / (1 / forward + 1 / preparation)"
    else:
        limits, limit_name = [min(pair) for pair in pairs], "the slower of forward and preparation"
    row = report.compare(
        f"extract {_BACKBONE}, {' and '.join(_NODES)}, {halves.num_images} images",
        "images/s",
        figures["stage"],
        limits,
        limit_name,
        _TARGET,
        {
            f"{name} alone, images/s": statistics.median(figures[name])
            for name in ("forward", "preparation")
        },
    )
    report.publish("extract", arguments, [row])


def write_list(folder: Path, num_images: int, batch_size: int) -> Path:
    """Write a list of solar cells whose splits are whole batches.

    A shard's last batch is padded; with few images that would be a share of the work that no real
    set has.
    """
    source = sources.open_source("elpv", base_dir=folder)
    side = max(1, round(0.15 * num_images / batch_size)) * batch_size
    num_train = max(num_images - 2 * side, 2) // batch_size * batch_size or batch_size
    splits = ["train"] * num_train + ["val"] * side + ["test"] * side
    ids, labels = source.table["id"].to_pylist(), source.labels.tolist()
    # Alternate between the two classes while both last, so that few images hold both.
    by_class = [[i for i, label in enumerate(labels) if label == k] for k in (0, 1)]
    chosen = [i for pair in itertools.zip_longest(*by_class) for i in pair if i is not None]
    if len(splits) > len(chosen):
        raise SystemExit(f"--images {num_images}: there are {len(chosen)} solar cells")
    path = folder / "cells.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for i, split in zip(chosen, splits, strict=False):
            writer.writerow([source.path_of(ids[i]), source.classes[labels[i]], split])
    return path


def _ready_halves(workspace_dir: Path, config: ExtractConfig, batch_size: int) -> _Halves:
    """Build what the stage builds, and prepare some batches."""
    source = variants.open_set(workspace_dir / set_folders.stored(), config.branches)
    backbone = backbones.load(config.backbone, config.weights)
    chosen = [nodes.find_node(backbone.name, backbone.model, name) for name in config.node]
    protocol = preprocess.for_backbone(backbone.protocol, backbone.input_size)
    run_forward = forward.build(
        nodes.front(backbone.model, chosen),
        [node.name for node in chosen],
        forward.Batch(
            batch_size,
            len(source.names),
            (protocol.size, protocol.size, 3),
            protocol,
        ),
    )
    images = Images(source, protocol)
    inputs = [
        batch
        for split, count in images.num_rows().items()
        for batch in images.inputs(split, 0, count, batch_size)
    ]
    return _Halves(inputs, run_forward, [batch.load() for batch in inputs[:_MAX_BATCHES]])


def _rate_of_stage(workspace_dir: Path, config: ExtractConfig, num_images: int) -> float:
    """Run the stage into a new folder; images/s from its first shard to its return."""
    features_dir = workspace_dir / config.features_dir
    clock = _Clock()
    extract.run(workspace_dir, config, 0, clock)
    rate = num_images / (time.perf_counter() - clock.started)
    shutil.rmtree(features_dir)
    return rate


if __name__ == "__main__":
    main()
