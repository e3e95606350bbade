"""How a command was called, for its help and its hints."""

import sys
from pathlib import Path


def package_command() -> str:
    """What to type to call the package's commands."""
    return "imagen" if Path(sys.argv[0]).stem == "imagen" else "python -m imagen_jax"


def command(verb: str) -> str:
    """What to type to call `verb` ("sample", "train") again in the way this process was called."""
    name = Path(sys.argv[0]).stem
    if name in ("__main__", "imagen"):
        return f"{package_command()} {verb}"
    return name if name == f"imagen-{verb}" else f"python {verb}.py"


def with_command(text: str, verb: str) -> str:
    """A text that says `python VERB.py`, with what this process is called by in its place."""
    return text.replace(f"python {verb}.py", command(verb))
