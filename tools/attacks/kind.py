"""What a kind of input is."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from attacks import mutations as m

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
Read = dict[str, str]
"""What was read: of each part the digest."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        make: writes a sound one to a directory.
        read: reads it as a command would.
        files: patterns of the files to damage.
        styles: of damage.
        exact: whether what is read of a damaged one must be what is read of a sound one.
        may_lack: whether parts of an exact kind may be left out where the others are read.
        expected: all that may be read; None for what `read` gives of the sound one.
        writes: names of what `read` writes: whole, or not there when it refuses.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Read]
    files: tuple[str, ...]
    styles: Sequence[Callable] = (m.as_bytes,)
    exact: bool = False
    may_lack: bool = False
    expected: Callable[[Path], list[Read]] | None = None
    writes: tuple[str, ...] = ()


def digest(*parts: object) -> str:
    """Of arrays, bytes and whatever else."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        total.update(part if isinstance(part, bytes) else repr(part).encode())
    return total.hexdigest()
