"""The page of `bottleneck report`: what it shows, that it is sound, that nothing gets out or in."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil

import pytest
from judged_workspaces import judge, rename_classes, write

HOSTILE = ('<script>alert("x")</script>', "a&b", 'it\'s "quoted" {{ 7 * 7 }}', "</style><b>")


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
