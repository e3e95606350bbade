"""How a command was called, for its help and its hints."""

import contextlib
import importlib
import signal
import sys
import threading
from collections.abc import Iterator
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
    """Imports modules, which takes seconds; Ctrl-C meanwhile ends the process at once."""
    with ended_by_ctrl_c():
        for module in modules:
            importlib.import_module(module)


def run(module: str) -> None:
    """Runs the `main` of a command's module, which is imported first.

    Once it has ended, Ctrl-C ends the process at once: what JAX does at the end would print it.
    """
    load(module)
    try:
        sys.modules[module].main()
    finally:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def sample() -> None:
    """`sample.py` and `imagen-sample`."""
    run("imagen_jax.cli.sample")


def train() -> None:
    """`train.py` and `imagen-train`."""
    run("imagen_jax.cli.train")


def package() -> None:
    """`python -m imagen_jax` and `imagen`."""
    run("imagen_jax.cli.commands")


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Within it Ctrl-C ends the process at once, where nothing that is called listens to it.

    Raised as an exception it would reach code in C that prints it, that fails to import for a
    reason which is none, or that drops it: then a run that was told to end goes on. Where the
    process was begun to ignore Ctrl-C, as shells begin what ends with &, this changes nothing.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    listens = threading.current_thread() is threading.main_thread() and not ignored
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if listens else None
    ends = False
    try:
        yield
    except KeyboardInterrupt:
        ends = True
        raise
    finally:
        if before is not None and not ends:
            signal.signal(signal.SIGINT, before)
