"""The control set: made, stopped and gone on with, beside the JPEG set, and used to the end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import invoke, read_shards, the_error
from conftest import Notes
from images import make_class_folders, photo, to_png, truncated, write_png
from processes import bottleneck, kill_when, started, tree

from pipelines import compress, evaluate, export, extract, predict, stats, status, verify
from pipelines.config import (
    CompressConfig,
    EvalConfig,
    ExportConfig,
    ExtractConfig,
    PredictConfig,
    StatsConfig,
    TrainTailConfig,
)
from pipelines.errors import ManifestError
from pipelines.execution import inline
from pipelines.images import decode
from pipelines.images.control_codec import ControlCodec, decode_png
from pipelines.progress import Silent
from pipelines.storage import content, set_folders, variants
from pipelines.storage.cache import FeatureCache
from pipelines.storage.manifest import ShardFolder
from pipelines.storage.plan import Plan, split_into_tasks

BRANCHES = ("original", "control_02", "control_05", "control_08")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with a gray image, one of a single pixel, and one that cannot be used."""
    root = tmp_path_factory.mktemp("pictures")
    make_class_folders(root, num_per_class=6)
    folder = min(path for path in root.iterdir() if path.is_dir())
    write_png(folder / "gray.png", photo(5, channels=1))
    write_png(folder / "pixel.png", photo(6, (1, 1)))
    (folder / "text.png").write_bytes(b"no image")
    return root


def make(workspace: Path, images: Path, *set_names: str, **settings: Any) -> None:
    for name in set_names:
        config = CompressConfig(
            images=str(images), set=name, qualities=(10, 50), max_bad_share=0.5, **settings
        )
        compress.run(workspace, config, 0, Silent(), inline.open_crew)


