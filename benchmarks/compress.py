"""`compress` against the same libraries called bare: decode once, encode ten times.

Two comparisons. The whole stage, which also lists and hashes files, starts processes, writes shards
durably and reads them back for its report, beside the bare loop in one thread times the cores: what
a machine could do at most, were each core as fast beside busy ones as alone. And shard by shard, in
the stage's own worker processes: after each shard the same process runs the bare loop on the same
images, so that whatever slows the machine meets both alike.

The bare loop has the images' bytes in memory and throws its results away.

The stage is imported in functions: its worker processes load this file, as they would load the
small `bottleneck` script.
"""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report
from pipelines.execution.threads import num_cores

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.config import CompressConfig
    from pipelines.execution.engine import Piece, Report
    from pipelines.images.encode import Encoder

_TARGET = "at least 0.8"
_SHARD_ROWS = 64  # as short as makes no difference to the shard, so that the two stay close in time


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
    cores = num_cores()
    figures = report.take_turns(
        {
            "stage": lambda: _rate_of_stage(folder / "again", config),
            "bare": lambda: bare(files, config) * cores,
        },
        repetitions,
        warm_up=True,
    )
    shards = [_rates_in_workers(folder / "first", config, cores) for _ in range(repetitions)]
    shutil.rmtree(folder / "first")
    details = {"mean KB of an original": statistics.fmean(map(len, files)) / 1000}
    return [
        report.compare(
            f"compress {name}, {len(files)} images, the whole stage",
            "images/s",
            figures["stage"],
            figures["bare"],
            f"bare decode and encodes in one thread x {cores} cores",
            _TARGET,
            details,
        ),
        report.compare(
            f"compress {name}, {len(files)} images, shard by shard",
            "images/s",
            [made for made, _ in shards],
            [limit for _, limit in shards],
            f"bare decode and encodes in the same {cores} processes, by turns",
            _TARGET,
            details,
        ),
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
    from pipelines.storage import set_folders, variants

    set_dir = workspace_dir / set_folders.stored()
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


def _rates_in_workers(
    workspace_dir: Path, config: CompressConfig, cores: int
) -> tuple[float, float]:
    """Make the set's shards again, in as many processes as there are cores.

    Returns:
        Images/s of all processes together while they make shards, and while they run bare.
    """
    from pipelines.execution.engine import CrewSettings, Piece
    from pipelines.execution.local import open_crew
    from pipelines.execution.slots import cpu_slots
    from pipelines.images import sources
    from pipelines.images.encode import Encoder, Listed
    from pipelines.images.jpeg import JpegCodec
    from pipelines.storage import set_folders, variants
    from pipelines.storage.plan import split_into_tasks

    source = variants.open_set(workspace_dir / set_folders.stored(), (variants.ORIGINAL,))
    root = sources.open_source(config.images, base_dir=workspace_dir).root
    encoder = Encoder(root, JpegCodec(config.qualities, config.subsampling), config.max_megapixels)
    num_rows = source.num_rows()
    tasks = split_into_tasks(num_rows, sum(num_rows.values()) // _SHARD_ROWS, variants.SUFFIX)
    pieces = [
        Piece(
            task.shard,
            Listed(task, [(r.id, r.label) for r in source.rows(task.split, task.start, task.stop)]),
        )
        for task in tasks
    ]
    settings = CrewSettings(cpu_slots(cores))
    with (
        tempfile.TemporaryDirectory(dir=workspace_dir) as folder,
        open_crew(_MadeAndBare(Path(folder), encoder, config), settings) as crew,
    ):
        found = [seconds for _, seconds in crew.run(deque(pieces))]
    made_s, bare_s = (sum(column) for column in zip(*found, strict=True))
    return cores * sum(num_rows.values()) / made_s, cores * sum(num_rows.values()) / bare_s


@dataclass(frozen=True)
class _MadeAndBare:
    """A job: makes shards as the stage does, then runs bare on the same images."""

    folder: Path
    encoder: Encoder
    config: CompressConfig

    def open(self) -> _MadeAndBare:
        return self

    def work(self, pieces: Iterator[Piece], report: Report) -> None:
        """Give the seconds of each."""
        from pipelines.images.encode import make_shard

        for piece in pieces:
            started = time.perf_counter()
            make_shard(self.folder, self.encoder, piece.body, lambda count: None)
            made_s = time.perf_counter() - started
            files = [(self.encoder.root / name).read_bytes() for name, _ in piece.body.rows]
            report.done(piece, (made_s, len(files) / bare(files, self.config)))


if __name__ == "__main__":
    main()
