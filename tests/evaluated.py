"""A run in front of the decision layer, trained on a made-up cache, to be judged."""

from __future__ import annotations

from caches import lite0, make_cache

from pipelines import evaluate, train_tail
from pipelines.config import EvalConfig, TrainTailConfig
from pipelines.progress import Silent

CLASSES = tuple("abcdefg")
BRANCHES = ("original", "q010", "q050")
TRAIN = {"batch_size": 10, "epochs": 4, "patience": 4, "learning_rate": 0.001}


def make_workspace(workspace, classes=CLASSES, **changed):
    (workspace / "bottleneck.toml").write_text("")
    rows = {"train": 60, "val": 24, "test": 90}
    folder = workspace / "features" / "avg_pool"
    made = {"classes": classes, "rows": rows, "noise": 4.0, **changed}
    make_cache(folder, lite0(), (1280,), **made)
    return workspace


def train(workspace, **settings):
    config = TrainTailConfig(**{**TRAIN, **settings})
    train_tail.run(workspace, workspace / "features", config, 0, Silent())


def judge(workspace, progress=None, seed=0, **settings):
    return evaluate.run(workspace, EvalConfig(**settings), seed, progress or Silent())