@pytest.fixture(scope="module")
def both(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the JPEG set and, behind it, the control set; not to be changed."""
    workspace = tmp_path_factory.mktemp("both")
    (workspace / "bottleneck.toml").write_text(f"[compress]\nimages = '{pictures}'\n")
    make(workspace, pictures, "jpeg", "control", shards=3)
    return workspace


def test_control_set_holds_the_original_and_its_ten_changes(both, pictures):
    table = read_shards(both / "variants" / "control")
    codec = ControlCodec()
    assert table.column_names == ["id", "label", "sha256", "original", *codec.variant_names]
    rows = table.to_pylist()
    assert {row["id"].rpartition("/")[2] for row in rows} >= {"gray.png", "pixel.png"}
    for row in rows:
        assert row["original"] == (pictures / row["id"]).read_bytes()
        pixels = decode.decode_original(row["original"])
        for name, version in zip(
            codec.variant_names, codec.versions(pixels, codec.variant_names), strict=True
        ):
            np.testing.assert_array_equal(decode_png(row[name]), version)


def test_control_set_has_the_images_of_the_other_in_the_same_order(both):
    sets = [
        variants.open_set(both / set_folders.stored(name), ["all"]) for name in ("jpeg", "control")
    ]
    tables = [read_shards(found.folder).select(["id", "label", "sha256"]) for found in sets]
    assert tables[0] == tables[1]
    assert len({content.digest_of(found.receipts) for found in sets}) == 1
    assert sets[0].num_rows() == sets[1].num_rows()
    assert [found.plan.details["set"] for found in sets] == ["jpeg", "control"]
    quarantines = [(found.folder / "quarantine.csv").read_text() for found in sets]
    assert quarantines[0] == quarantines[1] != "id,reason\n"


def test_sets_made_in_the_other_order_are_the_same_bytes(both, pictures, tmp_path):
    make(tmp_path, pictures, "control", "jpeg", shards=3)
    assert tree(tmp_path) == tree(both, (".lock", "bottleneck.toml"))


def test_sets_made_at_the_same_time_are_the_same_bytes(both, pictures, tmp_path):
    (tmp_path / "bottleneck.toml").touch()
    flags = ["--images", str(pictures), "--shards", "3", "--max-bad-share", "0.5", "-q"]
    jpeg = ["compress", *flags, "--qualities", "10,50"]
    with (
        started(tmp_path, *jpeg) as first,
        started(tmp_path, "compress", *flags, "--set", "control") as second,
    ):
        for process in (first, second):
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    kept = (".lock", "bottleneck.toml", "logs")
    assert tree(tmp_path, kept) == tree(both, kept)
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert logs == {"compress.log", "compress-control.log"}


def test_control_set_killed_between_shards_ends_with_the_same_bytes(tmp_path):
    make_class_folders(tmp_path / "images", num_per_class=8, size=(240, 320))
    (tmp_path / "clean").mkdir()
    make(tmp_path / "clean", tmp_path / "images", "control", shards=5)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "bottleneck.toml").touch()
    flags = ["--images", str(tmp_path / "images"), "--shards", "5", "--max-bad-share", "0.5"]
    command = ["compress", *flags, "--set", "control", "--workers", "1"]
    receipts = workspace / "variants" / "control" / "receipts"
    kill_when(lambda: len([*receipts.glob("*.json")]) >= 2, workspace, *command)
    result = bottleneck(workspace, *command, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_resumed_shards"] >= 2
    assert tree(workspace, (".lock", "bottleneck.toml")) == tree(tmp_path / "clean")


def test_sets_are_shown_verified_and_repaired_each_on_its_own(both, tmp_path):
    workspace = Path(shutil.copytree(both, tmp_path / "workspace"))
    shards = sorted((workspace / "variants" / "control").glob("*.parquet"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1] + b"x")
    before = tree(workspace / "variants" / "jpeg")
    found = verify.run(workspace, workspace / "features", True, True, Silent())
    assert [bad["file"] for bad in found["bad"]] == [f"variants/control/{shards[0].name}"]
    stages = status.run(workspace, workspace / "features")["stages"]
    assert {name: stage["state"] for name, stage in stages.items()} == {
        "compress": "done",
        "compress control": "stopped",
    }
    result = invoke("compress", "--set", "control", "-C", workspace, "--max-bad-share", "1")
    assert result.exit_code == 0, result.output
    stages = status.run(workspace, workspace / "features")["stages"]
    assert {stage["state"] for stage in stages.values()} == {"done"}
    assert tree(workspace / "variants" / "jpeg") == before
    shutil.rmtree(workspace / "variants" / "control" / "bad")
    kept = (".lock", "bottleneck.toml", "logs")
    assert tree(workspace, kept) == tree(both, kept)


def test_status_of_the_control_set_alone_says_that_the_other_is_not_started(pictures, tmp_path):
    make(tmp_path, pictures, "control")
    stages = status.run(tmp_path, tmp_path / "features")["stages"]
    assert {name: stage["state"] for name, stage in stages.items()} == {
        "compress": "not started",
        "compress control": "done",
    }


def test_verify_deep_of_a_version_that_is_no_whole_png_names_the_image(tmp_path):
    codec, pixels = ControlCodec(), photo()
    names = ["original", *codec.variant_names]
    tasks = split_into_tasks({"train": 1}, 1, variants.SUFFIX)
    fingerprint = {"codec": codec.describe(), "max_megapixels": 1.0}
    plan = Plan("variants", 1, fingerprint, {"variants": names, "classes": ["a"]}, tasks)
    *files, last = codec.encode(pixels)
    original = to_png(pixels)
    row = variants.VariantRow(
        "a/0.png",
        0,
        hashlib.sha256(original).digest(),
        (original, *files, truncated(last)),
    )
    folder = ShardFolder(tmp_path / "variants" / "control")
    folder.publish(plan)
    receipt = variants.write_shard(folder.path, tasks[0], names, iter([row]), [])
    folder.commit(plan, receipt)
    folder.finish(plan, folder.receipts(plan))
    assert verify.run(tmp_path, tmp_path, False, False, Silent())["num_bad"] == 0
    (bad,) = verify.run(tmp_path, tmp_path, True, False, Silent())["bad"]
    assert "a/0.png: damaged PNG" in bad["reason"]


@pytest.mark.parametrize("flag", ["--qualities=10", "--subsampling=4:4:4"])
def test_compress_flags_of_jpeg_beside_the_control_set_are_wrong_usage(flag, both):
    message = the_error(invoke("compress", "--set", "control", flag, "-C", both), 2)
    expected = "the control set holds no JPEG; leave it out, or give --set jpeg"
    assert message == f"{flag.partition('=')[0]}: {expected}"


def test_compress_flags_of_jpeg_are_refused_where_the_file_names_the_control_set(tmp_path):
    (tmp_path / "bottleneck.toml").write_text("[compress]\nset = 'control'\nqualities = [10]\n")
    message = the_error(invoke("compress", "--qualities", "10", "-C", tmp_path), 2)
    assert message.startswith("--qualities: the control set holds no JPEG")
    message = the_error(invoke("compress", "-C", tmp_path), 2)
    assert message.startswith("no images;")  # the file's qualities are for the other set


def test_extract_without_the_control_set_names_the_command_that_makes_it(tmp_path):
    config = ExtractConfig(backbone="efficientnet_lite0", set="control")
    with pytest.raises(ManifestError, match="run `bottleneck compress --set control` first"):
        extract.run(tmp_path, config, 0, Silent(), inline.open_crew)


@dataclasses.dataclass(frozen=True)
class Used:
    """A workspace with a cache of the control set and a run trained on it; not to be changed."""

    path: Path
    config: ExtractConfig
    compress: CompressConfig

    @property
    def features_dir(self) -> Path:
        return self.path / "features-control"


@pytest.fixture(scope="module")
def used(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    from pipelines import train_tail

    workspace = tmp_path_factory.mktemp("used")
    (workspace / "bottleneck.toml").touch()
    images = CompressConfig(images=str(photos), set="control", limit=20)
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    config = ExtractConfig(
        backbone="efficientnet_lite0",
        set="control",
        branches=BRANCHES,
        dtype="float32",
        batch_size=4,
        check_images=4,
    )
    extract.run(workspace, config, 0, Silent(), inline.open_crew)
    short = TrainTailConfig(run="pooled-control", batch_size=5, epochs=2, learning_rate=0.02)
    train_tail.run(workspace, workspace / "features-control", short, 0, Silent())
    yield Used(workspace, config, images)


def test_cache_of_the_control_set_lies_beside_the_others(used):
    assert not (used.path / "features").exists()
    cache = FeatureCache(used.features_dir / "avg_pool")
    assert cache.layout.branches == BRANCHES
    assert cache.fingerprint["variants"]["codec"]["format"] == "png"


def test_cache_made_on_the_fly_is_the_same_bytes(used, tmp_path):
    on_the_fly = used.config.model_copy(update={"on_the_fly": True})
    images = used.compress.model_copy(update={"set": "jpeg"})  # what counts is what extract asks
    extract.run(tmp_path, on_the_fly, 0, Silent(), inline.open_crew, images)
    assert tree(tmp_path / "features-control") == tree(used.features_dir)
    stages = status.run(tmp_path, tmp_path / "features-control")["stages"]
    assert {name: stage["state"] for name, stage in stages.items()} == {
        "compress": "not started",
        "check images control": "done",
        "extract avg_pool": "done",
    }


def test_run_on_the_control_set_predicts_what_eval_ranks(used, photos):
    evaluate.run(used.path, EvalConfig(run="pooled-control"), 0, Silent())
    run_dir = used.path / "runs" / "pooled-control"
    rows = pq.read_table(run_dir / "predictions.parquet").to_pylist()
    assert {f"default_{name}_rank" for name in BRANCHES} <= rows[0].keys()
    paths = [photos / row["id"] for row in rows]
    found = predict.run(used.path, PredictConfig(), "pooled-control", paths, Silent())
    classes = FeatureCache(used.features_dir / "avg_pool").classes
    for row, prediction in zip(rows, found["predictions"], strict=True):
        labels = [best["label"] for best in prediction["top"]]
        assert labels.index(classes[row["label"]]) == row["topology_rank"]


def test_export_of_a_run_on_the_control_set_has_no_signature_for_bytes(used, tmp_path):
    notes = Notes()
    config = ExportConfig(to=str(tmp_path / "to"))
    summary = export.run(used.path, config, "pooled-control", notes)
    assert summary["signatures"] == ["serving_default"]
    (note,) = notes.said
    assert note.startswith("note: no signature serving_bytes: the versions of the control set")
    text = (tmp_path / "to" / "README.md").read_text()
    assert "- half a pixel further down (`control_02`)\n" in text
    assert "- gamma 0.85 (`control_08`)\n" in text
    assert "There is no signature for the bytes of images: the versions of the control" in text
    values = json.loads((tmp_path / "to" / "model.json").read_text())
    assert (values["branches"], values["qualities"]) == ([*BRANCHES], [None] * 4)


def test_stats_and_verify_take_the_folder_of_the_control_set(used, tmp_path):
    workspace = Path(shutil.copytree(used.path, tmp_path / "workspace"))
    folder = workspace / "features-control"
    summary = stats.run(workspace, folder, StatsConfig(), Silent())
    assert summary["pictures"] == ["stats/density-control-avg_pool.png", "stats/qf-histogram.png"]
    assert [*summary["nodes"]["avg_pool"]["zeros_by_branch"]] == [*BRANCHES]
    found = verify.run(workspace, folder, True, False, Silent())
    assert (found["num_bad"], found["num_shards"] > 3) == (0, True)


def test_chain_on_the_control_set_asks_for_its_caches(used):
    from pipelines import train_tail

    network = used.config.model_copy(update={"set": "jpeg"})
    asked = TrainTailConfig(run="chain", blocks=2, batch_size=5)
    with pytest.raises(ManifestError, match=r"run `bottleneck extract .*--set control`, or give"):
        train_tail.run(used.path, used.features_dir, asked, 0, Silent(), network=network)


def test_settings_in_the_file_choose_the_folder_for_commands(used):
    (used.path / "bottleneck.toml").write_text("[extract]\nset = 'control'\n")
    value = json.loads(invoke("status", "--json", "-C", used.path).stdout)
    assert value["stages"]["extract avg_pool"]["state"] == "done"
