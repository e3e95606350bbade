"""The directive `command-help`: what the package's commands answer to --help, one section each."""

import os
import subprocess
import sys
from typing import get_args

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from imagen_jax.cli import verbs

_COMMAND = "python -m imagen_jax"


def commands() -> list[str]:
    """What can follow the command: both scripts, the flags of a small config, and every verb."""
    names = [verb.__name__.lower() for verb in get_args(verbs.Verb)]
    return ["sample", "train", "train tiny_64", *names]


def help_of(command: str) -> str:
    """What a terminal of 100 columns shows."""
    arguments = [sys.executable, "-m", "imagen_jax", *command.split(), "--help"]
    environ = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    run = subprocess.run(arguments, env=environ, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in run.stdout.splitlines())


class CommandHelp(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [self._section(command) for command in commands()]

    def _section(self, command: str) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(command)])
        section += nodes.title(text=f"{_COMMAND} {command}")
        section += nodes.literal_block(text=help_of(command), language="text")
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
