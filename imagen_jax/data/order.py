"""In what order records are read, without end: each source shuffled anew every epoch."""

import bisect
import hashlib
import itertools
import math
import sys
from collections.abc import Sequence
from fractions import Fraction

import grain

from imagen_jax.data.records import Metadata, Record, Source

_SEEDS = 2**32


class Mixture:
    """The records of several sources, one source after another.

    In what order they are read, and how often, is for `shuffled` to say.
    """

    def __init__(self, parts: Sequence[Source], weights: Sequence[float]):
        self.parts, self.weights = list(parts), list(weights)
        self.starts = [0, *itertools.accumulate(map(len, parts))]

    @property
    def fingerprint(self) -> str:
        """Changes with the files of any part, and with the order of the parts."""
        parts = [part.fingerprint for part in self.parts]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Record:
        part, place = self._find(index)
        return self.parts[part][place]

    def metadata(self, index: int) -> Metadata:
        part, place = self._find(index)
        return self.parts[part].metadata(place)

    def _find(self, index: int) -> tuple[int, int]:
        part = bisect.bisect_right(self.starts, index) - 1
        return part, index - self.starts[part]


def shuffled(source: Source, seed: int) -> grain.MapDataset:
    """Positions -> indices of records; all of them depends on `seed` alone.

    Every record of a source comes once in each of the source's own epochs. Those of a mixture
    come in the proportions of its weights, whatever number of positions is looked at.
    """
    if not isinstance(source, Mixture):
        return _one(source, seed)
    orders = [_one(part, (seed + number) % _SEEDS) for number, part in enumerate(source.parts)]
    return grain.MapDataset.source(_Mixed(source, orders)).seed(seed)


def _one(source: Source, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()


class _Mixed:
    """Position -> index in the mixture."""

    def __init__(self, mixture: Mixture, orders: Sequence[grain.MapDataset]):
        self._starts, self._orders = mixture.starts, orders
        self._shares = shares_of_the_rest(mixture.weights)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> int:
        part, place = choose(position, self._shares)
        return self._starts[part] + self._orders[part][place]


def shares_of_the_rest(weights: Sequence[float]) -> list[Fraction]:
    """Of each weight, its share in the sum of itself and those after it."""
    exact = [Fraction(str(weight)) for weight in weights]
    return [weight / sum(exact[number:]) for number, weight in enumerate(exact)]


def choose(position: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """(part, how many positions before this one chose it); exact and without a sum over them.

    Of the positions before p, the first part has floor(p share); the others share the rest.
    """
    for part, share in enumerate(shares):
        taken = math.floor(position * share)
        if math.floor((position + 1) * share) > taken:
            return part, taken
        position -= taken
    raise AssertionError("the last share is 1")
