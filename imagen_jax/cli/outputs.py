"""What commands write to, held against slips."""

from pathlib import Path

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import absolute


def require_suffix(out: Path, suffix: str) -> None:
    """A slip must not replace a config or a picture."""
    if out.suffix != suffix or out.is_dir():
        raise UsageError(f"{out} cannot be written; name a file that ends with {suffix}.")


def require_other(out: Path, *read: str) -> None:
    """What is written must not replace what it is made from."""
    for name in filter(None, read):
        if absolute(Path(name)) == absolute(out):
            raise UsageError(f"{out} is what is read; name another file.")


def require_empty(out: Path) -> None:
    """What is there already must not be mixed with what is written."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose a new directory.")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose a new directory.")
