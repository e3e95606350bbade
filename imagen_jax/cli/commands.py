"""All commands of the package: python -m imagen_jax --help"""

import difflib
import sys
from collections.abc import Sequence
from typing import get_args

from imagen_jax.cli import sample, train, verbs
from imagen_jax.cli.program import package_command
from imagen_jax.errors import UsageError, exit_on_usage_error

_SCRIPTS = {"sample": sample.main, "train": train.main}


def main(arguments: Sequence[str] | None = None) -> None:
    """`sample` and `train` read their own flags; the rest are verbs."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with exit_on_usage_error():
        _check_name(arguments[0] if arguments else "")
    if arguments[0] in _SCRIPTS:
        _SCRIPTS[arguments[0]](arguments[1:])
    else:
        verbs.main(arguments)


def _check_name(name: str) -> None:
    """Raises a UsageError unless a command, or a flag such as --help, has that name."""
    names = [*_SCRIPTS, *(verb.__name__.lower() for verb in get_args(verbs.Verb))]
    if name in names or name.startswith("-"):
        return
    similar = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    hint = f"; perhaps you meant {similar[0]}" if similar else ""
    missing = f"There is no command {name!r}{hint}" if name else "There is no command"
    raise UsageError(
        f"{missing}: after {package_command()} comes one of {', '.join(names)}; see --help."
    )
