"""Training from the cache: what reader, loop, devices and sweeps cost, and what the cache saves.

The real trainer runs its real loop: batches from the cache, losses looked at, progress told. Its
steps are counted from the end of the first one on, which compiles what the others do; evaluations
and checkpoints lie before and behind. Caches are made up, but for the part `head`, which trains on
photographs of solar cells.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import fits, report, training_head, training_memory
from benchmarks.fits import RESIDENT, STREAMED, Bench, Pace, ReadyStep
from benchmarks.report import Row
from benchmarks.synthetic_cache import Contents

_READY = "the same compiled step on tensors in memory"
_HOW = {STREAMED: "streamed", RESIDENT: "in memory"}
_SWEEP_EPOCHS = 4  # the first is not counted
_NUM_CPUS = 2


class Setting:
    """What the parts work on; a cache is made when the first of them asks for it.

    Attributes:
        folder: for everything.
        asked: the arguments.
    """

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        self.folder, self.asked = folder, asked

    @functools.cached_property
    def decision(self) -> Bench:
        """The decision layer alone, of many classes."""
        return self._prepare(self.asked.classes)

    @functools.cached_property
    def heads(self) -> Bench:
        """The same of two classes."""
        return self._prepare(2)

    @functools.cached_property
    def deep(self) -> Bench:
        """A tail that is more work."""
        asked = self.asked
        rows = {"train": asked.deep_images, "val": asked.deep_batch_size}
        contents = Contents(rows, 2, asked.deep_density)
        return fits.prepare(self.folder / "deep", asked.backbone, asked.node, contents)

    @property
    def deep_settings(self) -> dict[str, Any]:
        """Settings of its training."""
        return {"epochs": self.asked.epochs, "batch_size": self.asked.deep_batch_size}

    @property
    def num_deep_steps(self) -> int:
        """Steps of that."""
        return self.asked.epochs * self.deep.num_steps(self.asked.deep_batch_size)

    def _prepare(self, num_classes: int) -> Bench:
        asked = self.asked
        rows = {"train": asked.images, "val": min(asked.images, asked.batch_size)}
        contents = Contents(rows, num_classes, asked.density)
        return fits.prepare(self.folder / f"head-{num_classes}", asked.backbone, "", contents)


def steps(setting: Setting) -> list[Row]:
    """Hold the trainer's steps against its compiled step on tensors that are ready."""
    asked, bench = setting.asked, setting.decision
    settings = {"epochs": asked.epochs, "batch_size": asked.batch_size}
    what = f"decision layer of {len(bench.cache.classes):,} classes"
    targets = {STREAMED: "at least 0.85", RESIDENT: "at least 0.95"}
    rows = _steps(bench, settings, asked.repetitions, what, targets)
    targets = {STREAMED: "at least 0.95"}
    return rows + _steps(setting.deep, setting.deep_settings, asked.repetitions, "tail", targets)


def _steps(
    bench: Bench, settings: dict[str, Any], repetitions: int, what: str, targets: dict[str, str]
) -> list[Row]:
    ready = ReadyStep(bench, fits.config_of(**settings))
    batches, batch_size = ready.batches(), settings["batch_size"]
    num_steps = settings["epochs"] * bench.num_steps(batch_size)
    cpu_ms: dict[str, list[float]] = {name: [] for name in (*targets, _READY)}

    def measure(name: str) -> float:
        if name == _READY:
            found = ready.pace(batches, num_steps)
        else:
            found = _pace(bench, cache_memory=name, **settings)
        cpu_ms[name].append(found.cpu_ms)
        return found.rate

    figures = report.take_turns(
        {name: functools.partial(measure, name) for name in cpu_ms}, repetitions
    )
    return [
        report.compare(
            f"train {what}, {bench.what}, {_HOW[memory]}, {batch_size} images a step",
            "steps/s",
            figures[memory],
            figures[_READY],
            _READY,
            target,
            {
                "processor ms a step": statistics.median(cpu_ms[memory]),
                "processor ms a step, of the baseline": statistics.median(cpu_ms[_READY]),
            },
        )
        for memory, target in targets.items()
    ]


def _pace(bench: Bench, **settings: Any) -> Pace:
    """Train from the start."""
    return fits.pace(fits.train(bench, fits.config_of(**settings)))


def gradients(setting: Setting) -> list[Row]:
    """Hold a step that walks the original backward against one that walks all branches."""
    bench, num_steps, measures = setting.deep, setting.num_deep_steps, {}
    for name in ("original", "all"):
        ready = ReadyStep(bench, fits.config_of(**setting.deep_settings, gradients=name))
        measures[name] = functools.partial(_step_s, ready, ready.batches(), num_steps)
    figures = report.take_turns(measures, setting.asked.repetitions)
    return [
        report.compare(
            f"train tail, {bench.what}, --gradients original",
            "s a step",
            figures["original"],
            figures["all"],
            "--gradients all",
            "at most 0.6",
        )
    ]


def _step_s(ready: ReadyStep, batches: Any, num_steps: int) -> float:
    return 1 / ready.pace(batches, num_steps).rate


