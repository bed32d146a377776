"""Extract beside another, on full and read-only disks, and with activations nothing can store."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from disks import mounted, remount
from extracting import Extract, files, fill, read_all
from lockers import ELSEWHERE, write_lock
from processes import ask, running

from pipelines import verify
from pipelines.errors import FeatureError, ManifestError, ShardError
from pipelines.progress import Silent
from pipelines.storage import locks
from pipelines.storage.formats import FORMATS

FILLER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from extracting import Extract, fill
from pipelines.progress import Silent
class Waiting(Silent):
    def advance(self, count):
        print("ready", flush=True)
        sys.stdin.readline()
        self.advance = Silent().advance
fill(Path(sys.argv[2]), Extract(**json.loads(sys.argv[3])), Waiting())
assert "tensorflow" not in sys.modules
print("done", flush=True)
"""
FULL = r": cannot be (written|made|locked): No space left on device"
MORE_THAN_A_PROBE = {"train": 70, "val": 2}


@pytest.fixture(params=FORMATS)
def extract(request: pytest.FixtureRequest) -> Extract:
    return Extract(request.param)


def undisturbed(extract: Extract, tmp_path: Path) -> dict[str, bytes]:
    """Return what an extract comes to when nothing goes wrong."""
    fill(tmp_path / "clean", extract)
    return files(tmp_path / "clean")


def leftovers(folder: Path) -> list[Path]:
    """List what nobody may leave behind: temporary files and locks."""
    return [*folder.rglob("*.tmp"), *folder.rglob(".lock.new.*"), *folder.rglob(".lock")]


def bad_files(features_dir: Path) -> list[dict[str, str]]:
    return verify.run(features_dir, features_dir, True, False, Silent())["bad"]


def test_extract_taken_over_leaves_what_the_other_one_is_writing(extract, tmp_path):
    folder = tmp_path / "features/pool"
    theirs = folder / f".train-00000-of-00009.{extract.format}.99999-deadbeef.tmp"

    class TakenOver(Silent):
        def advance(self, count: int) -> None:
            write_lock(folder / ".lock", **ELSEWHERE)
            theirs.write_bytes(b"half a shard")

    with pytest.raises(ManifestError, match=r"pool/\.lock: was taken over by"):
        fill(tmp_path / "features", extract, TakenOver())
    assert theirs.exists()
    assert not any(folder.glob("receipts/*"))


def test_extract_beside_another_names_its_process_and_lets_it_end_well(extract, tmp_path):
    features_dir = tmp_path / "features"
    asked = json.dumps({"format": extract.format})
    with running(FILLER, Path(__file__).parent, features_dir, asked) as other:
        words = rf"{features_dir}/front: another command is at work here \(\.lock: pid {other.pid} "
        with pytest.raises(ManifestError, match=words):
            fill(features_dir, extract)
        assert ask(other, "go on") == "done"
    assert files(features_dir) == undisturbed(extract, tmp_path)


def test_extract_second_node_held_lets_go_of_the_first(extract, tmp_path):
    features_dir = tmp_path / "features"
    with locks.hold(features_dir / "pool"):
        with pytest.raises(ManifestError, match="pool: another command is at work here"):
            fill(features_dir, extract)
        assert leftovers(features_dir / "front") == []
    fill(features_dir, extract)
    assert files(features_dir) == undisturbed(extract, tmp_path)


@pytest.mark.parametrize("option", ["size={0}k", "nr_inodes={0}"])
def test_extract_disk_full_at_any_size_leaves_nothing_half_and_goes_on(extract, option, tmp_path):
    clean = undisturbed(extract, tmp_path)
    num_full, is_full, size = 0, True, 1
    while is_full:
        with mounted(tmp_path / f"disk-{size}", option.format(size)) as features_dir:
            try:
                fill(features_dir, extract)
                is_full = False
            except ShardError as error:
                num_full += 1
                assert re.search(FULL, str(error)) and str(features_dir) in str(error)
            assert leftovers(features_dir) == []
            assert bad_files(features_dir) == []
            remount(features_dir, "size=8m,nr_inodes=1000")
            fill(features_dir, extract)
            assert files(features_dir) == clean
        size += 4 if "size" in option else 1  # a page, an entry
    assert num_full > len(clean) / 2


