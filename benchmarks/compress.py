"""`compress` against the same libraries called bare: decode once, encode ten times.

The stage also lists and hashes files, writes shards durably and reads them back for its report.
The bare loop has the images' bytes in memory, throws its results away, and runs in one thread;
times the cores it is what a machine could do at most, were each core as fast beside busy ones as
alone. Hyper-threads are not, so the same loop is measured a second time in one process a core, all
at once.

The stage is imported in functions: its worker processes load this file, as they would load the
small `bottleneck` script.
"""

from __future__ import annotations

import io
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report
from pipelines.execution.threads import num_cores

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.config import CompressConfig

_TARGET = "at least 0.8"
_BARRIER_TIMEOUT_S = 600
_together: Any = None  # the barrier of the worker processes, set in each of them


def main() -> None:
    """Measure and publish."""
    parser = report.parser("compress", "Measure the stage compress.", repetitions=5)
    parser.add_argument("--images", type=report.positive, default=2000, help="images of each set")
    parser.add_argument(
        "--sets", nargs="+", choices=("elpv", "photos"), default=["elpv", "photos"], help="images"
    )
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as folder:
        for name in arguments.sets:
            rows += _measure(name, arguments.images, arguments.repetitions, Path(folder))
    report.publish("compress", arguments, rows)


def _measure(name: str, num_images: int, repetitions: int, folder: Path) -> list[report.Row]:
    """Compare the stage with the bare loop on one set of images."""
    from benchmarks import photos
    from pipelines.config import CompressConfig

    config = CompressConfig(images="elpv", limit=num_images)
    if name == "photos":
        photos.write(folder / "photos", num_images)
        config = CompressConfig(images=str(folder / "photos"))
    _run_stage(folder / "first", config)
    files = _originals(folder / "first")
    shutil.rmtree(folder / "first")
    cores = num_cores()
    context = multiprocessing.get_context("spawn")
    arguments = (context.Barrier(cores),)
    with ProcessPoolExecutor(cores, context, _start_worker, arguments) as pool:
        figures = report.take_turns(
            {
                "stage": lambda: _rate_of_stage(folder / "again", config),
                "thread": lambda: bare(files, config) * cores,
                "processes": lambda: sum(pool.map(_bare_at_once, [(files, config)] * cores)),
            },
            repetitions,
            warm_up=True,
        )
    mean_kb = statistics.fmean(map(len, files)) / 1000
    limits = {
        "thread": f"bare decode and encodes in one thread x {cores} cores",
        "processes": f"the same in {cores} processes at once",
    }
    return [
        report.compare(
            f"compress {name}, {len(files)} images",
            "images/s",
            figures["stage"],
            figures[key],
            limit,
            _TARGET,
            {"mean KB of an original": mean_kb},
        )
        for key, limit in limits.items()
    ]


def _run_stage(workspace_dir: Path, config: CompressConfig) -> dict[str, Any]:
    from pipelines import compress
    from pipelines.progress import Silent

    return compress.run(workspace_dir, config, seed=0, progress=Silent())


def _rate_of_stage(workspace_dir: Path, config: CompressConfig) -> float:
    """Run the whole stage in a new workspace; images/s."""
    started = time.perf_counter()
    summary = _run_stage(workspace_dir, config)
    rate = summary["num_images"] / (time.perf_counter() - started)
    shutil.rmtree(workspace_dir)
    return rate


def _originals(workspace_dir: Path) -> list[bytes]:
    """Return the bytes of the images that the stage took."""
    from pipelines import compress
    from pipelines.storage import variants

    set_dir = workspace_dir / "variants" / compress.SET
    source = variants.open_set(set_dir, (variants.ORIGINAL,))
    return [
        row.variants[0]
        for split, count in source.num_rows().items()
        for row in source.rows(split, 0, count)
    ]


def bare(files: Sequence[bytes], config: CompressConfig) -> float:
    """Decode and encode with nothing around it, in this thread; images/s.

    Args:
        files: JPEG or 8-bit grayscale PNG files.
        config: which qualities and subsampling.
    """
    started = time.perf_counter()
    for data in files:
        image = _decode(data)
        subsampling = "4:4:4" if image.mode == "L" else config.subsampling
        for qf in config.qualities:
            image.save(io.BytesIO(), "JPEG", quality=qf, subsampling=subsampling)
    return len(files) / (time.perf_counter() - started)


def _decode(data: bytes) -> Image.Image:
    """Decode by the library that the stage uses for this kind of file."""
    import simplejpeg
    from PIL import Image

    if data.startswith(b"\xff\xd8"):
        pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        return Image.fromarray(pixels)
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _start_worker(together: Any) -> None:
    global _together
    _together = together


def _bare_at_once(work: tuple[Sequence[bytes], CompressConfig]) -> float:
    """Run the bare loop in this process once all processes are ready; images/s of this one."""
    _together.wait(_BARRIER_TIMEOUT_S)
    return bare(*work)


if __name__ == "__main__":
    main()