def devices(setting: Setting) -> list[Row]:
    """Hold two logical devices against one, each in a process of its own, the batch the same."""
    spawned, bench = multiprocessing.get_context("spawn"), setting.deep
    # Larger batches: gradients are added up once a step, whatever its size.
    settings = {**setting.deep_settings, "batch_size": setting.asked.devices_batch_size}
    with ProcessPoolExecutor(1, spawned) as two, ProcessPoolExecutor(1, spawned) as one:

        def rate(pool: ProcessPoolExecutor, num_cpus: int) -> float:
            where = (bench.cache.path, bench.backbone.name, num_cpus)
            return pool.submit(_rate_on, *where, settings).result()

        figures = report.take_turns(
            {"two": lambda: rate(two, _NUM_CPUS), "one": lambda: rate(one, 1)},
            setting.asked.repetitions,
        )
    return [
        report.compare(
            f"train tail, {bench.what}, streamed, {settings['batch_size']} images a step, "
            f"--devices cpu:{_NUM_CPUS}",
            "steps/s",
            figures["two"],
            figures["one"],
            "--devices cpu, as many images a step",
            "at least 0.9",
        )
    ]


def _rate_on(cache_dir: Path, backbone_name: str, num_cpus: int, settings: dict[str, Any]) -> float:
    """Train in this process, whose CPU is divided once and for all; steps/s."""
    bench = _opened(cache_dir, backbone_name, num_cpus)
    return _pace(bench, cache_memory=STREAMED, **settings).rate


@functools.cache
def _opened(cache_dir: Path, backbone_name: str, num_cpus: int) -> Bench:
    return fits.open_again(cache_dir, backbone_name, num_cpus)


def sweep(setting: Setting) -> list[Row]:
    """Hold heads side by side against the same heads one after the other."""
    asked, bench = setting.asked, setting.heads
    rows = []
    for memory, target in ((STREAMED, "under 0.5"), (RESIDENT, "none")):
        configs = [
            fits.config_of(
                epochs=_SWEEP_EPOCHS,
                batch_size=asked.batch_size,
                cache_memory=memory,
                learning_rate=0.001 * (1 + number),
            )
            for number in range(asked.heads)
        ]
        measures = {
            "together": functools.partial(fits.epoch_s, bench, *configs),
            "apart": functools.partial(_apart_s, bench, configs),
        }
        figures = report.take_turns(measures, asked.repetitions)
        row = report.compare(
            f"sweep of {asked.heads} heads of 2 classes, {bench.what}, {_HOW[memory]}",
            "s an epoch",
            figures["together"],
            figures["apart"],
            f"{asked.heads} trainings one after the other, each on its own reading",
            target,
        )
        rows.append(row)
    return rows


def _apart_s(bench: Bench, configs: list[Any]) -> float:
    return sum(fits.epoch_s(bench, config) for config in configs)


def head(setting: Setting) -> list[Row]:
    """Hold training from the cache against training without."""
    asked = setting.asked
    demo = training_head.open_demo(setting.folder / "demo", asked.workspace, asked.cells)
    return training_head.compare(demo, setting.folder, asked.uncached, asked.repetitions)


def memory(setting: Setting) -> list[Row]:
    """Measure what the command holds, by the number of images and by the size of the head."""
    asked = setting.asked
    fits.configure()  # quietly, before the networks are loaded
    sizes = training_memory.Sizes(asked.backbone, asked.density, asked.batch_size, asked.classes)
    return [
        training_memory.by_images(setting.folder, sizes, asked.memory_images, asked.repetitions),
        training_memory.by_head(setting.folder, sizes, asked.images, asked.repetitions),
    ]


_PARTS: dict[str, Callable[[Setting], list[Row]]] = {
    "steps": steps,
    "gradients": gradients,
    "devices": devices,
    "sweep": sweep,
    "head": head,
    "memory": memory,
}


def main() -> None:
    """Measure and publish."""
    parser = _parser()
    asked = parser.parse_args()
    for num_images, batch_size in (
        (asked.images, asked.batch_size),
        (asked.deep_images, asked.deep_batch_size),
        (asked.deep_images, asked.devices_batch_size),
    ):
        if asked.epochs * (num_images // batch_size) < 2:
            parser.error("that is less than two steps; raise the numbers of images, or --epochs")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        setting = Setting(Path(folder), asked)
        for name in asked.parts:
            rows += _PARTS[name](setting)
    asked.workspace = str(asked.workspace or "")
    report.publish("training", asked, rows)


def _parser() -> argparse.ArgumentParser:
    parser = report.parser("training", "Measure train-tail.", repetitions=5)
    add, whole = parser.add_argument, report.positive
    add("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="what to measure")
    add("--backbone", default="inception_v3", help="gives the shapes; its weights are random")
    add("--images", type=whole, default=2000, help="of the decision layer's train split")
    add("--classes", type=whole, default=1000, help="of the decision layer")
    add("--density", type=float, default=0.75, help="share of its features that are not zero")
    add("--batch-size", type=whole, default=100, help="its images a step")
    add("--epochs", type=whole, default=3, help="of a training that is timed by its steps")
    add("--node", default="mixed_9", help="that the tail lies behind")
    add("--deep-images", type=whole, default=64, help="of the tail's train split")
    add("--deep-density", type=float, default=0.11, help="share of its maps that is not zero")
    add("--deep-batch-size", type=whole, default=4, help="its images a step")
    add("--devices-batch-size", type=whole, default=16, help="images a step of the part devices")
    add("--heads", type=whole, default=8, help="of the sweep")
    add("--cells", type=whole, default=600, help="solar cells of the part head")
    add("--workspace", type=Path, metavar="DIR", help="of a `bottleneck demo`, instead of these")
    add("--uncached", type=whole, default=24, help="cells that are run through the whole network")
    add(
        "--memory-images",
        type=whole,
        nargs=2,
        default=[6000, 24000],
        metavar=("SMALL", "LARGE"),
        help="of the two sets of the part memory",
    )
    return parser


if __name__ == "__main__":
    main()
