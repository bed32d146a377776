"""Short runs on a made-up cache in front of the decision layer."""

from __future__ import annotations

import json

from caches import lite0, make_cache

from pipelines import train_tail
from pipelines.config import TrainTailConfig
from pipelines.progress import Silent
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Store

POOLED = (1280,)
SHORT = {"batch_size": 10, "epochs": 2, "learning_rate": 0.001}


def make_pooled(workspace):
    """Make the cache of one node in a workspace."""
    (workspace / "bottleneck.toml").write_text("")
    make_cache(workspace / "features" / "avg_pool", lite0(), POOLED, noise=4.0)
    return workspace


def train(workspace, progress=None, seed=0, features="features", **settings):
    config = TrainTailConfig(**{**SHORT, **settings})
    return train_tail.run(workspace, workspace / features, config, seed, progress or Silent())


def lines(workspace, name, model=None):
    text = (workspace / "runs" / name / "history.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if model in (None, line["model"])]


def best(workspace, name, model="topology"):
    return checkpoints.load(Store.of(workspace / "runs" / name, model).best)[0]
