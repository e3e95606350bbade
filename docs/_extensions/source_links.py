"""Links to files of the checkout, which GitHub follows, lead to pages of the site."""

import re

from sphinx.application import Sphinx

_MODULE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(imagen_jax/[\w/]+)\.py\)")
_MODEL_CARD = "../imagen_jax/pretrained/MODEL_CARD.md"


def module_role(link: re.Match[str]) -> str:
    """[text](../imagen_jax/a/b.py) as a reference to the module imagen_jax.a.b."""
    module = link[2].replace("/", ".").removesuffix(".__init__")
    text = link[1].strip("`")
    return f"{{py:mod}}`{text} <{module}>`"


def replace_links(app: Sphinx, docname: str, source: list[str]) -> None:
    text = _MODULE.sub(module_role, source[0])
    source[0] = text.replace(f"({_MODEL_CARD})", "(model_card.md)")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", replace_links)
    return {"parallel_read_safe": True}
