"""`bottleneck report`: where it lies, what it is made from, how large it gets, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import judged_runs
import numpy as np
import pytest
from commands import invoke, the_error
from judged_workspaces import write

from pipelines.errors import ManifestError, TrainingError
from pipelines.reporting import page as pages


def test_report_without_a_run_is_of_the_latest_and_lies_in_its_folder(judged):
    summary, html, _ = write(judged)
    assert (summary["runs"], summary["to"]) == (
        ["second"],
        str(judged / "runs" / "second" / "report.html"),
    )
    assert summary["size_bytes"] == len(html.encode())


def test_report_of_several_runs_lies_in_the_workspace(judged):
    summary, _, _ = write(judged, "first", "second", "first")
    assert (summary["runs"], summary["to"]) == (["first", "second"], str(judged / "report.html"))


def test_report_same_inputs_give_the_same_bytes(judged):
    assert write(judged)[1] == write(judged)[1]


def test_report_images_are_drawn_with_the_seed(judged):
    summary, html, page = write(judged, "second", images=2)
    cards = [e for e in page.all("li") if e.attributes.get("class") == "card"]
    assert len(cards) == 2 == summary["num_shown"]
    assert f"2 of {summary['num_changed']} shown, drawn at random with seed 0" in html
    assert write(judged, "second", images=0)[2].all("img") == []


def test_report_stays_below_its_limit_by_leaving_images_out(judged, monkeypatch):
    whole, bare = write(judged, "second")[0], write(judged, "second", images=0)[0]
    middle = (whole["size_bytes"] + bare["size_bytes"]) // 2
    monkeypatch.setattr(pages, "MAX_BYTES", middle)
    summary, html, _ = write(judged, "second")
    assert summary["size_bytes"] <= middle
    assert 0 < summary["num_shown"] < whole["num_shown"]
    num_left_out = whole["num_shown"] - summary["num_shown"]
    assert f"{num_left_out} more had no room on this page" in html


def test_report_of_a_hundred_thousand_images_is_a_sample(judged):
    num = 100_000
    ids = [f"photos/{number:06d}.jpg" for number in range(num)]
    made = judged_runs.make_scores(ids, 4, ("original", "q010", "q050", "q090"), gain=0.1)
    made = dataclasses.replace(made, extra={"classes": ["brick", "coffee", "grass", "gravel"]})
    judged_runs.write(judged / "runs" / "first", made)
    summary, html, _ = write(judged, "first")
    assert summary["num_shown"] == 60
    assert f"60 of {summary['num_changed']:,} shown, drawn at random with seed 0" in html
    assert summary["size_bytes"] < pages.MAX_BYTES


def test_report_of_a_thousand_classes_shows_the_movers(judged):
    names = tuple(f"class {number:04d}" for number in range(1000))
    path = judged / "runs" / "first" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": names}))
    made = judged_runs.make_scores(
        [f"{i}.jpg" for i in range(3000)], 1000, ("original", "q010"), strength=4.0, gain=0.5
    )
    found = judged_runs.write(
        judged / "runs" / "first", dataclasses.replace(made, extra={"classes": names})
    )
    _, _, page = write(judged, "first", images=3)
    (up,) = [e for e in page.all("table") if "Classes that gained most" in e.text]
    changes = [row["change"] or 0 for row in found["per_class"]]
    best = names[int(np.argmax(changes))]
    assert best in up.text
    assert "Top-5" in page.all("main")[0].text or "top-5" in page.all("main")[0].text


FOLDS = {
    "run": "first",
    "protocol": "honest",
    "num_images": 1200,
    "gain": {"top1": 0.021, "ci95": [-0.004, 0.046]},
    "comparators": {
        "default": {"top1": 0.8, "ci95": [0.78, 0.82], "text": "the default model"},
        "topology": {
            "top1": 0.821,
            "ci95": [0.8, 1.01],
            "difference": 0.021,
            "difference_ci95": [-0.004, 0.046],
            "p": 0.0871,
            "holm_p": 0.0871,
            "headroom_share": 0.4,
            "text": "run first",
        },
    },
    "oracle": {"top1": 0.93, "control_top1": 0.925},
    "min_detectable_gain": 0.03,
    "verdict": "The gain of 2.10 points could be chance: shown from 3.0 up.",
    "verdict_kind": "chance",
    "folds": {"num_folds": 5, "seeds": [0, 1, 2]},
}


def test_report_folds_have_a_section_where_there_are_any(judged):
    assert "In folds" not in write(judged, "first")[1]
    path = judged / "runs" / "first" / "results-folds.json"
    path.write_text(json.dumps(FOLDS))
    page = write(judged, "first")[2]
    (table,) = [e for e in page.all("table") if "Comparators in folds" in e.text]
    for shown in ("82.10%", "+2.10", "0.087", "40%", "run first"):
        assert shown in table.text
    text = page.all("main")[0].text
    for shown in (FOLDS["verdict"], "each of 5 parts of all 1,200 images", "3 divisions", "92.50%"):
        assert shown in text
    (top,) = [e for e in page.all("section") if e.attributes.get("class", "").startswith("hero")]
    assert "could be chance Over folds of all 1,200 images: +2.10 points" in " ".join(
        top.text.split()
    )


def side_by_side(workspace):
    """Give the cells of the table of two runs, by the run's name; those of its head by `run`."""
    html = write(workspace, "first", "second", images=0)[1]
    table = html[html.index("Each run against its own default model") :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")], re.S)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S) for row in rows]
    words = [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in cells]
    return {row[0]: row for row in words}


def test_report_of_several_runs_shows_folds_where_any_has_them(judged):
    before = side_by_side(judged)
    (judged / "runs" / "first" / "results-folds.json").write_text(json.dumps(FOLDS))
    after = side_by_side(judged)
    assert not any("folds" in cell for cell in before["run"])
    assert after["run"][:3] == ["run", "verdict", "in folds, points"]
    assert after["first"][2] == "≈ could be chance +2.10"
    assert after["second"][2] == "–"
    assert [[*row[:2], *row[3:]] for row in after.values()] == list(before.values())


def test_report_damaged_folds_raise_naming_the_file(judged):
    path = judged / "runs" / "first" / "results-folds.json"
    path.write_text(json.dumps({**FOLDS, "num_images": "many"}))
    with pytest.raises(ManifestError, match=r"results-folds\.json: damaged, .*num_images"):
        write(judged, "first")


def test_report_without_results_says_what_to_run(judged):
    (judged / "runs" / "first" / "results.json").unlink()
    message = "run first has no results; run `bottleneck eval --run first` first"
    with pytest.raises(TrainingError, match=message):
        write(judged, "first")
    assert not (judged / "runs" / "first" / "report.html").exists()


def test_report_of_an_unfinished_run_is_refused(judged):
    (judged / "runs" / "first" / "summary.json").unlink()
    with pytest.raises(TrainingError, match="not finished"):
        write(judged, "first")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:50], "cannot be read"),
        (lambda text: text.replace('"num_images"', '"images"', 1), "num_images: field required"),
        (lambda text: re.sub(r'"oracle_top1": [\d.]+', '"oracle_top1": NaN', text), "oracle_top1"),
        (lambda text: "[]", "the whole"),
    ],
)
def test_report_of_damaged_results_names_file_and_remedy(damage, words, judged):
    path = judged / "runs" / "first" / "results.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ManifestError, match=words) as error:
        write(judged, "first")
    assert str(error.value).startswith(f"{path}: ")
    assert "bottleneck eval --run first" in str(error.value)
    assert not (judged / "runs" / "first" / "report.html").exists()


def test_report_results_of_another_run_are_refused(judged):
    shutil.copy(judged / "runs" / "second" / "results.json", judged / "runs" / "first")
    with pytest.raises(ManifestError, match="results of run second on test, expected run first"):
        write(judged, "first")


def test_report_command_prints_verdict_and_place(judged):
    result = invoke("report", "first", "-C", judged)
    assert result.exit_code == 0, result.output
    found = json.loads((judged / "runs" / "first" / "results.json").read_text())
    lines = result.stdout.splitlines()
    assert lines[0] == f"run first: {found['verdict']}"
    assert lines[-1].endswith(str(judged / "runs" / "first" / "report.html"))


def test_report_command_json_is_the_summary(judged, tmp_path):
    to = tmp_path / "deep" / "er" / "page.html"
    result = invoke("report", "first", "second", "--to", to, "--json", "-C", judged)
    summary = json.loads(result.stdout)
    assert summary["runs"] == ["first", "second"]
    assert summary["size_bytes"] == to.stat().st_size


def test_report_command_of_a_path_as_run_is_a_usage_error(judged):
    message = the_error(invoke("report", "runs/first", "-C", judged), status=2)
    assert "is no run's name" in message
