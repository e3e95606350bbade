"""Records that cannot be used: counted by reason, named once, and too many of them an error."""

import collections
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from imagen_jax.errors import UsageError

_JUDGED_FROM = 1000
"""Rows; the share of fewer says little."""


class Broken(NamedTuple):
    """A record that could not be used, as it travels with the batch that it should be in."""

    name: str
    reason: str
    message: str


class Tally:
    """How many records there are of each reason, and the name of the first."""

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        before, first = self.counts.get(reason, (0, name))
        self.counts[reason] = (before + count, first)

    def merge(self, counts: Mapping[str, Sequence[int | str]]) -> None:
        """Adds `counts` of another, which may have been through JSON."""
        for reason, (count, name) in counts.items():
            self.add(reason, name, count)

    def total(self) -> int:
        return sum(count for count, _ in self.counts.values())

    def __str__(self) -> str:
        parts = (f"{count} {why} (as {name})" for why, (count, name) in self.counts.items())
        return ", ".join(parts)


class BrokenRecords:
    """Counts the records of a run that could not be used; only one thread may call it."""

    def __init__(self, max_share: float):
        self._max_share = max_share
        self._rows = self._broken_rows = 0
        self._known: set[str] = set()
        self._counts: collections.Counter[str] = collections.Counter()

    def counts(self) -> dict[str, int]:
        """Reason -> records, of those that this process met since it started."""
        return dict(self._counts)

    def __str__(self) -> str:
        counts = self._counts.items()
        said = ", ".join(f"{count} {reason}" for reason, count in counts)
        total = self._counts.total()
        records = "1 broken record" if total == 1 else f"{total} broken records"
        return f"{records} ({said})" if counts else "no broken record"

    def take(self, rows: int, broken: Iterable[Broken]) -> None:
        """Counts the rows of a batch and those of them whose record is broken.

        Raises:
            UsageError: broken is more than `max_share` of the rows so far, or of the first 1,000.
        """
        self._rows += rows
        for name, reason, message in broken:
            self._broken_rows += 1
            if name not in self._known:
                self._known.add(name)
                self._counts[reason] += 1
                warnings.warn(f"left out: {message}", stacklevel=2)
        if self._broken_rows > self._max_share * max(self._rows, _JUDGED_FROM):
            raise UsageError(
                f"{self._broken_rows} of {self._rows} rows met {self}; data.max_broken_share is "
                f"{self._max_share:g}."
            )