def test_extract_disk_full_within_a_shard_names_it_and_keeps_those_before(extract, tmp_path):
    large = Extract(extract.format, "float32", "dense", 3, rows={"train": 120, "val": 1})
    clean = undisturbed(large, tmp_path)
    shard = next(name for name in clean if name.startswith("front/train-00001"))
    assert len(clean[shard]) > 16 << 10
    message, size_kb = "", sum(4 * -(-len(content) // 4096) for content in clean.values())
    while f"disk/{shard}: " not in message:  # smaller and smaller, so at its last pages first
        size_kb -= 4
        with mounted(tmp_path / "disk", f"size={size_kb}k") as features_dir:
            try:
                fill(features_dir, large)
            except ShardError as error:
                message = str(error)
            if f"disk/{shard}: " in message:
                (whole,) = features_dir.glob("front/*-of-*")
                assert whole.name == Path(shard).name.replace("train-00001", "train-00000")
                remount(features_dir, "size=8m")
                assert fill(features_dir, large).num_resumed_shards == 2
                assert files(features_dir) == clean
        (tmp_path / "disk").rmdir()
    said = f"{tmp_path}/disk/{shard}: cannot be written: No space left on device; "
    assert message == said + "mend that and run again: what is whole is kept"


def test_extract_read_only_disk_says_so_and_what_is_there_can_be_read(extract, tmp_path):
    with mounted(tmp_path / "disk", "size=8m") as features_dir:
        fill(features_dir, extract)
        expected, before = read_all(features_dir / "front"), files(features_dir)
        remount(features_dir, "ro")
        with pytest.raises(ShardError, match="front: cannot be locked: Read-only file system"):
            fill(features_dir, extract)
        assert read_all(features_dir / "front") == expected
        assert bad_files(features_dir) == []
        assert files(features_dir) == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("image", ["train/003", "train/066", "val/001"])
def test_extract_activation_not_finite_names_image_branch_and_node(extract, image, value, tmp_path):
    large = Extract(extract.format, rows=MORE_THAN_A_PROBE, shards=4)
    words = (
        f"node front, image {image}, branch q050: an activation is not a finite number; "
        "check the weights and the preprocessing"
    )
    with pytest.raises(FeatureError, match=f"^{re.escape(words)}$"):
        fill(tmp_path / "features", large, spoiled={image: value})
    assert leftovers(tmp_path / "features") == []


@pytest.mark.parametrize("image", ["train/003", "train/066", "val/001"])
def test_extract_activation_too_large_for_float16_names_image_branch_and_node(
    extract, image, tmp_path
):
    large = Extract(extract.format, rows=MORE_THAN_A_PROBE, shards=4)
    words = (
        f"node front, image {image}, branch q050: an activation of 70000 is out of float16's "
        "range of 65504; use --dtype float32 or uint8"
    )
    with pytest.raises(FeatureError, match=f"^{re.escape(words)}$"):
        fill(tmp_path / "features", large, spoiled={image: 70000.0})


def test_extract_bad_activation_in_a_later_image_keeps_the_shards_before(extract, tmp_path):
    features_dir = tmp_path / "features"
    large = Extract(extract.format, rows=MORE_THAN_A_PROBE, shards=4)
    with pytest.raises(FeatureError, match="image train/066"):
        fill(features_dir, large, spoiled={"train/066": math.nan})
    assert len([*features_dir.glob("*/receipts/*")]) == 4, "two of three shards of two nodes"
    assert not [*features_dir.glob("*/manifest.json")]
    assert leftovers(features_dir) == []
    assert bad_files(features_dir) == []
    assert fill(features_dir, large).num_resumed_shards == 4
    assert files(features_dir) == undisturbed(large, tmp_path)


def test_extract_bad_activation_in_the_probe_leaves_no_plan(extract, tmp_path):
    with pytest.raises(FeatureError, match="image train/001"):
        fill(tmp_path / "features", extract, spoiled={"train/001": math.nan})
    assert files(tmp_path / "features") == {}


def test_extract_uint8_beyond_the_probes_range_is_clipped_and_counted(extract, tmp_path):
    large = Extract(extract.format, "uint8", rows=MORE_THAN_A_PROBE, shards=4)
    done = fill(tmp_path / "features", large, spoiled={"train/066": 1000.0})
    front, pool = (
        sum(receipt.stats["num_clipped"] for receipt in output.receipts.values())
        for output in done.outputs
    )
    assert front >= 1 and pool >= 1
