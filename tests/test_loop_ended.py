"""Trainings that are killed or stopped at any moment, and go on."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from caches import make_cache, tiny
from fits import NUM_STEPS, SHAPE, Fit, train, trainer
from processes import tree

from pipelines.errors import ManifestError
from pipelines.progress import Silent
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Kept, Store
from pipelines.training.schedule import Rate
from pipelines.training.step import Descent

# Asked whether to stop behind each step, and behind each of the two batches of an evaluation.
NUM_ASKED = NUM_STEPS + 2 * 6 + 1


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("features") / "first", tiny(), SHAPE, noise=3.0)


def files(run_dir):
    """Everything that a training leaves, but what a clock wrote."""
    found = tree(run_dir, ("timings.jsonl",))
    return {name: data for name, data in found.items() if not name.startswith("tensorboard")}


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """The files of a training that was left alone."""
    run_dir = tmp_path_factory.mktemp("finished")
    train(run_dir, cache)
    return files(run_dir)


@pytest.mark.parametrize("kill_after", range(1, NUM_STEPS + 1))
def test_run_killed_after_any_step_ends_with_the_same_bytes(finished, cache, tmp_path, kill_after):
    assert train(tmp_path, cache, kill_after=kill_after) is None
    assert train(tmp_path, cache).num_steps == NUM_STEPS
    assert files(tmp_path) == finished


@pytest.mark.parametrize("stop_after", range(1, NUM_ASKED + 1))
def test_run_stopped_at_any_moment_ends_with_the_same_bytes(finished, cache, tmp_path, stop_after):
    assert train(tmp_path, cache, stop_after=stop_after) is None
    assert train(tmp_path, cache).num_steps == NUM_STEPS
    assert files(tmp_path) == finished


def test_run_that_is_never_stopped_is_asked_so_often(cache, tmp_path):
    assert train(tmp_path, cache, stop_after=NUM_ASKED + 1) is not None


@pytest.mark.parametrize("step", [1, 3, 5])
def test_run_stopped_between_evaluations_replays_no_step(cache, tmp_path, step):
    asked_before = 2 + step + 2 * (step // 2)
    train(tmp_path, cache, stop_after=asked_before)
    _, state = checkpoints.load(Store.of(tmp_path, "topology").path(step))
    assert (state["step"], state["judged_step"]) == (step, step - 1)
    assert Store.of(tmp_path, "topology").kept().latest == step


def test_run_stopped_again_and_again_ends_with_the_same_bytes(finished, cache, tmp_path):
    outcome, num_starts = None, 0
    while outcome is None:
        outcome = train(tmp_path, cache, stop_after=3)  # an evaluation at most, and one step
        num_starts += 1
    assert num_starts > NUM_STEPS / 3
    assert files(tmp_path) == finished


def test_run_killed_again_and_again_ends_with_the_same_bytes(finished, cache, tmp_path):
    # Each start is killed behind its third step and has saved the second.
    outcome = None
    for _ in range(20):
        outcome = outcome or train(tmp_path, cache, kill_after=3)
    assert outcome is not None
    assert files(tmp_path) == finished


def test_run_stopped_when_its_lock_was_taken_over_saves_nothing(cache, tmp_path):
    asked, before = [], []

    def check():
        if before:
            raise ManifestError("taken over")

    @contextlib.contextmanager
    def watch():
        def is_to_stop():
            asked.append(1)
            if len(asked) == 7:  # behind the third step
                before.append(files(tmp_path))
            return len(asked) == 7

        yield is_to_stop

    made, (one,) = trainer([tmp_path], cache, [Fit()], watch)
    one.records = dataclasses.replace(one.records, check=check)
    with pytest.raises(ManifestError, match="taken over"):
        made.run("train", Silent())
    one.records.history.close()
    assert Store.of(tmp_path, "topology").kept().latest == 2
    assert files(tmp_path) == before[0]


def test_run_killed_between_history_and_checkpoint_drops_the_line(finished, cache, tmp_path):
    train(tmp_path, cache, kill_after=5)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write(json.dumps({"model": "topology", "step": 6}) + "\n" + '{"model": "topo')
    train(tmp_path, cache)
    assert files(tmp_path) == finished


def test_run_killed_between_checkpoint_and_pointer_ends_with_the_same_bytes(
    finished, cache, tmp_path
):
    train(tmp_path, cache, kill_after=5)
    store = Store.of(tmp_path, "topology")
    store.path(6).write_bytes(b"written, but nothing points here yet")
    train(tmp_path, cache)
    assert files(tmp_path) == finished


@pytest.mark.parametrize("kill_after", [3, 5, 7, 9])
def test_run_with_its_last_checkpoint_cut_short_goes_on_from_the_one_before(
    finished, cache, tmp_path, kill_after, caplog
):
    train(tmp_path, cache, kill_after=kill_after)
    store = Store.of(tmp_path, "topology")
    path = store.path(store.kept().latest)
    path.write_bytes(path.read_bytes()[:-100])
    train(tmp_path, cache)
    assert "going on from step " in caplog.text
    assert files(tmp_path) == finished


def test_run_gone_back_a_checkpoint_and_stopped_ends_with_the_same_bytes(cache, tmp_path):
    # The best checkpoint is the first one; the last one is damaged, the one before it goes on.
    fit = Fit(rate=Rate(0.0), patience_steps=9)
    train(tmp_path / "alone", cache, fit)
    train(tmp_path / "ended", cache, fit, kill_after=5)
    store = Store.of(tmp_path / "ended", "topology")
    assert (store.kept().latest, store.kept().best_top1) == (4, 0)
    store.path(4).write_bytes(b"PK")
    assert train(tmp_path / "ended", cache, fit, stop_after=1) is None
    assert store.kept() == Kept(3, 2, 0)
    assert store.best.exists()
    train(tmp_path / "ended", cache, fit)
    assert files(tmp_path / "ended") == files(tmp_path / "alone")


@pytest.mark.parametrize("kill_after", [3, 6, 20])
@pytest.mark.parametrize("text", [None, "{"])
def test_run_without_its_pointer_ends_with_the_same_bytes(
    finished, cache, tmp_path, kill_after, text
):
    train(tmp_path, cache, kill_after=kill_after)
    pointer = Store.of(tmp_path, "topology").folder / "latest.json"
    pointer.unlink() if text is None else pointer.write_text(text)
    train(tmp_path, cache)
    if kill_after > NUM_STEPS:  # the one before the last one is no longer known, nor needed
        assert files(tmp_path).keys() < finished.keys()
        assert Store.of(tmp_path, "topology").kept().best_top1 is not None
    else:
        assert files(tmp_path) == finished


def test_run_killed_before_old_checkpoints_are_deleted_ends_with_the_same_bytes(
    finished, cache, tmp_path
):
    train(tmp_path, cache)
    store = Store.of(tmp_path, "topology")
    store.path(2).write_bytes(b"no longer counts")
    train(tmp_path, cache)
    assert files(tmp_path) == finished


def test_run_finished_takes_no_step_and_keeps_the_history_of_the_next_model(
    finished, cache, tmp_path
):
    train(tmp_path, cache)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write(json.dumps({"model": "default", "step": 0}) + "\n")
    before = (tmp_path / "history.jsonl").read_bytes()
    assert train(tmp_path, cache, kill_after=1).num_steps == NUM_STEPS
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_run_stopped_with_momentum_and_cuts_ends_with_the_same_bytes(cache, tmp_path):
    fit = Fit(
        rate=Rate(0.3, "cosine", 2, NUM_STEPS),
        descent=Descent(0.9, 0.01, 0.1),
        patience_steps=2,
        cuts=2,
        eval_every=1,
    )
    train(tmp_path / "alone", cache, fit)
    outcome = None
    while outcome is None:
        outcome = train(tmp_path / "ended", cache, fit, stop_after=4)
    assert files(tmp_path / "ended") == files(tmp_path / "alone")
