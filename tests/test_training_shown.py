"""What a training shows while it goes: a bar a model, how it goes beside it, its evaluations."""

from __future__ import annotations

import re

import pytest
from caches import lite0, make_cache

from pipelines import train_tail
from pipelines.config import TrainTailConfig


class Events:
    """Keeps everything that a stage reports, in its order."""

    def __init__(self):
        self.found = []

    def start(self, what, total, unit, done=0):
        self.found.append(("start", f"{what} {done}/{total} {unit}"))

    def advance(self, count):
        self.found.append(("advance", str(count)))

    def show(self, text):
        self.found.append(("show", text))

    def say(self, text):
        self.found.append(("say", text))

    def close(self):
        self.found.append(("close", ""))

    def of(self, kind):
        return [text for name, text in self.found if name == kind]


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Of a run that a plateau ends: at this learning rate nothing gets better."""
    workspace = tmp_path_factory.mktemp("shown")
    make_cache(workspace / "features" / "avg_pool", lite0(), (1280,), noise=4.0)
    config = TrainTailConfig(batch_size=10, epochs=3, learning_rate=1e-30)
    found = Events()
    train_tail.run(workspace, workspace / "features", config, 0, found)
    return found


def test_training_has_a_bar_a_model_that_its_plateau_ends(events):
    assert events.of("start") == ["train topology 0/15 step", "train default 0/15 step"]
    kinds = [name for name, _ in events.found if name != "say"]
    kinds = [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before]
    one = ["start", *["show", "advance"] * 5, "close"]
    assert kinds == one + one


def test_training_says_how_good_a_model_is_below_its_bar(events):
    closed = [number for number, (name, _) in enumerate(events.found) if name == "close"]
    for number, model in zip(closed, ("topology", "default"), strict=True):
        name, text = events.found[number + 1]
        assert name == "say"
        assert re.fullmatch(rf"{model}: best val top-1 \d\d\.\d\d%, 5 steps", text)


def test_training_shows_loss_rate_pace_and_wait_behind_the_first_step(events):
    first, *others = events.of("show")[:5]
    assert first == "lr 1e-30"  # a step's loss is known when the next is on its way
    for text in others:
        assert re.fullmatch(
            r"loss \d\.\d{4}, lr 1e-30, [\d,]+ images/s, data wait \d+\.\d%", text
        ), text
        assert len(text) < 78  # of a narrow terminal's 80 columns
