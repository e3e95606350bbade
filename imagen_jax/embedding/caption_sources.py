"""All captions of a data set, each once and in order: on disk, not in memory.

A list holds the captions of some records, sorted by their hashes. A shard of the embeddings is a
range of hashes, so its captions are a piece of every list.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import safetensors.numpy
from jaxtyping import Int32, Integer, UInt64

from imagen_jax.config import ConditionsConfig, DataConfig
from imagen_jax.data.records import BrokenRecord, ListedCaptions, Metadata
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.digests import digest
from imagen_jax.storage.files import replacing, with_home
from imagen_jax.text.cache_format import PROMPTS_PREFIX, halves, hash_of, shard_starts
from imagen_jax.text.tokenizer import Tokenizer, as_read, one_line
from imagen_jax.weights.stored import StoredTensor, open_file
from imagen_jax.weights.sums import checksum, with_sums

_READ_AT_ONCE = 1024
_COLUMNS = ("high", "low", "lengths")
"""What there is one number of for each caption in a list."""


@runtime_checkable
class CaptionSource(Protocol):
    """What is read of a data set: all but its pictures."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def metadata(self, index: int) -> Metadata: ...


class PromptFile:
    """The lines of a text file that are not blank, each a record with one caption."""

    def __init__(self, path: Path):
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {reason(error)}.") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text: {error}.") from error
        self._prompts = list(filter(None, map(one_line, lines)))
        if not self._prompts:
            raise UsageError(f"{path} has no prompt; it must hold one a line.")

    @property
    def fingerprint(self) -> str:
        """Changes with the prompts."""
        return digest({"prompts": self._prompts})

    def __len__(self) -> int:
        return len(self._prompts)

    def metadata(self, index: int) -> Metadata:
        return Metadata(ListedCaptions((self._prompts[index],)))


def open_captions(config: DataConfig, conditions: ConditionsConfig) -> CaptionSource:
    """The records of `config.source`: a data set, or `prompts:FILE`.

    Args:
        conditions: what the stage is told; a picture that it is shown is no record.

    Raises:
        UsageError: there is no such data set or file.
    """
    if config.source.startswith(PROMPTS_PREFIX):
        return PromptFile(with_home(Path(config.source.removeprefix(PROMPTS_PREFIX))))
    data = dataclasses.replace(config, sizes=())  # Pictures are not read.
    return open_source(data, conditions=conditions)


def read_captions(
    source: CaptionSource, records: range, threads: int
) -> Iterator[Iterable[str] | None]:
    """All captions that may be drawn of each record, None if it is broken."""

    def read(record: int) -> Iterable[str] | None:
        try:
            return source.metadata(record).captions.all()
        except BrokenRecord:
            return None

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(records), _READ_AT_ONCE):
            yield from pool.map(read, records[start : start + _READ_AT_ONCE])


@dataclasses.dataclass(frozen=True)
class Captions:
    """Captions that all differ.

    Attributes:
        high, low: halves of their hashes.
        lengths: tokens of each before it is cut, those at its ends among them.
        ids: the tokens that are left.
    """

    high: UInt64[np.ndarray, " captions"]
    low: UInt64[np.ndarray, " captions"]
    lengths: Int32[np.ndarray, " captions"]
    ids: Sequence[Int32[np.ndarray, " _"]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: Integer[np.ndarray, " taken"]) -> "Captions":
        ids = [self.ids[place] for place in places]
        return Captions(self.high[places], self.low[places], self.lengths[places], ids)


def without_repetitions(texts: Iterable[str], tokenizer: Tokenizer, max_length: int) -> Captions:
    """The captions among `texts` and the empty one, sorted by hash and cut to `max_length`.

    A text that is blank to the tokenizer is its ends alone: in training a broken record.

    Raises:
        UsageError: a text is not valid Unicode.
    """
    tokens = {hash_of(""): (tokenizer.ends, _as_bytes(tokenizer.kept([], max_length)))}
    for text in texts:
        key = hash_of(as_read(text, tokenizer.lowercase))
        if key not in tokens:
            ids = tokenizer.read(text)
            kept = tokenizer.kept(ids, max_length)
            tokens[key] = len(ids) + tokenizer.ends, _as_bytes(kept)
    keys = sorted(tokens)
    lengths = np.array([tokens[key][0] for key in keys], np.int32)
    return Captions(*halves(keys), lengths, [np.frombuffer(tokens[key][1], "<i4") for key in keys])


def _as_bytes(ids: list[int]) -> bytes:
    """A third of the memory of an array."""
    return np.array(ids, "<i4").tobytes()


def write_list(path: Path, captions: Captions, *, read: int, broken: int) -> None:
    """Writes sorted captions as one file.

    Args:
        read: captions that there were, with repetitions.
        broken: records without any.
    """
    ends = np.cumsum([0, *map(len, captions.ids)])
    tensors = {
        "high": captions.high,
        "low": captions.low,
        "lengths": captions.lengths,
        "ends": ends.astype(np.int64),
        "ids": np.concatenate(captions.ids),
    }
    sums = {name: checksum(x.view(np.uint8)) for name, x in tensors.items()}
    shapes = {name: x.shape for name, x in tensors.items()}
    about = with_sums({"read": str(read), "broken": str(broken)}, shapes, sums)
    with replacing(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary, about)


class CaptionLists:
    """The lists of a part, seen as one: the captions of a range of hashes.

    Attributes:
        read: captions of all lists, with repetitions.
        broken: records without any.
        shards: number of ranges.
    """

    def __init__(self, paths: Sequence[Path], captions_per_shard: int):
        """Raises a UsageError if a list is missing or damaged."""
        self.read, self.broken, hashes = 0, 0, []
        self._lists: list[dict[str, StoredTensor]] = []
        for path in paths:
            about, tensors = open_file(path)
            for tensor in tensors.values():
                tensor.check()
            self.read += int(about["read"])
            self.broken += int(about["broken"])
            self._lists.append(tensors)
            hashes.append(_part(tensors["high"], 0, tensors["high"].shape[0]))
        self.shards = -(-sum(map(len, hashes)) // captions_per_shard)
        starts = shard_starts(self.shards)
        # Where the captions of each shard begin in each list, and where those of the last end.
        self._places = [np.append(np.searchsorted(high, starts), len(high)) for high in hashes]

    def shard(self, number: int) -> Captions:
        """The captions of a shard, each once, sorted by hash."""
        pieces = [
            _read_piece(tensors, *map(int, places[number : number + 2]))
            for tensors, places in zip(self._lists, self._places, strict=True)
        ]
        high, low, lengths = (
            np.concatenate([getattr(piece, name) for piece in pieces]) for name in _COLUMNS
        )
        ids = list(itertools.chain.from_iterable(piece.ids for piece in pieces))
        order = np.lexsort((low, high))
        sorted_high, sorted_low = high[order], low[order]
        new = np.diff(sorted_high, prepend=~sorted_high[:1]) != 0
        new |= np.diff(sorted_low, prepend=~sorted_low[:1]) != 0
        return Captions(high, low, lengths, ids).take(order[new])


def _read_piece(tensors: dict[str, StoredTensor], start: int, stop: int) -> Captions:
    if start == stop:  # Safetensors reads no empty slices.
        return Captions(*halves([]), np.empty(0, np.int32), [])
    ends = _part(tensors["ends"], start, stop + 1)
    ids = np.split(_part(tensors["ids"], int(ends[0]), int(ends[-1])), ends[1:-1] - ends[0])
    return Captions(*(_part(tensors[name], start, stop) for name in _COLUMNS), ids)


def _part(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    return tensor.read((slice(start, stop),))
