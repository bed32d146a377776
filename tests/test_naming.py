from __future__ import annotations

import random

from pipelines.analysis.naming import ordered

IN_ORDER = [
    *("default", "topology", "mean_logits", "run_a", "run_b", "copies", "control"),
    *("control_mean_logits", "branch_q010", "branch_q100"),
]


def test_ordered_puts_the_models_first_and_single_branches_last_however_they_come():
    for seed in range(20):
        assert ordered(random.Random(seed).sample(IN_ORDER, len(IN_ORDER))) == IN_ORDER


def test_ordered_takes_a_name_that_nobody_knows_among_the_runs():
    assert ordered(["copies", "new", "default"]) == ["default", "new", "copies"]
