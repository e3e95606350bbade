"""Make the .ipynb of notebooks/ from their plain text, jupytext's percent format.

    pip install ".[notebooks]"
    python tools/make_notebooks.py

Edit the .py and run this. Every notebook gets the badge, and after its first cell the cells that
install the package and show the devices, from notebooks/common/setup.py. Outputs are not kept.
"""

from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

REPOSITORY = "OWNER/imagen-jax"
"""On GitHub; OWNER is a placeholder until the project is published."""
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SETUP = NOTEBOOKS / "common" / "setup.py"
METADATA = {
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """The notebooks' plain text."""
    return sorted(NOTEBOOKS.glob("*.py"))


def make(source: Path) -> NotebookNode:
    """A notebook from its plain text, without outputs."""
    badge, *setup = cells(SETUP)
    title, *rest = cells(source)
    notebook = nbformat.v4.new_notebook(metadata=METADATA)
    notebook.cells = [badge, title, *setup, *rest]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
        filled = cell.source.replace("$REPOSITORY", REPOSITORY).replace("$NAME", source.stem)
        cell.source = filled
        if filled.startswith("# @title"):
            cell.metadata = nbformat.from_dict({"cellView": "form"})
    return notebook


def cells(source: Path) -> list[NotebookNode]:
    """The cells of a file in the percent format."""
    return jupytext.read(source, fmt="py:percent").cells


def main() -> None:
    for source in sources():
        nbformat.write(make(source), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
