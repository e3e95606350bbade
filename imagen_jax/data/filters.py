"""Conditions on records, decided before training, so that an epoch is what is left."""

import concurrent.futures
import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt32
from tqdm import tqdm

from imagen_jax.config.data import Condition
from imagen_jax.data import transforms
from imagen_jax.data.broken import Tally
from imagen_jax.data.columns import Columns, columns_path, open_columns, write_columns
from imagen_jax.data.records import BrokenRecord, Metadata, Record, Source
from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath, threads_for

SIDE, ASPECT, CAPTION_LENGTH = "side", "aspect", "caption_length"
"""Shorter side in pixels, longer side / shorter, and characters of the longest caption; all other
names are a record's own numbers."""
RATIO = "height/width"
"""Of the upright picture."""
_CHUNK = 1024

Values = Float[np.ndarray, " records"]


class FileSource(Source, Protocol):
    """A source that knows its files."""

    name: str
    home: AnyPath
    """Where what is worked out about it is kept."""
    fingerprint: str
    """Changes with the files."""
    left_out: Tally
    """What its files hold besides its records."""


class Subset:
    """The records of a source at `kept`, in this order."""

    def __init__(self, source: FileSource, kept: UInt32[np.ndarray, " kept"]):
        self._source, self._kept = source, kept

    @property
    def fingerprint(self) -> str:
        """Changes with the files, and with what of them is kept."""
        return hashlib.sha256(self._source.fingerprint.encode() + self._kept.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._kept[index])]

    def metadata(self, index: int) -> Metadata:
        return self._source.metadata(int(self._kept[index]))


class Selected(NamedTuple):
    """What is left of a source.

    Attributes:
        source: of the records that are left.
        unknown: conditions on numbers that no record has. They filter nothing: it is for the
            caller to say whether another source has the numbers.
        ratios: height / width of the records, where that was asked for.
    """

    source: Source
    unknown: list[Condition]
    ratios: Values | None = None


def select(
    source: FileSource,
    conditions: Sequence[Condition],
    *,
    with_ratios: bool = False,
    told: Sequence[object] = (),
) -> Selected:
    """What fulfils the conditions.

    A record that cannot be read, or lacks a number that others have, is left out.

    Args:
        told: what else decides which files are records, and what of them is read.

    Raises:
        UsageError: no record is left, or the numbers cannot be kept.
    """
    if not conditions and not with_ratios:
        return Selected(source, [])
    names = {condition.name for condition in conditions} | ({RATIO} if with_ratios else set())
    values = numbers(source, sorted(names), told)
    known = [c for c in conditions if not np.isnan(values[c.name]).all()]
    holds = ~np.isnan(values[RATIO]) if with_ratios else np.ones(len(source), bool)
    for condition in known:
        column = values[condition.name]
        holds &= condition.holds(column) & ~np.isnan(column)
    if not holds.any():
        said = f"that fulfils data.filters {' '.join(map(str, known))}" if known else "of any size"
        raise UsageError(f"{source.name} has no record {said}.")
    return Selected(
        Subset(source, np.flatnonzero(holds).astype(np.uint32)),
        [condition for condition in conditions if condition not in known],
        values[RATIO][holds] if with_ratios else None,
    )


def numbers(
    source: FileSource, names: Sequence[str], told: Sequence[object] = ()
) -> dict[str, Values]:
    """Name -> its value for each record, NaN where there is none; adds to `source.left_out`.

    They are worked out once, which reads what is beside the pictures (and for side, aspect and
    ratio the pictures too), and kept; also that a few could not be read.
    """
    path = columns_path(source.home, source.name, "numbers")
    of = hashlib.sha256(repr((source.fingerprint, len(source), *told)).encode()).hexdigest()
    kept = open_columns(path)
    if kept is not None and kept.about["fingerprint"] != of:
        kept = None
    if kept is None or not set(names) <= set(kept.about["names"]):
        names_to_keep = sorted({*names, *(kept.about["names"] if kept else ())})
        columns, left_out = _measure_all(source, names_to_keep)
        about = {"fingerprint": of, "names": names_to_keep}
        write_columns(path, columns, {**about, "left_out": left_out.counts})
        kept = Columns(path)
    source.left_out.merge(kept.about["left_out"])
    return {name: kept.column(name) for name in names}


def forget(source: FileSource) -> None:
    """Removes what `numbers` keeps of a source."""
    columns_path(source.home, source.name, "numbers").unlink(missing_ok=True)


def _measure_all(source: FileSource, names: Sequence[str]) -> tuple[dict[str, Values], Tally]:
    columns = {name: np.full(len(source), np.nan) for name in names}
    tally = Tally()

    def measure(first: int) -> Tally:
        broken = Tally()
        for index in range(first, min(first + _CHUNK, len(source))):
            try:
                for name, value in _measure(source, index, names).items():
                    columns[name][index] = value
            except BrokenRecord as error:
                broken.add(error.reason, error.name)
        return broken

    chunks = range(0, len(source), _CHUNK)
    with concurrent.futures.ThreadPoolExecutor(threads_for(source.name)) as pool:
        done = pool.map(measure, chunks)
        for broken in tqdm(done, f"reading {', '.join(names)}", len(chunks), delay=2, leave=False):
            tally.merge(broken.counts)
    return columns, tally


def _measure(source: Source, index: int, names: Sequence[str]) -> dict[str, float]:
    """The numbers of one record that it has."""
    metadata = source.metadata(index)
    found = {name: metadata.numbers[name] for name in names if name in metadata.numbers}
    if CAPTION_LENGTH in names and metadata.captions is not None:
        found[CAPTION_LENGTH] = float(max(map(len, metadata.captions.all())))
    if not {SIDE, ASPECT, RATIO}.isdisjoint(names):
        record = source[index]
        size = transforms.size_of(record.image, record.name)
        sides = {
            SIDE: float(min(size)),
            ASPECT: max(size) / min(size),
            RATIO: size[1] / size[0],
        }
        found |= {name: sides[name] for name in sides if name in names}
    return found
