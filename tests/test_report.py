"""`bottleneck report`: the page as a whole, and what it is made from when things are missing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import judged_runs
import numpy as np
import pytest
from commands import invoke, the_error
from html_pages import parse
from judged_workspaces import judge, rename_classes

from pipelines import report
from pipelines.config import ReportConfig
from pipelines.errors import ManifestError, TrainingError
from pipelines.progress import Silent
from pipelines.reporting import page as pages

HOSTILE = ('<script>alert("x")</script>', "a&b", 'it\'s "quoted" {{ 7 * 7 }}', "</style><b>")


def write(workspace, *names, **settings):
    summary = report.run(workspace, ReportConfig(**settings), names, Silent())
    html = Path(summary["to"]).read_text(encoding="utf-8")
    return summary, html, parse(html)


@pytest.fixture(scope="module")
def written(judged_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write(judged_once, "second", to=str(folder / "page.html"))


@pytest.fixture(scope="module")
def both(judged_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return write(judged_once, "first", "second", to=str(folder / "page.html"))


@pytest.fixture(params=["written", "both"])
def page(request):
    return request.getfixturevalue(request.param)[2]


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


def test_page_refers_to_nothing_outside(page):
    for element in page.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            value = element.attributes.get(key, "")
            assert value == "" or value.startswith(("#", "data:")), (element.tag, value[:80])
    assert "@import" not in page.all("style")[0].text
    assert "url(" not in page.all("style")[0].text


def test_page_policy_allows_its_own_style_and_script_alone(page):
    policy = page.one(**{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        (element,) = page.all(tag)
        digest = hashlib.sha256(element.text.encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert [e.tag for e in page.elements if "style" in e.attributes] == []
    assert [e.tag for e in page.elements for key in e.attributes if key.startswith("on")] == []


def test_page_is_well_formed_with_unique_ids_that_links_and_labels_meet(page):
    assert page.unclosed == []
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    named = [
        e.attributes[key][1:]
        for e in page.elements
        for key in ("href",)
        if e.attributes.get(key, "").startswith("#")
    ]
    named += [
        name
        for e in page.elements
        for key in ("aria-labelledby", "aria-describedby")
        for name in e.attributes.get(key, "").split()
    ]
    assert named
    assert set(named) <= set(ids)


def test_page_has_one_h1_and_no_heading_level_is_left_out(page):
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page_has_landmarks_and_a_language(page):
    assert [len(page.all(tag)) for tag in ("header", "main", "footer")] == [1, 1, 1]
    assert page.all("html")[0].attributes["lang"] == "en"


def test_page_pictures_have_words_and_tables_captions_and_scopes(page):
    assert page.all("img")
    assert [e for e in page.all("img") if not e.attributes.get("alt")] == []
    for element in page.all("svg"):
        a = element.attributes
        assert a.get("aria-hidden") == "true" or (
            a["role"] == "img" and (a.get("aria-label") or a.get("aria-labelledby"))
        )
    assert len(page.all("table")) == len([e for e in page.all("caption") if e.text.strip()])
    assert {e.attributes.get("scope") for e in page.all("th")} == {"row", "col"}
    for element in page.all("table"):
        assert "div" in element.inside  # which scrolls


def test_page_svg_pictures_hold_real_text_and_the_pages_colours(written):
    _, html, page = written
    charts = [e for e in page.all("svg") if e.attributes.get("class") == "chart"]
    assert len(charts) >= 5
    assert all(e.text.strip() for e in charts)
    assert "font-family" not in "".join(re.findall(r'<svg class="chart".*?</svg>', html, re.S))
    drawn = {
        value
        for e in page.elements
        if "svg" in e.inside
        for key, value in e.attributes.items()
        if key in ("fill", "stroke")
    }
    assert {"var(--topology)", "var(--default)"} <= drawn
    assert [colour for colour in drawn if colour.startswith("#")] == []


def test_page_shows_the_verdict_first_and_the_protocol(written, judged_once):
    _, _, page = written
    found = json.loads((judged_once / "runs" / "second" / "results.json").read_text())
    verdict = page.one(**{"class": "verdict"})
    assert verdict.text == found["verdict"]
    (hero,) = [e for e in page.all("section") if "hero" in e.attributes.get("class", "").split()]
    assert found["verdict_kind"] in hero.attributes["class"].split()
    assert "Honest protocol" in hero.text


def test_page_of_val_says_that_it_was_selected_on_these_images(judged):
    judge(judged, "first", split="val")
    page = write(judged, "first", split="val")[2]
    notice = page.one(**{"class": "notice"})
    assert "selected and reported on the same images" in notice.text


def test_page_of_a_run_that_was_judged_on_val_alone_is_of_val(judged):
    judge(judged, "first", split="val")
    (judged / "runs" / "first" / "results.json").unlink()
    assert "Thesis protocol" in write(judged, "first")[1]


def test_page_lists_every_comparator_with_its_numbers(written, judged_once):
    _, _, page = written
    found = json.loads((judged_once / "runs" / "second" / "results.json").read_text())
    rows = [e for e in page.all("tr") if "Comparators" not in e.text]
    for values in found["comparators"].values():
        top1 = f"{100 * values['top1']:.2f}%"
        assert any(top1 in row.text for row in rows)
    (table,) = [e for e in page.all("table") if e.attributes.get("class") == "comparators"]
    assert table.text.count("%") >= 2 * len(found["comparators"])


def test_page_accuracy_by_block_goes_through_the_chain(written):
    _, html, page = written
    assert "Accuracy by block" in html
    (picture,) = [e for e in page.all("svg") if "-blocks-title" in str(e.attributes)]
    assert "FC" in picture.text
    assert "mixed_10" in picture.text


def test_page_names_a_run_of_the_chain_without_results(judged):
    (judged / "runs" / "first" / "results.json").unlink()
    html = write(judged, "second")[1]
    assert "bottleneck eval --run first" in html


def test_page_side_by_side_has_verdicts_and_settings_that_differ(both):
    _, html, page = both
    (table,) = [e for e in page.all("table") if "Settings that differ" in e.text]
    assert "learning_rate" in table.text
    assert "momentum" not in table.text
    for slug in ("run-1", "run-2"):
        assert f'href="#{slug}"' in html
        assert page.one(id=slug).tag == "h2"


def test_page_class_names_and_ids_with_html_are_text(judged):
    rename_classes(judged, "first", HOSTILE)
    _, html, page = write(judged, "first")
    assert len(page.all("script")) == 1
    assert "<b>" not in html
    assert page.unclosed == []
    names = {e.text for e in page.all("th")}
    assert set(HOSTILE) <= names


def test_page_svg_with_a_hostile_block_name_is_text(judged):
    path = judged / "runs" / "second" / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "blocks": ["<script>1</script>", "FC"]}))
    _, _, page = write(judged, "second")
    assert len(page.all("script")) == 1
    assert any("<script>1</script>" in e.text for e in page.all("svg"))


def test_page_gallery_shows_every_changed_image_with_pictures(written, judged_once):
    summary, _, page = written
    found = json.loads((judged_once / "runs" / "second" / "results.json").read_text())
    cards = [e for e in page.all("li") if e.attributes.get("class") == "card"]
    assert len(cards) == found["type_a"] + found["type_b"] == summary["num_changed"]
    kinds = [card.attributes["data-type"] for card in cards]
    assert (kinds.count("A"), kinds.count("B")) == (found["type_a"], found["type_b"])
    assert len(page.all("img")) == 3 * len(cards)


def test_page_gallery_without_variants_is_made_from_the_files(judged):
    before = write(judged, "second")[2].all("img")
    shutil.rmtree(judged / "variants")
    after = write(judged, "second")[2].all("img")
    sources = [[e.attributes["src"] for e in images] for images in (before, after)]
    assert sources[0] == sources[1]


def test_page_gallery_of_a_damaged_shard_is_made_from_the_files(judged):
    before = write(judged, "second")[2].all("img")
    for path in (judged / "variants" / "jpeg").glob("test-*.parquet"):
        data = bytearray(path.read_bytes())
        for place in range(len(data) // 4, 3 * len(data) // 4):
            data[place] ^= 0xFF
        path.write_bytes(data)
    after = write(judged, "second")[2].all("img")
    sources = [sorted(e.attributes["src"] for e in images) for images in (before, after)]
    assert sources[0] == sources[1]


def test_page_of_a_run_of_the_original_alone_leaves_out_what_has_no_meaning(judged):
    path = judged / "runs" / "first" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "branches": ["original"]}))
    judge(judged, "first", leans_on={}, averages={}, calibration={}, per_class=[])
    _, html, page = write(judged, "first")
    assert page.unclosed == []
    for words in ("Accuracy by quality factor", "Calibration", "By class", "leans on"):
        assert words not in html


def test_page_without_variants_images_caches_and_history_says_what_brings_them(judged):
    for name in ("variants", "photos", "features"):
        shutil.rmtree(judged / name)
    (judged / "runs" / "second" / "history.jsonl").unlink()
    _, html, page = write(judged, "second")
    assert page.all("img") == []
    for words in ("bottleneck compress", "bottleneck extract --node node_1", "history.jsonl"):
        assert words in html
    assert [e for e in page.all("li") if e.attributes.get("class") == "card"]


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
