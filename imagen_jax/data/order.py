"""The order in which records are read, without end: each source is shuffled anew every epoch.

Where records have one of several sizes, each batch has those of one, whose turn it is by how many
records have it. All of this is arithmetic on a position, so that nothing is to be saved of it.
"""

import bisect
import hashlib
import itertools
import math
import sys
from collections.abc import Sequence
from fractions import Fraction

import grain
import numpy as np
from jaxtyping import Float, UInt8, UInt32

from imagen_jax.config.data import Size
from imagen_jax.data.records import Metadata, Record, Source

Ratios = Float[np.ndarray, " records"]
Members = range | UInt32[np.ndarray, " members"]
"""Indices of records."""
Weight = float | Fraction
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


class Bucketed(Mixture):
    """A mixture, be it of one source, whose records are each trained on at one of several sizes."""

    def __init__(
        self,
        parts: Sequence[Source],
        weights: Sequence[float],
        sizes: Sequence[Size],
        ratios: Sequence[Ratios],
    ):
        """`ratios`: height / width of each part's records. The nearest size is theirs."""
        super().__init__(parts, weights)
        self.sizes = list(sizes)
        self._buckets = np.concatenate([nearest(sizes, of_part) for of_part in ratios])

    def size(self, index: int) -> Size:
        """(height, width) that the record is trained on at."""
        return self.sizes[self._buckets[index]]

    def bucket(self, number: int) -> list[tuple[Fraction, Members]]:
        """The records of a size of each part that has any, and their weight among all records."""
        found = []
        for weight, (start, end) in zip(self.weights, itertools.pairwise(self.starts), strict=True):
            inside = np.flatnonzero(self._buckets[start:end] == number).astype(np.uint32)
            if len(inside):
                share = Fraction(len(inside), end - start)
                found.append((Fraction(str(weight)) * share, start + inside))
        return found


def nearest(sizes: Sequence[Size], ratios: Ratios) -> UInt8[np.ndarray, " records"]:
    """Number of the size for each ratio that must be changed by the smallest factor for it."""
    logs = np.log([height / width for height, width in sizes])
    order = np.argsort(logs)
    borders = (logs[order][1:] + logs[order][:-1]) / 2
    return order[np.searchsorted(borders, np.log(ratios))].astype(np.uint8)


def shuffled(source: Source, seed: int, batch_size: int) -> grain.MapDataset:
    """Positions -> indices of records; all of them depends on `seed` alone.

    Every record of a source comes once in each of the source's own epochs. Those of a mixture
    come in the proportions of its weights, whatever number of positions is looked at. The
    records of a `Bucketed` source come so by size: `batch_size` positions, of which the first is
    a multiple of that, are of the same one; its epochs are its own.
    """
    if isinstance(source, Bucketed):
        return grain.MapDataset.source(_OneSizeABatch(source, seed, batch_size)).seed(seed)
    if not isinstance(source, Mixture):
        return _order(len(source), seed)
    parts = [range(*of_part) for of_part in itertools.pairwise(source.starts)]
    return grain.MapDataset.source(_Mixed(parts, source.weights, seed)).seed(seed)


def _order(count: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(count).seed(seed % _SEEDS).shuffle().repeat()


class _Endless:
    def __len__(self) -> int:
        return sys.maxsize


class _Mixed(_Endless):
    """Position -> index, one of `parts`, which come in the proportions of their weights."""

    def __init__(self, parts: Sequence[Members], weights: Sequence[Weight], seed: int):
        self._parts = parts
        self._orders = [_order(len(part), seed + number) for number, part in enumerate(parts)]
        self._shares = shares_of_the_rest(weights)

    def __getitem__(self, position: int) -> int:
        part, place = choose(position, self._shares)
        return int(self._parts[part][self._orders[part][place]])


class _OneSizeABatch(_Endless):
    """Position -> index, of a size whose turn is that of the position's batch."""

    def __init__(self, source: Bucketed, seed: int, batch_size: int):
        buckets = [source.bucket(number) for number in range(len(source.sizes))]
        buckets = [list(zip(*parts, strict=True)) for parts in buckets if parts]
        self._batch_size = batch_size
        self._shares = shares_of_the_rest([sum(weights) for weights, _ in buckets])
        self._buckets = [
            _Mixed(members, weights, seed + number * len(source.parts))
            for number, (weights, members) in enumerate(buckets)
        ]

    def __getitem__(self, position: int) -> int:
        batch, row = divmod(position, self._batch_size)
        bucket, before = choose(batch, self._shares)
        return self._buckets[bucket][before * self._batch_size + row]


def shares_of_the_rest(weights: Sequence[Weight]) -> list[Fraction]:
    """The share of each weight in the sum of itself and those after it."""
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
