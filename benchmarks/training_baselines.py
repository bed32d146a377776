"""Two ways to train a head without a bottleneck cache of binary shards."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.execution.threads import num_cores, ordered_map
from pipelines.extraction.inputs import Images
from pipelines.images import preprocess
from pipelines.networks import backbones, forward, nodes
from pipelines.storage import variants
from pipelines.storage.batches import FeatureReader

_FORWARD_IMAGES = 8  # at once, as extract has it on a CPU


class TextFiles:
    """A text file an image and branch, as TensorFlow's first retrain script of 2015 kept them.

    For every step it drew images at random, a class and then one of its images, opened and parsed
    their files one by one, and made an array of the numbers.
    """

    def __init__(self, folder: Path) -> None:
        """Keep files in a folder, by class."""
        self._folder = folder
        self._names: dict[int, list[str]] = {}
        self._branches: tuple[str, ...] = ()
        self._random = random.Random(0)

    def write(self, reader: FeatureReader) -> None:
        """Write all images of a reader, numbers with commas between them."""
        self._branches, number = reader.branches, 0
        for batch in reader.in_order(100):
            for maps, label in zip(batch.features, batch.labels.tolist(), strict=True):
                (self._folder / str(label)).mkdir(parents=True, exist_ok=True)
                self._names.setdefault(label, []).append(f"{number}.png")
                for branch, values in zip(self._branches, maps, strict=True):
                    text = ",".join(str(value) for value in values.reshape(-1))
                    Path(self._path(label, f"{number}.png", branch)).write_text(text)
                number += 1

    def draw(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a batch: float32 (images, branches, numbers), and labels."""
        features, labels = [], []
        for _ in range(batch_size):
            label = self._random.choice(list(self._names))
            name = self._random.choice(self._names[label])
            features.append([self._read(label, name, branch) for branch in self._branches])
            labels.append(label)
        return np.array(features, np.float32), np.array(labels)

    def _read(self, label: int, name: str, branch: str) -> list[float]:
        path = self._path(label, name, branch)
        if not os.path.exists(path):  # noqa: PTH110 - as that script, which makes it then
            raise FileNotFoundError(path)
        with open(path) as file:  # noqa: PTH123
            return [float(text) for text in file.read().split(",")]

    def _path(self, label: int, name: str, branch: str) -> str:
        return os.path.join(self._folder, str(label), f"{name}_{branch}.txt")  # noqa: PTH118


class WholeNetwork:
    """Every image decoded, resized and run through the frozen network, at every step.

    All cores decode, then all run the network: on a CPU neither leaves time to the other.
    """

    def __init__(self, variants_dir: Path, backbone_name: str, node_name: str) -> None:
        """Open stored variants, and load the network with its weights."""
        found = variants.open_set(variants_dir, ("all",))
        backbone = backbones.load(backbone_name)
        node = nodes.find_node(backbone.name, backbone.model, node_name)
        protocol = preprocess.for_backbone(backbone.protocol, backbone.input_size)
        shape = (protocol.size, protocol.size, 3)
        batch = forward.Batch(_FORWARD_IMAGES, len(found.names), shape, protocol)
        front = nodes.front(backbone.model, [node])
        self._images = Images(found, protocol)
        self._forward = forward.build(front, [node.name], batch)

    def read(self, num_images: int) -> tuple[np.ndarray, np.ndarray]:
        """Run images of the train split: float32 (images, branches, *shape), and labels."""
        features: list[np.ndarray] = []
        labels: list[int] = []
        for found, some in self._runs(num_images):
            features.append(found)
            labels += some
        return np.concatenate(features), np.array(labels)

    def _runs(self, num_images: int) -> Iterator[tuple[np.ndarray, Sequence[int]]]:
        for inputs in self._images.inputs("train", 0, num_images, _FORWARD_IMAGES):
            pixels = inputs.make()
            parts = (partial(part, pixels) for part in inputs.parts)
            for _ in ordered_map(lambda part: part(), parts, num_cores(), 2 * num_cores()):
                pass
            (maps,) = self._forward(pixels)
            yield maps[: len(inputs.ids)], inputs.labels
