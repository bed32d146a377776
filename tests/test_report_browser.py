"""The report in a real browser: no errors, no requests, filters, dark mode, a phone's width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import report
from pipelines.config import ReportConfig
from pipelines.progress import Silent

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

pytestmark = pytest.mark.slow
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
_PHONE, _DESK = {"width": 375, "height": 800}, {"width": 1200, "height": 900}
SHOWN = ".card:not([hidden])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs a browser: chromium or google-chrome on PATH, or playwright's own")
        found = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(judged_once: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, runs in (("one", ("second",)), ("two", ("first", "second"))):
        found[name] = folder / f"{name}.html"
        report.run(judged_once, ReportConfig(to=str(found[name])), runs, Silent())
    return found


class Opened:
    """A page that was opened, and what went wrong or out."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(**{"viewport": _DESK, **settings})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def overflow(self) -> int:
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(wide))

    def keep(self, path: Path) -> None:
        self.page.screenshot(path=path, full_page=True)
        kept = os.environ.get("BOTTLENECK_SCREENSHOTS")
        if kept:
            Path(kept).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    contexts = []

    def open_page(path: Path, **settings: Any) -> Opened:
        one = Opened(browser, path, **settings)
        contexts.append(one.context)
        return one

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [_DESK, _PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["one", "two"])
def test_page_opens_without_errors_requests_or_overflow(
    name, viewport, scheme, opened, files, tmp_path
):
    one = opened(files[name], viewport=viewport, color_scheme=scheme)
    one.keep(tmp_path / f"report-{name}-{viewport['width']}-{scheme}.png")
    for details in one.page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    assert one.overflow() == 0
    assert one.complaints == []
    assert [url for url in one.requests if not url.startswith("data:")] == [files[name].as_uri()]


def test_page_grounds_follow_the_colour_scheme(opened, files):
    grounds = []
    for scheme in ("light", "dark"):
        page = opened(files["one"], color_scheme=scheme).page
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(int(part) for part in ground[4:-1].split(",")))
    assert grounds[0] > 600
    assert grounds[1] < 150


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_words_have_the_contrast_of_wcag_aa(scheme, opened, files):
    """Measure every element that has words of its own against the ground behind it."""
    page = opened(files["two"], color_scheme=scheme).page
    script = """() => {
      const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
      const light = (rgb) => {
        const part = rgb.slice(0, 3).map((one) => {
          const share = one / 255;
          return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
      };
      const found = [];
      for (const element of document.body.querySelectorAll("*")) {
        const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || element.closest("script") || element.matches("title, desc")) continue;
        let behind = element;
        let ground = [0, 0, 0, 0];
        while (behind && (ground.length === 4 && ground[3] === 0)) {
          ground = parse(getComputedStyle(behind).backgroundColor);
          behind = behind.parentElement;
        }
        const style = getComputedStyle(element);
        const ink = parse(element.closest("svg") ? style.fill : style.color);
        const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) found.push([element.tagName, element.textContent.slice(0, 40), ratio]);
      }
      return found;
    }"""
    assert page.evaluate(script) == []


def test_filters_by_mouse_change_what_is_shown(opened, files):
    page = opened(files["one"]).page
    status, shown = page.get_by_role("status"), page.locator(SHOWN)
    total = shown.count()
    assert status.text_content() == f"{total} of {total} shown"
    page.get_by_role("button", name="Gained", exact=True).click()
    gained = shown.count()
    assert 0 < gained < total
    assert status.text_content() == f"{gained} of {total} shown"
    assert set(shown.evaluate_all("all => all.map((one) => one.dataset.type)")) == {"A"}
    assert (
        page.get_by_role("button", name="Gained", exact=True).get_attribute("aria-pressed")
        == "true"
    )
    assert (
        page.get_by_role("button", name="All", exact=True).get_attribute("aria-pressed") == "false"
    )
    page.get_by_role("button", name="All", exact=True).click()
    assert shown.count() == total


def test_filters_by_keyboard_change_what_is_shown(opened, files):
    page = opened(files["one"]).page
    shown = page.locator(SHOWN)
    total = shown.count()
    page.get_by_role("button", name="All", exact=True).focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert set(shown.evaluate_all("all => all.map((one) => one.dataset.type)")) == {"B"}
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert shown.count() == total
    name = page.locator(".card").first.get_attribute("data-name")
    page.get_by_role("searchbox").focus()
    page.keyboard.type(str(name).upper())
    assert shown.count() == 1
    assert page.get_by_role("status").text_content() == f"1 of {total} shown"


@pytest.mark.parametrize(("label", "key"), [("Class", "class"), ("Best version", "branch")])
def test_filter_of_a_list_shows_what_it_names(label, key, opened, files):
    page = opened(files["one"]).page
    field = page.get_by_label(label, exact=True)
    value = page.locator(".card").last.get_attribute(f"data-{key}")
    field.select_option(value)
    kinds = page.locator(SHOWN).evaluate_all(f"all => all.map((one) => one.dataset.{key})")
    assert set(kinds) == {value}
    field.select_option("")
    assert page.locator(SHOWN).count() == page.locator(".card").count()


def test_enlarged_image_opens_by_keyboard_and_shows_the_difference(opened, files, tmp_path):
    one = opened(files["one"], viewport=_PHONE)
    card = one.page.locator(".card").first
    difference = card.get_by_alt_text("Difference between", exact=False)
    assert not difference.is_visible()
    card.locator("summary").focus()
    one.page.keyboard.press("Enter")
    assert difference.is_visible()
    assert one.overflow() == 0
    one.keep(tmp_path / "report-enlarged.png")


def test_galleries_of_two_runs_are_filtered_apart(opened, files):
    page = opened(files["two"]).page
    first, second = page.locator("[data-gallery]").all()
    total = second.locator(SHOWN).count()
    first.get_by_role("searchbox").fill("no such image")
    assert first.locator(SHOWN).count() == 0
    assert second.locator(SHOWN).count() == total > 0


def test_page_without_javascript_shows_every_image_and_no_dead_filters(opened, files):
    page = opened(files["one"], java_script_enabled=False).page
    assert page.locator(".card").first.is_visible()
    assert page.locator(SHOWN).count() == page.locator(".card").count()
    assert not page.get_by_role("button", name="Gained", exact=True).is_visible()
