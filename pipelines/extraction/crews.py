"""Workers for extract: where they run, and what the first of them says of the network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pipelines.errors import ConfigError
from pipelines.execution import slots
from pipelines.execution.engine import Crew, CrewSettings, Engine, Piece
from pipelines.extraction import reading
from pipelines.extraction.crashes import Finder
from pipelines.extraction.network import Facts, Job
from pipelines.extraction.questions import Describe


@dataclass(frozen=True)
class Places:
    """Where workers run.

    Attributes:
        devices: "auto", "cpu", "gpu" or some GPUs, such as "gpu:0,1".
        workers: how many; None for one a GPU, or as many as have `threads` cores each.
        threads: of a worker's TensorFlow.
        hang_s: seconds without a sign of life after which a worker is taken for dead.
    """

    devices: str
    workers: int | None
    threads: int
    hang_s: float


@dataclass(frozen=True)
class Manned:
    """A crew that is ready to work.

    Attributes:
        crew: the workers; all but the first start when there is work.
        facts: that the first has found out, and all must find.
        num_workers: at most.
    """

    crew: Crew
    facts: Facts
    num_workers: int


@contextlib.contextmanager
def manned(
    engine: Engine,
    work: Job,
    places: Places,
    num_rows: Mapping[str, int],
    say: Callable[[str], None],
) -> Iterator[Manned]:
    """Open workers, as many as the devices allow.

    Args:
        engine: has them.
        work: their job.
        places: where.
        num_rows: the images of each split.
        say: told where a GPU is there that cannot be used.

    Raises:
        ConfigError: there is no such device, or it cannot be used.
    """
    chosen = slots.choose(places.devices, places.workers, places.threads)
    work = dataclasses.replace(work, num_workers=len(chosen))
    on_crash = Finder(work.origin, num_rows, places.hang_s)
    with engine(work, CrewSettings(chosen, places.hang_s, on_crash)) as crew:
        facts: Facts = crew.call(Piece("the network", Describe()))
        on_crash.reading = reading.Job(work.origin, facts.protocol)
        if slots.are_gpus(chosen) and not facts.has_gpu:
            words = _why_no_gpu(facts)
            if places.devices != slots.AUTO:
                raise ConfigError(f"devices {places.devices}: {words}, or ask for --devices cpu")
            say(f"a GPU is there, and {words}; going on without it")
            chosen = slots.choose(slots.CPU, places.workers, places.threads)
            crew.move(chosen)
        crew.renew(
            dataclasses.replace(
                work, expected=facts, batch_size=facts.batch_size, num_workers=len(chosen)
            )
        )
        yield Manned(crew, facts, len(chosen))


def _why_no_gpu(facts: Facts) -> str:
    version = facts.profile["tensorflow"]
    if facts.is_built_with_gpu:
        return (
            f"TensorFlow {version} cannot use it: its CUDA libraries are missing or do not fit the "
            "driver; install them with pip install 'bottleneck-pipeline[gpu]'"
        )
    return (
        f"TensorFlow {version} has been built without GPU support; "
        "install the one that has with pip install 'bottleneck-pipeline[gpu]'"
    )
