"""Each setting of train-tail reaches what it is about."""

from __future__ import annotations

import json

import numpy as np
import pytest
from caches import lite0, make_cache
from processes import bottleneck, tree

from pipelines import train_tail
from pipelines.config import TrainTailConfig
from pipelines.progress import Silent
from pipelines.storage.cache import FeatureCache
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

NODE, MAPS = "avg_pool", "block7a_expand_activation"
ROWS = {"train": 20, "val": 8}
RATE, NUM_STEPS = 0.001, 4  # of two epochs
LOSS_SCALE = 2.0**15  # at which Keras begins
pytestmark = pytest.mark.usefixtures("networks_once")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """The folder of a made-up cache; not to be changed."""
    folder = tmp_path_factory.mktemp("features")
    make_cache(folder / NODE, lite0(), (1280,), rows=ROWS)
    return folder


def train(workspace, features, **settings):
    """Train two epochs of two steps; judge, and keep a checkpoint, behind every step."""
    config = TrainTailConfig(
        **{
            "batch_size": 10,
            "epochs": 2,
            "learning_rate": RATE,
            "eval_every": "1",
            "patience": 2,
            **settings,
        }
    )
    return train_tail.run(workspace, features, config, 0, Silent())


def history(workspace, run=NODE):
    text = (workspace / "runs" / run / "history.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if line["model"] == "topology"]


def rates(workspace):
    """The learning rate of each step."""
    return [line["learning_rate"] for line in history(workspace) if line["step"]]


def weights_after(workspace, step, run=NODE):
    """What the checkpoint of a step holds; one of the last two."""
    return checkpoints.load(Store.of(workspace / "runs" / run, "topology").path(step))[0]


def test_warmup_raises_the_rate_evenly(features, tmp_path):
    train(tmp_path, features, warmup="1epoch", default="trained")
    assert rates(tmp_path) == pytest.approx([RATE / 2, RATE, RATE, RATE])


def test_schedule_cosine_lowers_the_rate_to_the_last_step(features, tmp_path):
    train(tmp_path, features, schedule="cosine")
    shares = (1 + np.cos(np.pi * np.arange(NUM_STEPS) / NUM_STEPS)) / 2
    assert rates(tmp_path) == pytest.approx((RATE * shares).tolist())


@pytest.mark.parametrize(("patience", "num_steps"), [(1, 2), (2, 4)])
def test_patience_is_in_epochs(features, tmp_path, patience, num_steps):
    summary = train(tmp_path, features, learning_rate=1e-12, epochs=5, patience=patience)
    assert summary["num_steps"] == num_steps


def test_cuts_follow_plateaus_before_one_ends_the_block(features, tmp_path):
    train(tmp_path, features, learning_rate=1e-12, epochs=9, patience=1, cuts=2)
    found = rates(tmp_path)
    assert len(found) == 6
    assert found[-1] == pytest.approx(1e-14)
    assert found == sorted(found, reverse=True)


def test_momentum_is_kept_in_the_checkpoint(features, tmp_path):
    for momentum in (0.0, 0.9):
        train(tmp_path, features, momentum=momentum, run=f"with-{momentum}")
    found = [weights_after(tmp_path, NUM_STEPS, f"with-{momentum}") for momentum in (0.0, 0.9)]
    shapes = [[a.shape for n, a in some.items() if n.startswith("optimizer/")] for some in found]
    assert found[0]["head/kernel"].shape not in shapes[0]
    assert found[0]["head/kernel"].shape in shapes[1]


def test_weight_decay_takes_its_share_of_the_kernel_at_each_step(features, tmp_path):
    decay = 0.5
    for name, value in (("without", 0.0), ("with", decay)):
        train(tmp_path, features, weight_decay=value, run=name, epochs=1, eval_every="1epoch")
    # Of two steps the second one's gradient is taken a little elsewhere.
    start = weights_after(tmp_path, 0, "with")
    without, found = (weights_after(tmp_path, 2, name) for name in ("without", "with"))
    lost = (without["head/kernel"] - found["head/kernel"]) / start["head/kernel"]
    assert np.median(lost) == pytest.approx(2 * RATE * decay, rel=0.02)
    np.testing.assert_allclose(found["head/bias"], without["head/bias"], rtol=0.01, atol=1e-5)


def test_label_smoothing_raises_the_loss_by_its_formula(features, tmp_path):
    share = 0.25
    losses = []
    for smoothing in (0.0, share, 0.5):
        run = f"with-{smoothing}"
        train(tmp_path, features, label_smoothing=smoothing, run=run, epochs=1)
        losses.append(history(tmp_path, run)[1]["train_loss"])
    # At the first step, from the same weights, the loss is linear in the share.
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-5)
    assert losses[1] != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("kind", ["stored", "batch"])
def test_batch_norm_moves_its_statistics_only_where_it_is_asked_to(tmp_path, kind):
    make_cache(tmp_path / "features" / MAPS, lite0(), (7, 7, 1152), rows=ROWS)
    train(tmp_path, tmp_path / "features", batch_norm=kind, epochs=1)
    before, after = (weights_after(tmp_path, step, MAPS) for step in (1, 2))
    names = [name for name in after if "_bn/" in name]
    moved = [name for name in names if not np.array_equal(before[name], after[name])]
    still = [name for name in names if name not in moved]
    assert names
    # Scale and shift are learnt in both; mean and variance are what is stored.
    assert (still == []) if kind == "batch" else (len(still) == len(moved) == len(names) / 2)


@pytest.mark.parametrize(("share", "has_val"), [(1.0, False), (2.0, True)])
def test_cache_memory_is_for_train_first_and_val_where_there_is_room(
    features, tmp_path, monkeypatch, share, has_val
):
    opened = {}
    split = FeatureCache.split

    def watched(cache, name, *args, **kwargs):
        found = split(cache, name, *args, **kwargs)
        opened.setdefault(name, found)  # the topology's; the default model's come later
        return found

    monkeypatch.setattr(FeatureCache, "split", watched)
    train_bytes = FeatureCache(features / NODE).resident_bytes("train", "all")
    train(tmp_path, features, cache_memory=int(share * train_bytes))
    assert (opened["train"].is_loaded, opened["val"].is_loaded) == (True, has_val)


def test_devices_are_no_other_setting(features, tmp_path):
    first = train(tmp_path, features)
    before = tree(tmp_path / "runs")
    assert train(tmp_path, features, devices="cpu")["num_steps"] == first["num_steps"]
    assert tree(tmp_path / "runs") == before


@pytest.mark.slow
def test_precision_mixed_float16_scales_the_loss_and_learns(features, tmp_path):
    (tmp_path / "bottleneck.toml").write_text("")
    flags = ("--features-dir", str(features), "--batch-size", "10", "--learning-rate", "0.001")
    flags += ("--epochs", "2", "--eval-every", "1", "--patience", "2")
    flags += ("--precision", "mixed_float16", "--run", "mixed_float16")
    result = bottleneck(tmp_path, "train-tail", *flags)  # the policy is the whole process's
    assert result.returncode == 0, result.stderr
    train(tmp_path, features, run="float32")
    found = weights_after(tmp_path, NUM_STEPS, "mixed_float16")
    assert [float(a) for a in found.values() if a.ndim == 0 and a > 1000] == [LOSS_SCALE]
    assert found["head/kernel"].dtype == np.float32
    losses = [history(tmp_path, name)[-1]["val_loss"] for name in ("float32", "mixed_float16")]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)
