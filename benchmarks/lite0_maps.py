"""Feature maps of Lite0 with its ImageNet weights, on solar cells and their JPEG versions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines import compress
from pipelines.config import CompressConfig
from pipelines.execution import devices
from pipelines.extraction.inputs import Images
from pipelines.images import preprocess
from pipelines.networks import backbones, forward, nodes
from pipelines.progress import Silent
from pipelines.storage import set_folders, variants

_BACKBONE = "efficientnet_lite0"


def run(
    names: Sequence[str], num_images: int, batch_size: int
) -> tuple[dict[str, np.ndarray], Callable[[], float]]:
    """Run the network over some cells.

    Args:
        names: of the nodes.
        num_images: cells, each in eleven versions.
        batch_size: cells in one forward pass.

    Returns:
        Maps by node, float32 (images, branches, height, width, channels), and a function that
        measures the forward pass, in maps a second.
    """
    devices.configure()
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        workspace_dir = Path(folder)
        compress.run(workspace_dir, CompressConfig(images="elpv", limit=num_images), 0, Silent())
        found = variants.open_set(workspace_dir / set_folders.stored(), ("all",))
        backbone = backbones.load(_BACKBONE)
        protocol = preprocess.for_backbone(backbone.protocol, backbone.input_size)
        source = Images(found, protocol)
        chosen = [nodes.find_node(backbone.name, backbone.model, name) for name in names]
        shape = (protocol.size, protocol.size, 3)
        batch = forward.Batch(batch_size, len(source.branches), shape, protocol)
        run_forward = forward.build(nodes.front(backbone.model, chosen), list(names), batch)
        parts: list[list[np.ndarray]] = []
        for split, count in source.num_rows().items():
            for inputs in source.inputs(split, 0, count, batch_size):
                pixels = inputs.load()
                parts.append([maps[: len(inputs.ids)] for maps in run_forward(pixels)])

    def rate() -> float:
        started = time.perf_counter()
        run_forward(pixels)
        return batch_size * len(source.branches) / (time.perf_counter() - started)

    joined = (np.concatenate(maps) for maps in zip(*parts, strict=True))
    return dict(zip(names, joined, strict=True)), rate
