"""How Sphinx builds the site: `sphinx-build -W --keep-going -n docs OUT`.

Nothing of the site is fetched, neither when it is built nor when it is read.
"""

import sys
from pathlib import Path

import imagen_jax

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "imagen-jax"
author = "the authors of imagen-jax"
release = imagen_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "command_help",
    "docstrings",
    "mathml",
    "notebook",
    "source_links",
    "tables",
]
html_theme = "furo"
html_title = f"imagen-jax {release}"
html_math_renderer = "mathml"
html_show_sphinx = False
# Every page holds the whole contents: with each function in them the build takes twice as long.
toc_object_entries = False
exclude_patterns = ["_build", "_extensions"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

apidoc_modules = [
    {
        "path": "../imagen_jax",
        "destination": "api",
        "exclude_patterns": ["**/__main__.py"],
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
# Pages are checked for every reference. Types in signatures are not: those of JAX, NumPy and
# jaxtyping are described on sites that a build without network cannot ask.
nitpick_ignore_regex = [(r"py:(class|data|obj|exc|meth|attr|func)", r".*")]
# A builtin type in a signature, such as `bytes`, is taken for a field of that name.
suppress_warnings = ["ref.python"]
