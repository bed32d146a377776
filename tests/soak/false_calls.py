"""How often eval calls a topology better where no variant can help: made-up sets, trained in full.

    python tests/soak/false_calls.py --sets 100

Each set has an original with a weak signal and three variants of nothing but noise. Training and
evaluation are the real ones. Prints a line a set, and at the end the number of calls: by chance
alone, fewer than one in twenty is to be expected, since McNemar's exact test is cautious.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from caches import make_cache  # noqa: E402

from pipelines import evaluate, train_tail  # noqa: E402
from pipelines.config import EvalConfig, TrainTailConfig  # noqa: E402
from pipelines.execution import devices  # noqa: E402
from pipelines.networks import backbones  # noqa: E402
from pipelines.progress import Silent  # noqa: E402

_BRANCHES = ("original", "q010", "q050", "q090")
_SIGNAL = {"original": 0.15, "q010": 0.0, "q050": 0.0, "q090": 0.0}
_ROWS = {"train": 60, "val": 40, "test": 200}
_SETTINGS = {"batch_size": 20, "epochs": 6, "patience": 6, "learning_rate": 0.001}


def judge(seed: int, backbone: backbones.Backbone) -> dict[str, object]:
    """Make a set, train on it, and judge."""
    with tempfile.TemporaryDirectory() as name:
        workspace_dir = Path(name)
        features_dir = workspace_dir / "features"
        made = {"classes": ("no", "yes"), "branches": _BRANCHES, "rows": _ROWS, "noise": 4.0}
        make_cache(features_dir / "avg_pool", backbone, (1280,), seed=seed, signal=_SIGNAL, **made)
        config = TrainTailConfig.model_validate(_SETTINGS)
        train_tail.run(workspace_dir, features_dir, config, seed, Silent())
        return evaluate.run(workspace_dir, EvalConfig(), seed, Silent())


def main() -> None:
    """Judge all sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=100)
    devices.configure()
    backbone = backbones.load("efficientnet_lite0")
    calls: Counter[str] = Counter()
    num_sets = parser.parse_args().sets
    for seed in range(num_sets):
        found = judge(seed, backbone)
        calls[str(found["verdict_kind"])] += 1
        print(seed, found["verdict_kind"], found["mcnemar_p"], flush=True)
    print(f"{num_sets} sets: {calls['better']} called better, {calls['worse']} worse")


if __name__ == "__main__":
    main()
