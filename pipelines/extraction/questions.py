"""What a worker of extract is asked beside its shards: what the network is, how maps encode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.extraction.cut_check import spans
from pipelines.extraction.extractor import Extractor
from pipelines.extraction.writing import naming
from pipelines.storage import probe
from pipelines.storage.layout import Layout
from pipelines.storage.probe import Choice, Probe


@dataclass(frozen=True)
class Describe:
    """What is the network?"""

    def answer(self, extractor: Extractor, beat: Callable[[], None]) -> Any:
        """Return the extractor's description."""
        return extractor.description


@dataclass(frozen=True)
class ProbeMaps:
    """How do the first images' maps encode best?

    Attributes:
        asked: layouts by the node's place; the encoding that is asked for, or "auto".
    """

    asked: Mapping[int, Layout]

    def answer(self, extractor: Extractor, beat: Callable[[], None]) -> list[Choice]:
        """Return a choice for each layout.

        Raises:
            FeatureError: a map cannot be stored.
        """
        probes = {i: Probe(layout) for i, layout in self.asked.items()}
        needs_ranges = any(found.needs_ranges for found in probes.values())
        # Twice where scales must be found first.
        for take in [Probe.see, Probe.measure] if needs_ranges else [Probe.measure]:
            for maps, names in _first_maps(extractor):
                for i, found in probes.items():
                    with naming(extractor.network.names[i]):
                        take(found, maps[i], names)
                beat()
        return [found.choice() for found in probes.values()]


def _first_maps(extractor: Extractor) -> Iterator[tuple[list[np.ndarray], list[str]]]:
    source, network = extractor.source, extractor.network
    for split, count in spans(source.num_rows(), probe.NUM_IMAGES):
        for batch in source.inputs(split, 0, count, network.batch_size):
            maps = network.run_forward(batch.load())
            yield [found[: len(batch.ids)] for found in maps], batch.ids
