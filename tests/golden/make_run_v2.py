"""Make tests/golden/run_v2, a run of format version 2; kept to show how, never to be run again.

A workspace with one run of two tiny checkpoints, as a training that was stopped leaves it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipelines import runs
from pipelines.training.checkpoints import Kept, Store
from pipelines.training.schedule import Plateau
from pipelines.training.trainee import State

RUN = runs.Run(
    fingerprint={"cache": {"node": "avg_pool"}, "epochs": 2, "fusion": "gated"},
    node="avg_pool",
    blocks=("FC",),
    block_number=1,
    classes=("ant", "bee"),
    branches=("original", "q010"),
    fusion="gated",
    default_kind="trained",
    features_dir="features",
    seed=3,
)


def arrays(step: int) -> dict[str, np.ndarray]:
    """Return what the checkpoint of a step holds."""
    thirds = (np.arange(6) - step) / 3
    return {
        "head/kernel": thirds.reshape(3, 2).astype(np.float32),
        "head/bias": thirds[:2].astype(np.float32),
        "head/branch_scores": thirds[2:4].astype(np.float32),
        "head/gate": thirds[3:].astype(np.float32),
        "optimizer/0000": np.array(step, np.int64),
        "optimizer/0001": np.array(0.01, np.float32),
        "progress/losses": np.array([[0.5, 1.0]] * (step % 2), np.float64).reshape(-1, 2),
    }


STATES = {
    4: State(4, Plateau(5, 1, 0.5, 4), judged_step=4, history_length=3),
    5: State(5, Plateau(5, 1, 0.5, 4), judged_step=4, history_length=3, losses=[(0.5, 1.0)]),
}
KEPT = Kept(5, 4, 4)


def main() -> None:
    """Write it."""
    workspace = Path(__file__).parent / "run_v2"
    if workspace.exists() or runs.FORMAT_VERSION != 2:
        raise SystemExit(f"{workspace} is made once, and of version 2 alone")
    runs.write(workspace, "stopped", RUN)
    folder = runs.folder_of(workspace, "stopped")
    store = Store.of(folder, "topology")
    for step, state in STATES.items():
        kept = KEPT if step == KEPT.latest else Kept(step, None, step)
        store.save(kept, arrays(step).items(), state.to_json())
    line = {"model": "topology", "step": 4, "epoch": 0.8, "val_top1": 0.5}
    (folder / runs.HISTORY).write_text(json.dumps(line) + "\n", encoding="utf-8")
    for path in workspace.rglob(".lock*"):
        path.unlink()


if __name__ == "__main__":
    main()
