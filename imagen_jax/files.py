"""Files that appear whole or not at all. No JAX here."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from imagen_jax.errors import UsageError, reason


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`, and puts what was written there in its place.

    Makes the directory. If the block fails, `path` stays as it is and nothing is left behind.

    Raises:
        UsageError: the file cannot be written, and why.
    """
    if not path.name:
        raise UsageError(f"{path} cannot be written: it is a directory.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {reason(error)}.") from error


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(directory: Path, flag: str) -> None:
    """Raises a UsageError unless `directory` is, or can be made, one to write to.

    It makes nothing: a run that fails later leaves no empty directory.

    Args:
        flag: what was asked for, such as "--out is runs".
    """
    directory = directory.absolute()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"{flag}, but {nearest} is a file; it must be a directory.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{flag}, but {nearest} cannot be written to.")
