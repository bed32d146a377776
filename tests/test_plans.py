"""The plans of caches: shards by size, one cut for all nodes, the probe's findings published."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extracting import ROWS, SHAPES, Extract, MadeUp, MadeUpNetwork, read_all, run_forward
from extracting import fill as fill_made_up

from pipelines.errors import FeatureError, ManifestError
from pipelines.execution import holding
from pipelines.execution.engine import Piece
from pipelines.execution.tasks import Output
from pipelines.extraction import plans
from pipelines.extraction.plans import Settings, Target
from pipelines.progress import Silent
from pipelines.storage import locks
from pipelines.storage.dtypes import Ranges
from pipelines.storage.manifest import ShardFolder

SETTINGS = Settings("float16", "auto", "parquet", 0, 1 << 20, False)


class Worker:
    """Answers as a worker with the made-up network does.

    Attributes:
        num_batches: that it has run; it gives a sign of life after each.
    """

    def __init__(self, network: MadeUpNetwork) -> None:
        self.num_batches = 0
        self._extractor = network.open()

    def __call__(self, piece: Piece) -> Any:
        return piece.body.answer(self._extractor, self._beat)

    def _beat(self) -> None:
        self.num_batches += 1


def open_plans(
    folder: Path,
    settings: Settings = SETTINGS,
    extract: Extract | None = None,
    worker: Worker | None = None,
    **made,
) -> list[Output]:
    """Open the outputs of both nodes, as an extract does, and let go of them."""
    extract = extract or Extract()
    ask = worker or Worker(MadeUpNetwork(extract))
    targets = [
        Target(ShardFolder(folder / node), shape, {"node": node, **made}, {"node": node})
        for node, shape in SHAPES.items()
    ]
    with holding.begun([target.folder.path for target in targets], "", Silent().say):
        return plans.open_outputs(MadeUp(extract), targets, ask, settings, Silent())


def spans(output: Output) -> list[tuple[str, int, int]]:
    return [(task.split, task.start, task.stop) for task in output.plan.tasks]


@pytest.mark.parametrize(("rows", "num_train"), [(1024, 1), (1025, 2), (3000, 3)])
def test_open_outputs_shards_of_small_maps_have_at_most_1024_images(tmp_path, rows, num_train):
    extract = Extract(rows={"train": rows, "val": 2})
    tasks = spans(open_plans(tmp_path, extract=extract)[0])
    assert [split for split, _, _ in tasks] == ["train"] * num_train + ["val"]
    assert max(stop - start for _, start, stop in tasks) <= 1024


def test_open_outputs_shards_have_the_size_asked_for_the_larger_node(tmp_path):
    extract = Extract(rows={"train": 100, "val": 10})
    settings = dataclasses.replace(SETTINGS, shard_bytes=3000)
    front, pool = open_plans(tmp_path, settings, extract)
    row_bytes = {
        output.plan.details["node"]: output.plan.details["probe"]["size_bytes"][
            output.plan.details["encoding"]
        ]
        / 64
        for output in (front, pool)
    }
    assert row_bytes["front"] > row_bytes["pool"]
    rows = int(3000 / row_bytes["front"])
    assert spans(front) == spans(pool)
    assert len(spans(front)) == -(-100 // rows) - (-10 // rows)


@pytest.mark.parametrize(("shards", "expected"), [(1, 2), (2, 2), (5, 5)])
def test_open_outputs_number_of_shards_asked_for_wins(tmp_path, shards, expected):
    settings = dataclasses.replace(SETTINGS, shards=shards, shard_bytes=1)
    assert len(spans(open_plans(tmp_path, settings)[0])) == expected


@pytest.mark.parametrize("format", ["parquet", "tfrecord"])
def test_open_outputs_shards_have_the_formats_suffix(tmp_path, format):
    (front, _) = open_plans(tmp_path, dataclasses.replace(SETTINGS, format=format))
    assert front.plan.details["format"] == format
    assert {Path(task.shard).suffix for task in front.plan.tasks} == {f".{format}"}


def test_open_outputs_plan_publishes_what_the_probe_found(tmp_path):
    front, pool = open_plans(tmp_path)
    for output, encoding in ((front, "sparse"), (pool, "dense")):
        details = json.loads((output.folder.path / "plan.json").read_text())["details"]
        assert details["encoding"] == encoding
        assert details["shape"] == list(SHAPES[details["node"]])
        assert details["probe"]["num_images"] == sum(ROWS.values())
        assert details["probe"]["reason"].startswith(f"{encoding} is ")


def test_open_outputs_probe_takes_64_images_of_all_splits_in_order(tmp_path):
    extract = Extract(rows={"train": 61, "val": 50})
    worker = Worker(MadeUpNetwork(extract))
    (front, _) = open_plans(tmp_path, extract=extract, worker=worker)
    assert front.plan.details["probe"]["num_images"] == 64
    assert worker.num_batches == 31 + 2  # of two: the last of train is one image


def test_open_outputs_uint8_scales_are_of_the_probes_maps(tmp_path):
    worker = Worker(MadeUpNetwork(Extract()))
    outputs = open_plans(tmp_path, dataclasses.replace(SETTINGS, dtype="uint8"), worker=worker)
    source = MadeUp(Extract())
    batches = [
        run_forward(batch.load()[: len(batch.ids)])
        for split, count in ROWS.items()
        for batch in source.inputs(split, 0, count, 2)
    ]
    assert worker.num_batches == 2 * len(batches)  # scales first, then sizes
    for i, output in enumerate(outputs):
        scales, zero_points = Ranges.of(
            np.concatenate([maps[i] for maps in batches])
        ).quantisation()
        assert tuple(output.plan.details["scales"]) == scales
        assert tuple(output.plan.details["zero_points"]) == zero_points


def test_open_outputs_again_reads_the_plan_and_probes_nothing(tmp_path):
    first, worker = open_plans(tmp_path), Worker(MadeUpNetwork(Extract()))
    again = open_plans(tmp_path, worker=worker)
    assert [o.plan.identity for o in again] == [o.plan.identity for o in first]
    assert worker.num_batches == 0


def test_open_outputs_of_a_node_beside_a_whole_one_has_shards_of_its_own(tmp_path):
    fill_made_up(tmp_path, Extract(shards=4))
    shutil.rmtree(tmp_path / "front")
    again = fill_made_up(tmp_path, Extract(shards=7, seed=0), made_with={"shards": 4})
    front, pool = again.outputs
    assert (len(pool.plan.tasks), len(front.plan.tasks)) == (4, 7)
    assert again.num_resumed_shards == 4
    assert again.num_images == sum(ROWS.values())


def test_open_outputs_of_a_new_node_refuses_larger_shards_than_asked(tmp_path):
    extract = Extract(rows={"train": 100, "val": 10})
    front, _ = open_plans(tmp_path, dataclasses.replace(SETTINGS, shard_bytes=1 << 30), extract)
    front.folder.clear()
    with pytest.raises(ManifestError, match=r"100 images a shard, --shard-size asks for \d+ in"):
        open_plans(tmp_path, dataclasses.replace(SETTINGS, shard_bytes=3000), extract)
    assert not (tmp_path / "front" / "plan.json").exists()


def test_open_outputs_of_a_new_node_takes_the_shards_of_the_one_begun(tmp_path):
    front, pool = open_plans(tmp_path, dataclasses.replace(SETTINGS, shards=4))
    ShardFolder(pool.folder.path).clear()
    front_again, pool_again = open_plans(tmp_path, dataclasses.replace(SETTINGS, shards=7))
    assert front_again.plan.identity == front.plan.identity
    assert spans(pool_again) == spans(front)


def test_open_outputs_whose_shards_differ_are_an_error(tmp_path):
    for name, shards in (("a", 4), ("b", 7)):
        open_plans(tmp_path / name, dataclasses.replace(SETTINGS, shards=shards))
    shutil.rmtree(tmp_path / "a" / "pool")
    (tmp_path / "b" / "pool").rename(tmp_path / "a" / "pool")
    with pytest.raises(ManifestError, match=r"pool: has other shards than .*front, so one pass"):
        open_plans(tmp_path / "a")


def test_open_outputs_of_another_fingerprint_raise_naming_the_difference(tmp_path):
    open_plans(tmp_path, color="red")
    before = (tmp_path / "front" / "plan.json").read_bytes()
    with pytest.raises(ManifestError, match=r"front: made with color red, now blue; .*--overwrite"):
        open_plans(tmp_path, color="blue")
    assert (tmp_path / "front" / "plan.json").read_bytes() == before


def test_open_outputs_of_another_fingerprint_are_replaced_where_that_is_asked(tmp_path):
    fill_made_up(tmp_path, Extract())
    settings = dataclasses.replace(SETTINGS, overwrite=True)
    (front, _) = open_plans(tmp_path, settings, color="blue")
    assert front.plan.fingerprint["color"] == "blue"
    assert front.receipts == {}
    assert not list((tmp_path / "front").glob("*.parquet"))


def test_open_outputs_what_cannot_replace_them_deletes_nothing(tmp_path):
    fill_made_up(tmp_path, Extract(dtype="float32"))
    before = read_all(tmp_path / "front"), read_all(tmp_path / "pool")
    with pytest.raises(FeatureError):
        fill_made_up(tmp_path, Extract(overwrite=True), spoiled={"train/001": 70000.0})
    assert (read_all(tmp_path / "front"), read_all(tmp_path / "pool")) == before


def test_open_outputs_one_of_them_being_read_deletes_none(tmp_path):
    fill_made_up(tmp_path, Extract())
    before = read_all(tmp_path / "front")
    settings = dataclasses.replace(SETTINGS, overwrite=True)
    with (
        locks.reading(tmp_path / "pool"),
        pytest.raises(ManifestError, match="pool: another command reads here"),
    ):
        open_plans(tmp_path, settings, color="blue")
    assert read_all(tmp_path / "front") == before


def test_open_outputs_key_that_is_none_is_as_good_as_none(tmp_path):
    open_plans(tmp_path)
    receipts = tmp_path / "front" / "receipts" / "mark"
    receipts.touch()
    open_plans(tmp_path, new=None)
    assert receipts.exists()


def test_open_outputs_of_the_same_fingerprint_are_kept_even_with_overwrite(tmp_path):
    fill_made_up(tmp_path, Extract())
    before = read_all(tmp_path / "front")
    fill_made_up(tmp_path, Extract(overwrite=True))
    assert read_all(tmp_path / "front") == before


def test_open_outputs_value_that_is_no_number_names_the_node(tmp_path):
    worker = Worker(MadeUpNetwork(Extract(), spoiled={"val/001": np.nan}))
    message = r"^node front, image val/001, branch q050: an activation"
    with pytest.raises(FeatureError, match=message):
        open_plans(tmp_path, worker=worker)
    assert not [*tmp_path.rglob("plan.json")]
