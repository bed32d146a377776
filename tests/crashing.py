"""What ends the process that reads it, as a decoder with a bug does; workers find it by name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from extracting import Extract, MadeUp
from working import Network

from pipelines.execution import local
from pipelines.execution.engine import CrewSettings, Engine
from pipelines.extraction.extractor import Extractor
from pipelines.extraction.inputs import Inputs
from pipelines.extraction.reading import Reader
from pipelines.images.encode import Encoder


@dataclass(frozen=True)
class Deadly:
    """What happens at some images, by name.

    Attributes:
        crash: these end the process as a bad pointer does.
        hang: these are never done.
        killed: at these somebody else ends the process, as often as a number in `count_path` says.
        count_path: counted down.
    """

    crash: Sequence[str] = ()
    hang: Sequence[str] = ()
    killed: Sequence[str] = ()
    count_path: Path | None = None

    def meet(self, name: str) -> None:
        """Do what happens at this image."""
        if name in self.crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        while name in self.hang:
            time.sleep(60)
        if name in self.killed and self.count_path is not None:
            left = int(self.count_path.read_text())
            if left:
                self.count_path.write_text(str(left - 1))
                os.kill(os.getpid(), signal.SIGKILL)


def meet(deadly: Deadly, advance: Callable[[int], None]) -> str:
    """Do a piece of work that is nothing but one image; for `work.Doing`."""
    deadly.meet("image")
    return "done"


@dataclass(frozen=True)
class DeadlyEncoder(Encoder):
    """An encoder that does not survive all of its images."""

    deadly: Deadly = Deadly()

    def read(self, name: str) -> tuple[bytes, np.ndarray]:
        self.deadly.meet(name)
        return super().read(name)


def compressing(deadly: Deadly) -> Engine:
    """Return the local engine, whose workers do not survive all images of compress."""

    @contextlib.contextmanager
    def open_crew(job: Any, settings: CrewSettings) -> Iterator[local.Local]:
        fields = {f.name: getattr(job.encoder, f.name) for f in dataclasses.fields(job.encoder)}
        encoder = DeadlyEncoder(**fields, deadly=deadly)
        with local.open_crew(dataclasses.replace(job, encoder=encoder), settings) as crew:
            yield crew

    return open_crew


class DeadlySource(MadeUp):
    """Made-up images that not everybody survives."""

    def __init__(self, extract: Extract, deadly: Deadly) -> None:
        super().__init__(extract)
        self._deadly = deadly

    def inputs(self, split: str, start: int, stop: int, batch_size: int) -> Iterator[Inputs]:
        for found in super().inputs(split, start, stop, batch_size):
            names = found.ids

            def meet(array: np.ndarray, names: Sequence[str] = names) -> None:
                for name in names:
                    self._deadly.meet(name)

            yield dataclasses.replace(found, parts=[meet])


@dataclass(frozen=True)
class DeadlyNetwork(Network):
    """The made-up network, fed with images that it does not survive.

    Attributes:
        deadly: which.
        at_work: what happens beside the images: at all batches, to the network itself.
    """

    deadly: Deadly = Deadly()
    at_work: Deadly = Deadly()

    def open(self) -> Extractor:
        opened = super().open()

        def run(images: np.ndarray) -> list[np.ndarray]:
            self.at_work.meet("batch")
            return opened.network.run_forward(images)

        source = DeadlySource(self.extract, self.deadly)
        return dataclasses.replace(
            opened, source=source, network=dataclasses.replace(opened.network, run_forward=run)
        )


@dataclass(frozen=True)
class Reading:
    """A job that reads the images of a `DeadlyNetwork` and does no more."""

    extract: Extract
    deadly: Deadly

    def open(self) -> Reader:
        return Reader(DeadlySource(self.extract, self.deadly))
