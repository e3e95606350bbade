"""Run notebooks/how_imagen_works.py and keep what its cells show, for the page of the same name.

    pip install ".[notebooks]"
    python tools/make_notebook_page.py

Writes docs/how_imagen_works/: the pictures, and cells.json, which says of every cell of code what
it is and what it printed and showed. docs/_extensions/notebook.py makes the page of that. On two
cores this takes two minutes.
"""

import base64
import json
import shutil
from pathlib import Path

import make_notebooks
import nbclient

NAME = "how_imagen_works"
OUT = Path(__file__).parent.parent / "docs" / NAME
_PICTURE, _TEXT = "image/png", "text/plain"


def shown(cell) -> tuple[str, list[bytes]]:
    """What a cell printed or gave as text, and its pictures."""
    texts, pictures = [], []
    for output in cell.outputs:
        data = output.get("data", {})
        if _PICTURE in data:
            pictures.append(base64.b64decode(data[_PICTURE]))
        elif _TEXT in data:
            texts.append(data[_TEXT])
        elif output.get("name") == "stdout":  # Progress goes to the other one.
            texts.append(output["text"])
    return "\n".join(text.strip() for text in texts), pictures


def main() -> None:
    source = make_notebooks.NOTEBOOKS / f"{NAME}.py"
    notebook = make_notebooks.make(source)
    nbclient.NotebookClient(notebook, timeout=3600, kernel_name="python3").execute()
    own = {cell.source for cell in make_notebooks.cells(source)}
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    cells = []
    for cell in notebook.cells:
        if cell.cell_type != "code" or cell.source not in own:
            continue
        text, pictures = shown(cell)
        names = [f"{len(cells)}-{number}.png" for number in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            (OUT / name).write_bytes(picture)
        cells.append({"source": cell.source, "text": text, "pictures": names})
    (OUT / "cells.json").write_text(json.dumps(cells, indent=1) + "\n")


if __name__ == "__main__":
    main()
