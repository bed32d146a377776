"""The project's pages, and how to read code and links in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for folder in ("", "docs", "data", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
    if path.name != "LICENSE.md"
)
OUR_PAGES = [page for page in PAGES if page.parent.name != "benchmarks"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str | None = None) -> list[str]:
    """Give the page's code blocks, of one language or of all."""
    return [code for name, code in FENCE.findall(text_of(page)) if language in (None, name)]


def inline(page: Path) -> list[str]:
    """Give the pieces of code in the page's sentences."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def section(page: Path, heading: str) -> str:
    """Give what stands below a heading, up to the next heading of any level."""
    return re.split(r"^#+ .*\n", text_of(page).split(f"# {heading}\n", 1)[1], flags=re.M)[0]
