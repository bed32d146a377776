"""Block by block: one run a block, each from the best of the one before."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from caches import lite0, make_cache
from commands import invoke, the_error
from images import make_class_folders
from processes import bottleneck, kill_when, snapshots, tree

from pipelines import compress, extract, runs, train_chain, train_tail
from pipelines.config import CompressConfig, ExtractConfig, TrainTailConfig
from pipelines.errors import ConfigError, ManifestError, PipelineError
from pipelines.execution import inline
from pipelines.progress import Silent
from pipelines.training import chain, checkpoints
from pipelines.training.checkpoints import Store

SHAPES = {"avg_pool": (1280,), "block6d_add": (7, 7, 192)}
ROWS = {"train": 10, "val": 6, "test": 4}
FLAGS = ("--blocks", "2", "--batch-size", "5", "--epochs", "2", "--eval-every", "1")
NAMES = ["blocks-1-FC", "blocks-2-top_activation"]
pytestmark = pytest.mark.usefixtures("networks_once")


def train(workspace, progress=None, network=None, **settings):
    config = TrainTailConfig(**{"batch_size": 5, "epochs": 1, "blocks": 2, **settings})
    where, progress = (workspace, workspace / "features"), progress or Silent()
    return train_tail.run(*where, config, 0, progress, network=network)


def make_workspace(folder, shapes=SHAPES):
    (folder / "bottleneck.toml").write_text("")
    for node, shape in shapes.items():
        make_cache(folder / "features" / node, lite0(), shape, rows=ROWS)
    return folder


def content(workspace):
    """Everything that the runs left but what a clock wrote."""
    files = tree(workspace / "runs", (".lock", "timings.jsonl"))
    return {name: data for name, data in files.items() if "/tensorboard/" not in name}


@pytest.fixture(scope="module")
def trained(networks_once, tmp_path_factory):
    """A workspace with a finished chain of two blocks; not to be changed."""
    workspace = make_workspace(tmp_path_factory.mktemp("trained"))
    result = invoke("train-tail", "-C", workspace, *FLAGS, "--json")
    assert result.exit_code == 0, result.stderr
    return workspace, json.loads(result.stdout), result.stderr


@pytest.fixture
def surveyed_here(monkeypatch):
    """Let the caches be surveyed in this process, not in one of its own."""
    monkeypatch.setattr(chain, "survey_apart", chain.survey)


def test_blocks_train_a_run_each_from_the_end_of_the_network(trained):
    workspace, summary, _ = trained
    assert [run["run"] for run in summary["runs"]] == NAMES
    assert [run["node"] for run in summary["runs"]] == list(SHAPES)
    assert [runs.read(workspace, name).block_number for name in NAMES] == [1, 2]
    assert summary["run"] == runs.latest(workspace) == NAMES[1]


def test_blocks_learn_at_a_tenth_of_the_rate_of_the_one_before(trained):
    for number, name in enumerate(NAMES):
        text = (trained[0] / "runs" / name / "history.jsonl").read_text(encoding="utf-8")
        rates = [json.loads(line)["learning_rate"] for line in text.splitlines()]
        assert rates == pytest.approx([0.01 / 10**number] * len(rates), rel=1e-12)


def test_blocks_start_from_the_best_of_the_one_before(trained):
    workspace = trained[0]
    for model in ("topology", "default"):
        parent = Store.of(workspace / "runs" / NAMES[0], model).best
        made_from = runs.read(workspace, NAMES[1]).fingerprint["start_from"]
        assert made_from["run"] == NAMES[0]
        assert made_from[model] == checkpoints.sha256(parent)


def test_blocks_tell_which_is_trained_from_which_cache(trained):
    assert "block FC, from the cache of avg_pool: run blocks-1-FC" in trained[2]
    assert "block top_activation, from the cache of block6d_add: run" in trained[2]
    assert "topology: 2 of 22 weight arrays from run blocks-1-FC" in trained[2]


def test_blocks_are_what_runs_that_start_from_each_other_are(trained, tmp_path):
    workspace = make_workspace(tmp_path)
    common = {"blocks": 0, "epochs": 2, "eval_every": "1"}
    train(workspace, node="avg_pool", run=NAMES[0], **common)
    train(workspace, node="block6d_add", run=NAMES[1], start_from=NAMES[0], **common)
    for name in NAMES:
        for model in ("topology", "default"):
            found = Store.of(workspace / "runs" / name, model).best.read_bytes()
            assert found == Store.of(trained[0] / "runs" / name, model).best.read_bytes()


@pytest.mark.slow
def test_blocks_killed_again_and_again_end_with_the_same_bytes(trained, tmp_path):
    workspace = make_workspace(tmp_path)
    histories = [workspace / "runs" / name / "history.jsonl" for name in NAMES]

    def num_evaluations():
        return sum(len(path.read_bytes().splitlines()) for path in histories if path.exists())

    at = [lambda least=moment: num_evaluations() >= least for moment in (3, 11, 18)]
    # In the first block; then what has gone on from there between the two, and in the second one.
    kill_when(at[0], workspace, "train-tail", *FLAGS)
    assert not histories[1].exists()
    snapshots(at[1:], workspace / "runs", tmp_path / "copies", workspace, "train-tail", *FLAGS)
    for number in range(2):
        shutil.rmtree(workspace / "runs")
        shutil.copytree(tmp_path / "copies" / str(number), workspace / "runs")
        assert not (workspace / "runs" / NAMES[1] / "summary.json").exists()
        result = invoke("train-tail", "-C", workspace, *FLAGS)
        assert result.exit_code == 0, result.stderr
        assert content(workspace) == content(trained[0])


def test_blocks_again_have_nothing_to_do(trained):
    before = tree(trained[0] / "runs")
    result = invoke("train-tail", "-C", trained[0], *FLAGS)
    assert "nothing to do: run blocks-1-FC is trained" in result.stderr
    assert result.stdout.splitlines()[0].split()[:3] == ["run", "node", "steps"]
    assert tree(trained[0] / "runs") == before


def test_blocks_whose_caches_are_missing_name_the_one_command_that_makes_them(tmp_path):
    workspace = make_workspace(tmp_path, {"avg_pool": (1280,)})
    with pytest.raises(
        ManifestError,
        match=r"no whole cache of block6d_add, block6c_add; run "
        r"`bottleneck extract --node block6d_add --node block6c_add`, or give --extract here",
    ):
        train(workspace, blocks=3, network=ExtractConfig(backbone="efficientnet_lite0"))
    assert not (workspace / "runs").exists()


def test_blocks_with_a_cache_cut_short_count_it_as_missing(tmp_path):
    workspace = make_workspace(tmp_path)
    (workspace / "features" / "block6d_add" / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="no whole cache of block6d_add; run `bottleneck extr"):
        train(workspace)


def test_blocks_with_a_cache_that_lost_a_shard_count_it_as_missing(tmp_path):
    workspace = make_workspace(tmp_path)
    next((workspace / "features" / "block6d_add").glob("train-*.parquet")).unlink()
    with pytest.raises(ManifestError, match="no whole cache of block6d_add; run `bottleneck extr"):
        train(workspace)


def test_blocks_look_past_damaged_caches_that_they_do_not_need(tmp_path):
    workspace = make_workspace(tmp_path, {"avg_pool": (1280,), "another": (3,)})
    next((workspace / "features" / "another").glob("train-*.parquet")).unlink()
    assert train(workspace, blocks=1)["run"] == NAMES[0]


def test_blocks_are_of_the_network_of_the_settings_where_caches_are_of_several(tmp_path):
    workspace = make_workspace(tmp_path)
    other = dataclasses.replace(lite0(), name="another")
    make_cache(workspace / "features" / "a_node", other, (3,), rows=ROWS)
    found = chain.survey(workspace / "features", lite0().name, 2, "")
    assert (found.backbone, found.lacking) == ("efficientnet_lite0", [])
    assert found.like == workspace / "features" / "avg_pool"
    with pytest.raises(ConfigError, match="'another'"):
        chain.survey(workspace / "features", "third", 2, "")


def test_blocks_without_any_cache_take_the_network_of_the_settings(tmp_path):
    (tmp_path / "bottleneck.toml").write_text("[extract]\nbackbone = 'efficientnet_lite0'\n")
    error = the_error(invoke("train-tail", "-C", tmp_path, "--blocks", "1"))
    assert "no whole cache of avg_pool; run `bottleneck extract --node avg_pool`" in error


def test_blocks_with_extract_make_what_is_missing(tmp_path):
    make_class_folders(tmp_path / "images", num_per_class=6)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    images = CompressConfig(images=str(tmp_path / "images"), qualities=(50,), shards=1)
    compress.run(workspace, images, 0, Silent(), inline.open_crew)
    made = {"backbone": "efficientnet_lite0", "dtype": "float32", "check_images": 2}
    config = ExtractConfig(**made, node=("avg_pool",), batch_size=4)
    extract.run(workspace, config, 0, Silent(), inline.open_crew)
    before = tree(workspace / "features")
    settings = "".join(f"{key} = {value!r}\n" for key, value in made.items())
    (workspace / "bottleneck.toml").write_text(f"[extract]\n{settings}workers = 1\n")
    flags = ("--blocks", "2", "--extract", "--batch-size", "4", "--epochs", "1")
    flags += ("--devices", "cpu:2")  # of the training, whatever extract has run on
    result = bottleneck(workspace, "train-tail", *flags)
    assert result.returncode == 0, result.stderr
    assert (workspace / "features" / "block6d_add" / "manifest.json").exists()
    assert (workspace / "runs" / NAMES[1] / "summary.json").exists()
    assert "extract: 12 images" in result.stderr
    assert before.items() <= tree(workspace / "features").items()
    timings = (workspace / "runs" / NAMES[0] / "timings.jsonl").read_text(encoding="utf-8")
    assert json.loads(timings.splitlines()[-1])["num_devices"] == 2


def test_blocks_lacking_a_cache_ask_for_one_like_those_that_are_there(tmp_path):
    workspace = make_workspace(tmp_path, {"avg_pool": (1280,)})
    (workspace / "features").rename(workspace / "other")
    where = workspace, workspace / "other"
    config = TrainTailConfig(blocks=2, batch_size=5)
    lacking = train_chain.find_lacking(*where, config, 0, ExtractConfig(weights="none"))
    assert lacking == {
        "node": ("block6d_add",),
        "backbone": "efficientnet_lite0",
        "weights": "imagenet",
        "features_dir": str(where[1]),
    }
    flags = "--node block6d_add --backbone efficientnet_lite0 --features-dir /.*/other"
    with pytest.raises(ManifestError, match=f"run `bottleneck extract {flags}`, or give"):
        train_tail.run(*where, config, 0, Silent())


def test_blocks_lacking_nothing_ask_for_nothing(tmp_path, surveyed_here):
    workspace = make_workspace(tmp_path)
    where, config = (workspace, workspace / "features"), TrainTailConfig(blocks=2, batch_size=5)
    assert train_chain.find_lacking(*where, config, 0, ExtractConfig()) == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 99}, "give --batch-size 10 or less"),
        ({"default": "pretrained"}, r"4 classes \(ant, bee, cow, ...\) are not the 1,000"),
        ({"epochs": 3}, "made with .*epochs 1, now 3"),
    ],
)
def test_blocks_lacking_a_cache_are_refused_before_it_is_made(
    tmp_path, surveyed_here, settings, words
):
    workspace = make_workspace(tmp_path, {"avg_pool": (1280,)})
    train(workspace, blocks=1)
    config = TrainTailConfig(**{"blocks": 2, "batch_size": 5, "epochs": 1, **settings})
    where, network = (workspace, workspace / "features"), ExtractConfig()
    with pytest.raises(PipelineError, match=words):
        train_chain.find_lacking(*where, config, 0, network)
    with pytest.raises(PipelineError, match=words):
        train_tail.run(*where, config, 0, Silent(), network=network)


def test_blocks_without_any_cache_are_refused_by_what_the_variants_say(
    extracted, tmp_path, surveyed_here
):
    shutil.copytree(extracted.path / "variants", tmp_path / "variants")
    where, network = (tmp_path, tmp_path / "features"), ExtractConfig(backbone="efficientnet_lite0")
    config = TrainTailConfig(blocks=1, batch_size=999)
    with pytest.raises(ConfigError, match=r"size 999: .*variants/jpeg has .* images to learn"):
        train_chain.find_lacking(*where, config, 0, network)
    lacking = train_chain.find_lacking(*where, TrainTailConfig(blocks=1, batch_size=2), 0, network)
    assert lacking == {"node": ("avg_pool",)}


def test_blocks_of_caches_with_other_images_raise(tmp_path):
    workspace = make_workspace(tmp_path)
    make_cache(workspace / "features" / "block6c_add", lite0(), (7, 7, 192), rows={"train": 9})
    with pytest.raises(ManifestError, match="made with other number of train images than"):
        train(workspace, blocks=3)


def test_blocks_of_caches_with_as_many_but_other_images_raise(tmp_path):
    workspace = make_workspace(tmp_path)
    folder = workspace / "features" / "block6c_add"
    make_cache(folder, lite0(), (7, 7, 192), rows=ROWS, images="others")
    with pytest.raises(ManifestError, match="block6c_add: made with other images than"):
        train(workspace, blocks=3)


def test_blocks_of_caches_with_other_branches_raise_unless_they_have_those_asked_for(tmp_path):
    workspace = make_workspace(tmp_path, {"avg_pool": (1280,)})
    folder = workspace / "features" / "block6d_add"
    make_cache(folder, lite0(), (7, 7, 192), rows=ROWS, branches=("original", "q050"))
    with pytest.raises(ManifestError, match="avg_pool has original,q010,q050; block6d_add has ori"):
        train(workspace)
    assert not (workspace / "runs").exists()
    train(workspace, branches=("original", "q050"))
    assert (workspace / "runs" / NAMES[1] / "summary.json").exists()


@pytest.mark.parametrize("which", [0, 1])
def test_blocks_with_a_name_taken_raise_before_anything_is_trained(tmp_path, which):
    workspace = make_workspace(tmp_path)
    node = ("avg_pool", "block6d_add")[which]
    train(workspace, blocks=0, node=node, run=NAMES[which], epochs=2)
    before = content(workspace)
    match = f"{NAMES[which]}: made with .*epochs 2, now 1" if not which else "start_from"
    with pytest.raises(ManifestError, match=match):
        train(workspace)
    assert content(workspace) == before
    if not which:
        return
    train(workspace, overwrite=True)
    assert (workspace / "runs" / NAMES[1] / "summary.json").exists()


def test_blocks_of_caches_with_other_weights_raise(tmp_path):
    workspace = make_workspace(tmp_path)
    other = dataclasses.replace(lite0(), weights_sha256="0" * 64)
    make_cache(workspace / "features" / "block6c_add", other, (7, 7, 192), rows=ROWS)
    with pytest.raises(ManifestError, match="made with other weights than"):
        train(workspace, blocks=3)


def test_blocks_more_than_the_network_has_raise_saying_how_many(tmp_path):
    workspace = make_workspace(tmp_path, {"avg_pool": (1280,)})
    with pytest.raises(ConfigError, match=r"blocks 99: efficientnet_lite0 has \d+ that can read"):
        train(workspace, blocks=99)


def test_blocks_with_extract_on_several_hosts_raise(tmp_path, monkeypatch):
    (tmp_path / "bottleneck.toml").write_text("")
    task = {"type": "worker", "index": 0}
    cluster = {"worker": ["localhost:1", "localhost:2"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    error = the_error(invoke("train-tail", "-C", tmp_path, "--blocks", "2", "--extract"), 2)
    assert "--extract: not on several hosts at once; run `bottleneck extract` first" in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--blocks", "2", "--node", "avg_pool"], "--blocks and --node: leave out one of them"),
        (["--blocks", "2", "--sweep", "cuts=0,1"], "--blocks and --sweep: leave out one of them"),
        (["--blocks", "2", "--start-from", "x"], "--blocks and --start-from: leave out one"),
        (["--extract"], "--extract: goes with --blocks alone"),
    ],
)
def test_blocks_beside_what_they_exclude_raise(tmp_path, flags, words):
    (tmp_path / "bottleneck.toml").write_text("")
    assert words in the_error(invoke("train-tail", "-C", tmp_path, *flags), 2)
