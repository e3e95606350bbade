"""The pages in docs/: links lead somewhere, and errors are quoted as the package says them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What GitHub and MyST make of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links to files that are not there, or to headings that their pages do not have."""
    broken = []
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# Two words, one comma")
    page = tmp_path / "a.md"
    page.write_text("[](b.md#two-words-one-comma) [](b.md#two) [](c.md) [](https://example.org)")
    assert broken_links(page) == ["b.md#two", "c.md"]


def test_every_page_is_in_the_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    names = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert names == {name for name in names if re.search(rf"^{name}$|<{name}>", index, re.M)}


def said() -> str:
    """All texts in the package, with ... for what is filled in, in the case of no letter."""
    texts = []
    for path in (ROOT / "imagen_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "..." for p in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts).lower()


def quoted() -> list[str]:
    """The errors that begin an item of the page."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    firsts = re.findall(r"^- ((?:`[^`]+`|[^`:])+): ", page, re.MULTILINE)
    return [text for first in firsts for text in re.findall(r"`([^`]+)`", first)]


def test_quoted_errors_are_those_of_the_package():
    package = said()
    elsewhere = {"RESOURCE_EXHAUSTED", "weights/t5-v1_1-..."}
    texts = set(quoted()) - elsewhere
    assert len(texts) > 30
    for text in texts:
        assert all(part.strip().lower() in package for part in text.split("...")), text
