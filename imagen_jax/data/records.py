"""What a source of captioned pictures gives: the interface between sources and pipeline."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Record:
    """One captioned picture as stored."""

    name: str
    """Names the record in errors."""
    image: bytes
    """An encoded picture."""
    low_res: bytes | None
    """The same picture at the stage's low resolution, where the source has a true one."""
    draw_caption: Callable[[np.random.Generator], str]


@runtime_checkable
class Source(Protocol):
    """Random access to records, from several threads or processes at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def pick_caption(texts: Sequence[str], rng: np.random.Generator) -> str:
    """One of `texts`, drawn uniformly."""
    return texts[int(rng.integers(len(texts)))]
