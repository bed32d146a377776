"""What a chain of blocks is to be: its runs by name, and the settings that ask for one."""

from __future__ import annotations

import pytest

from pipelines.config import TrainTailConfig
from pipelines.training import chain


def test_plan_of_inception_v3_is_the_thesis():
    links = chain.plan("inception_v3", 4, "")
    assert [(link.block, link.node) for link in links] == [
        ("FC", "avg_pool"),
        ("mixed_10", "mixed_9"),
        ("mixed_9", "mixed_8"),
        ("mixed_8", "mixed_7"),
    ]
    assert [link.run for link in links] == [
        *("blocks-1-FC", "blocks-2-mixed_10", "blocks-3-mixed_9", "blocks-4-mixed_8")
    ]
    assert [link.start_from for link in links] == ["", *(link.run for link in links[:3])]


def test_plan_takes_the_name_that_is_given():
    assert [link.run for link in chain.plan("efficientnet_lite0", 1, "mine")] == ["mine-1-FC"]


def recipe(**settings):
    return TrainTailConfig(recipe="thesis", **settings)


def test_recipe_sets_what_the_thesis_did():
    config = recipe()
    assert (config.blocks, config.epochs, config.batch_size) == (4, 20, 100)
    assert (config.learning_rate, config.eval_every, config.patience) == (0.01, "2000", 1)
    assert (config.gradients, config.head_init, config.fusion) == ("original", "random", "concat")
    assert (config.default, config.momentum, config.cuts) == ("pretrained", 0.0, 0)


def test_recipe_is_beaten_by_what_is_given_beside_it():
    assert recipe(epochs=3).epochs == 3
    for beside in ({"node": "avg_pool"}, {"sweep": ("cuts=0,1",)}, {"start_from": "first"}):
        assert recipe(**beside).blocks == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"node": "avg_pool"}, (0, "avg_pool", ())),
        ({"sweep": ("cuts=0,1",)}, (0, "", ("cuts=0,1",))),
        ({"blocks": "3"}, (3, "", ())),
        ({}, (2, "", ())),
    ],
)
def test_flags_beat_what_they_exclude_in_the_file(flags, expected):
    from pipelines import workspace

    content = {"train-tail": {"blocks": 2}}
    if "blocks" in flags:
        content = {"train-tail": {"node": "avg_pool", "start_from": "first"}}
    config = workspace.table(content, "train-tail", flags)
    assert (config.blocks, config.node, config.sweep) == expected


def test_recipe_flag_beats_the_file_and_is_beaten_by_flags():
    from pipelines import workspace

    content = {"train-tail": {"epochs": 5, "momentum": 0.9, "run": "mine"}}
    flags = {"recipe": "thesis", "momentum": "0.5", "epochs": None}
    config = workspace.table(content, "train-tail", flags)
    assert (config.epochs, config.momentum, config.run) == (20, 0.5, "mine")
