"""The pages in docs/: links lead somewhere, and errors are quoted as the package says them."""

import ast
import importlib
import json
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


INCLUDED = re.compile(r"\{literalinclude\} (\S+)\n:pyobject: (\S+)")


def test_code_that_pages_show_is_there():
    shown = [(page, *found) for page in PAGES for found in INCLUDED.findall(page.read_text())]
    assert len(shown) > 10
    for page, path, name in shown:
        tree = ast.parse((page.parent / path).read_text())
        assert name in {getattr(node, "name", None) for node in tree.body}, (page.name, name)


def test_every_page_is_in_the_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    names = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert names == {name for name in names if re.search(rf"^{name}$|<{name}>", index, re.M)}


def said() -> list[str]:
    """All texts in the package but docstrings, with ... for what is filled in, in the case of no
    letter."""
    texts = []
    for path in (ROOT / "imagen_jax").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if id(node) in alone:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "..." for p in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return [text.lower() for text in texts]


def quoted() -> list[str]:
    """The errors that begin an item of the page."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    firsts = re.findall(r"^- ((?:`[^`]+`|[^`:])+): ", page, re.MULTILINE)
    return [text for first in firsts for text in re.findall(r"`([^`]+)`", first)]


def test_quoted_errors_are_those_of_the_package():
    package = "\n".join(said())  # An error is one line.
    elsewhere = {"RESOURCE_EXHAUSTED", "weights/t5-v1_1-..."}
    texts = set(quoted()) - elsewhere
    assert len(texts) > 30
    for text in texts:
        parts = [re.escape(part.strip().lower()) for part in text.split("...")]
        assert re.search(".*".join(parts), package), text


@pytest.fixture
def extension(monkeypatch):
    """Imports one of the site's extensions by its name."""
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_extensions"))
    return importlib.import_module


def test_docstrings_are_shown_as_they_stand(extension):
    plain = extension("docstrings").plain
    assert plain("|lambda| of z_ and *x, `a | b_`") == r"\|lambda\| of z\_ and \*x, ``a | b_``"
    assert plain("log_snr_t of x_{t|s}") == r"log_snr_t of x\_{t\|s}"


def test_links_to_modules_lead_to_the_reference(extension):
    source = ["[the mesh](../imagen_jax/parallel/mesh.py), [ops/](../imagen_jax/ops/__init__.py)"]
    extension("source_links").replace_links(None, "page", source)
    assert source == ["{py:mod}`the mesh <imagen_jax.parallel.mesh>`, "
                      "{py:mod}`ops/ <imagen_jax.ops>`"]  # fmt: skip


def test_every_command_is_in_the_reference(extension):
    module = extension("command_help")
    assert {"sample", "train", "train tiny_64", "export", "embed"} <= set(module.commands())
    assert "WORKDIR OUT.safetensors" in module.help_of("export")


def test_rows_of_figures_become_a_table(extension):
    rows = [{"config": "`a`", "U-Net": 1234567, "the paper": "2B"}, dict.fromkeys("bcd", 1)]
    assert extension("tables").markdown(rows) == (
        "| config | U-Net | the paper |\n| --- | --- | --- |\n"
        "| `a` | 1,234,567 | 2B |\n| 1 | 1 | 1 |\n"
    )


def test_the_tables_of_figures_hold_what_tools_have_kept(extension):
    tables = extension("tables")
    shown = tables.markdown(json.loads(tables.PARAMETERS.read_text())["stages"])
    assert "| base_64 | 2,437,582,851 | 2B | 4,762,310,656 |" in shown
    kept = tables.pod_table.kept(tables.pod_table.rows(), tables.pod_table.KEPT)
    lines = tables.pod_table.table(kept).splitlines()
    assert lines[2].startswith("| base_64-v4-4x8x8 | 2048 | 3.13 / 30.75 |")
    assert len(lines) == 2 + len(kept)


def test_a_studys_table_has_a_row_a_point_and_names_files_alone(extension, tmp_path):
    path, figure = tmp_path / "results.json", "judge kernel distance"
    settings = {"guidance": 2.0, "base": "out/runs/u8-t48"}
    point = {"settings": settings, "kept": "x", "concept": 0.96, figure: 0.00312}
    path.write_text(json.dumps({"points": [point, point | {figure: None}]}))
    rows = extension("tables").study_rows(path)
    assert rows[0] == {"setting": "guidance 2.0, base u8-t48", "concept": "0.96", figure: "0.0031"}
    assert rows[1][figure] == ""
