"""What a source of captioned pictures gives: the interface between sources and pipeline."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from imagen_jax.errors import UsageError


@runtime_checkable
class Captions(Protocol):
    """The captions of one picture."""

    def draw(self, rng: np.random.Generator) -> str:
        """One of them."""
        ...

    def all(self) -> Iterable[str]:
        """Every text that `draw` may give; a text may come more than once."""
        ...


@dataclasses.dataclass(frozen=True)
class ListedCaptions:
    """Captions written beside a picture; each is as likely to be drawn."""

    texts: tuple[str, ...]

    def draw(self, rng: np.random.Generator) -> str:
        return self.texts[int(rng.integers(len(self.texts)))]

    def all(self) -> tuple[str, ...]:
        return self.texts


@dataclasses.dataclass(frozen=True)
class Record:
    """One captioned picture as stored."""

    name: str
    """Names the record in errors."""
    image: bytes
    """An encoded picture."""
    captions: Captions | None
    """None where the stage reads no text."""
    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    """Encoded pictures that stand beside it: those of `conditions.pictures`, and where the source
    has a true one `low_res`, the same picture at the stage's low resolution."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What is known of a record beside its picture."""

    captions: Captions | None
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Such as `similarity` or the number of a class, by the names that the source has for them."""


class BrokenRecord(UsageError):
    """A record that cannot be used.

    Args:
        name: of the record.
        reason: the same for all records that are broken in the same way.
        detail: of this one.
    """

    def __init__(self, name: str, reason: str, detail: str = ""):
        super().__init__(f"{name}: {reason}{f' ({detail})' if detail else ''}.")
        self.name, self.reason = name, reason


@runtime_checkable
class Source(Protocol):
    """Random access to records, from several threads or processes at once.

    Both ways to read raise a BrokenRecord where the record cannot be used.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def metadata(self, index: int) -> Metadata:
        """What is known of the record `index`, without its picture where that can be helped."""
        ...
