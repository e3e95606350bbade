"""How a command was called, for its help and its hints."""

import importlib
import signal
import sys
import threading
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


def load(*modules: str) -> None:
    """Imports modules, which takes seconds; Ctrl-C meanwhile ends the process at once.

    Raised as an exception it would reach code in C that prints it, and that fails to import for a
    reason which is none.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if in_main_thread else None
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
