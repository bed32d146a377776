"""One file below its limit, and a bounded memory, whatever runs have to show."""

from __future__ import annotations

import dataclasses
import json

import judged_runs
import numpy as np
import pytest
from commands import invoke, the_error
from judged_workspaces import BRANCHES, rename_classes, write

from pipelines.errors import ConfigError
from pipelines.reporting import gallery, predictions, results
from pipelines.reporting import page as pages
from pipelines.reporting.gallery import Asked
from pipelines.reporting.pixels import Pictures


def many_branches(num):
    return ("original", *(f"q{number:03d}" for number in range(1, num)))


def judge_made_up(run_dir, num_images, branches, classes=("brick", "coffee", "grass", "gravel")):
    """Judge a run on images that are nowhere."""
    ids = [f"photos/{number:05d}.jpg" for number in range(num_images)]
    made = judged_runs.make_scores(ids, len(classes), branches, strength=0.6, spread=1.2)
    made = dataclasses.replace(made, extra={"classes": list(classes)})
    return judged_runs.write(run_dir, made)


def cards_of(page):
    return [e for e in page.all("li") if e.attributes.get("class") == "card"]


@pytest.mark.parametrize("num_versions", [4, 11, 101])
def test_card_takes_about_as_much_as_was_reckoned(num_versions, judged, monkeypatch):
    judge_made_up(judged / "runs" / "first", 40, many_branches(num_versions))
    reckoned = []
    monkeypatch.setattr(gallery, "within", lambda whole, *_: reckoned.append(whole) or whole)
    sizes = [write(judged, "first", images=num)[0]["size_bytes"] for num in (2, 12)]
    expected = reckoned[1].size_bytes - reckoned[0].size_bytes
    assert 0.7 * expected < sizes[1] - sizes[0] < 1.05 * expected


def test_report_of_many_versions_stays_below_its_limit(judged, monkeypatch):
    monkeypatch.setattr(pages, "MAX_BYTES", 1_000_000)
    judge_made_up(judged / "runs" / "first", 800, many_branches(101))
    summary, html, page = write(judged, "first", images=2000)
    assert summary["size_bytes"] <= 1_000_000
    assert 50 < summary["num_shown"] == len(cards_of(page))
    assert 2000 > summary["num_changed"] > summary["num_shown"]
    shown = f"{summary['num_shown']} of {summary['num_changed']} shown, drawn at random"
    assert shown in html
    left_out = summary["num_changed"] - summary["num_shown"]
    assert f"{left_out} more had no room on this page" in html


def test_report_of_long_class_names_leaves_out_images_until_it_is_below_its_limit(
    judged, monkeypatch
):
    names = tuple(f"{'&' * 200}{number}" for number in range(4))
    for name in ("first", "second"):
        rename_classes(judged, name, names)
        judge_made_up(judged / "runs" / name, 200, BRANCHES, names)
    bare, whole = (write(judged, "first", "second", images=n)[0] for n in (0, 60))
    limit = bare["size_bytes"] + (whole["size_bytes"] - bare["size_bytes"]) // 2
    monkeypatch.setattr(pages, "MAX_BYTES", limit)
    rendered = []
    real = pages.render
    monkeypatch.setattr(pages, "render", lambda *given: rendered.append(1) or real(*given))
    summary, html, page = write(judged, "first", "second")
    assert summary["size_bytes"] <= limit < whole["size_bytes"]
    assert len(rendered) > 2  # what was reckoned did not do
    assert 0 < summary["num_shown"] == len(cards_of(page)) < whole["num_shown"]
    assert "more had no room on this page" in html


def test_report_that_is_too_large_without_images_is_refused_and_nothing_written(
    judged, monkeypatch
):
    size = write(judged, "first", "second", images=0)[0]["size_bytes"]
    (judged / "report.html").unlink()
    limit = size // 2
    monkeypatch.setattr(pages, "MAX_BYTES", limit)
    message = the_error(invoke("report", "first", "second", "-C", judged))
    assert message.startswith("report of 2 runs: ")
    assert f"bytes without any image, expected {limit:,} at most; name fewer runs" in message
    assert not (judged / "report.html").exists()
    with pytest.raises(ConfigError, match=r"report of 1 run: .* give the classes shorter names"):
        write(judged, "first")


def test_report_of_many_runs_of_a_thousand_classes_is_refused(judged, monkeypatch):
    names = tuple(f"class {number:04d}" for number in range(1000))
    path = judged / "runs" / "first" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": names}))
    judge_made_up(judged / "runs" / "first", 1500, ("original", "q010"), names)
    summary = write(judged, "first")[0]
    monkeypatch.setattr(pages, "MAX_BYTES", summary["size_bytes"] + 1000)
    with pytest.raises(ConfigError, match="name fewer runs"):
        write(judged, "first", "second")


class Flat:
    """Gives a picture of one colour for each version, and counts what it is asked for."""

    def __init__(self):
        self.num = 0

    def of(self, wanted):
        self.num = len(wanted)
        for number, (image_id, names) in enumerate(wanted.items()):
            value = np.full((300, 300, 3), number % 256, np.uint8)
            yield Pictures(image_id, dict.fromkeys(names, value))


@pytest.fixture
def found(tmp_path):
    judge_made_up(tmp_path, 3000, BRANCHES)
    return predictions.read(tmp_path, results.read(tmp_path, "test"))


def test_gallery_looks_at_no_more_images_than_could_have_room(found):
    pixels = Flat()
    advanced = []
    made = gallery.make(found, pixels, Asked(1_000_000, 200_000, 0), advanced.append)
    assert made.num_changed > 300
    assert len(made.cards) <= pixels.num == len(advanced) < 200_000 / 2_000
    assert made.size_bytes <= 200_000
    assert len(made.cards) + made.num_left_out == made.num_changed
    assert made.seed == 0


def test_gallery_left_out_are_counted_of_those_that_were_wanted(found):
    made = gallery.make(found, Flat(), Asked(150, 200_000, 0), lambda _: None)
    assert 0 < len(made.cards) < 150
    assert len(made.cards) + made.num_left_out == 150


@pytest.mark.parametrize(("num", "side"), [(5, 288), (12, 224), (20, 160), (40, 112)])
def test_gallery_of_more_images_holds_smaller_ones(num, side, found, monkeypatch):
    held = []
    real = gallery._shrunk
    monkeypatch.setattr(gallery, "_shrunk", lambda *given: held.append(real(*given)) or held[-1])
    made = gallery.make(found, Flat(), Asked(num, 150_000, 0), lambda _: None)
    assert made.side == side
    assert {one.shape for small in held for one in small.pixels.values()} == {(side, side, 3)}


def test_gallery_without_any_room_looks_at_nothing(found):
    pixels = Flat()
    made = gallery.make(found, pixels, Asked(60, 0, 0), lambda _: None)
    assert (pixels.num, len(made.cards), made.num_left_out, made.seed) == (0, 0, 60, 0)
