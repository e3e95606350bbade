"""The directive `notebook NAME`: a notebook's text and code with what its cells have shown.

The text is that of notebooks/NAME.py, and what was shown lies in docs/NAME/.
"""

import json
from pathlib import Path

import jupytext
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def page(name: str, directory: Path) -> str:
    """The notebook as Markdown, its title left out.

    Raises:
        ValueError: a cell of code is not what was run; tools/make_notebook_page.py runs it anew.
    """
    cells = jupytext.read(_NOTEBOOKS / f"{name}.py", fmt="py:percent").cells
    ran = iter(json.loads((directory / "cells.json").read_text()))
    parts = []
    for cell in cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        shown = next(ran, None)
        if shown is None or shown["source"] != cell.source:
            raise ValueError(f"{directory} does not hold what {name}.py shows; make it anew.")
        parts.append(f"```python\n{cell.source}\n```")
        parts += [f"```text\n{shown['text']}\n```"] * bool(shown["text"])
        parts += [f"![]({directory.name}/{picture})" for picture in shown["pictures"]]
    return "\n\n".join(parts).partition("\n")[2]


class Notebook(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        directory = Path(self.env.srcdir) / name
        for path in (_NOTEBOOKS / f"{name}.py", directory / "cells.json"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(page(name, directory), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("notebook", Notebook)
    return {"parallel_read_safe": True}
