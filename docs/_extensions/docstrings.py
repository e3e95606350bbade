"""Docstrings are plain text with `code`; what else means something to Sphinx is spelt out."""

import re

from sphinx.application import Sphinx

_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"([\\*|]|(?<=\w)_(?=\W|$))")


def plain(line: str) -> str:
    """A line in reStructuredText that shows the given one as it stands."""
    parts = _CODE.split(line)
    return "".join(
        f"`{part}`" if _CODE.fullmatch(part) else _SPECIAL.sub(r"\\\1", part) for part in parts
    )


def escape(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = [plain(line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    # Before napoleon, which reads "Args:" and "Raises:".
    app.connect("autodoc-process-docstring", escape, priority=400)
    return {"parallel_read_safe": True}
