"""WebDataset shards: tar archives of pictures with captions, as img2dataset writes them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from imagen_jax.config import ConditionsConfig
from imagen_jax.data import annotations
from imagen_jax.data.broken import Tally
from imagen_jax.data.columns import columns_path
from imagen_jax.data.places import files_of, read_part
from imagen_jax.data.records import BrokenRecord, ListedCaptions, Metadata, Record
from imagen_jax.data.tar_index import PLACES, open_index
from imagen_jax.data.tar_members import BLOCK
from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath

_TEXT_ALONE = ConditionsConfig()
_AT_ONE_GO = 2**26
"""Bytes from the first file of a record to the last; what lies further apart is read apart."""
Place = Sequence[int]
"""(first block, size in bytes) of a file in a shard."""


class WebDatasetSource:
    """All records of a set of shards, in the order of the shards' names.

    A record is the files of one name, one after another: a picture, and a `.txt` with its
    caption or a `.json` that has it; and `.sketch.png` where the stage is shown a "sketch". Where
    they lie is in an index that is made when the set is opened for the first time; of shards that
    changed since, it is made again.
    """

    def __init__(self, place: str, data_dir: str = "", conditions: ConditionsConfig = _TEXT_ALONE):
        """Opens the shards, indexing them where that has not been done.

        Args:
            place: a directory of `.tar` files, or a pattern of their paths.
            data_dir: where the index is kept; empty for beside the shards.
            conditions: what the stage is told.

        Raises:
            UsageError: there is no shard, none with a record, or the index cannot be written.
        """
        self.name, self._reads_text = f"webdataset:{place}", conditions.text
        self._shown = tuple(picture.name for picture in conditions.shown)
        found = files_of(self.name, place, "*.tar", data_dir)
        self.home, shards = found.home, found.files
        kind = ".".join(["members", *self._shown])  # An index of its own for what each has to have.
        path = columns_path(self.home, found.pattern, kind)
        self._index, table = open_index(path, shards, self._shown)
        self._paths = [shard.path for shard in shards]
        self._ends = np.cumsum([shard.records for shard in table])
        self.fingerprint = hashlib.sha256(repr(table).encode()).hexdigest()
        self.left_out = Tally()
        for shard in table:
            self.left_out.merge(shard.left_out)
        if not len(self):
            raise UsageError(f"{self.name} holds no record that can be used: {self.left_out}.")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        shard, picture, caption, described, *shown = self._places(index)
        for _, size in (picture, *shown):
            if size > annotations.MAX_PICTURE_BYTES:
                name, _ = _read(shard, (picture[0], 0))
                raise annotations.too_large(name, size)
        name, (image, text, values, *others) = _read(shard, picture, caption, described, *shown)
        captions = self._captions(text if caption[0] else None, values, name)
        return Record(name, image, captions, dict(zip(self._shown, others, strict=True)))

    def metadata(self, index: int) -> Metadata:
        shard, _, caption, described, *_ = self._places(index)
        name, (text, values) = _read(shard, caption, described)
        captions = self._captions(text if caption[0] else None, values, name)
        return Metadata(captions, annotations.numbers_of(annotations.read_json(values, name)))

    def _captions(self, text: bytes | None, values: bytes, name: str) -> ListedCaptions | None:
        """The one in the text file; without that, those in the JSON; None where none is read."""
        if not self._reads_text:
            return None
        if text is None:
            return annotations.captions_of(annotations.read_json(values, name), name)
        return annotations.listed([" ".join(annotations.read_text(text, name).split())], name)

    def _places(self, index: int) -> tuple[Any, ...]:
        """The record's shard, and [first block, size] of its picture, caption, JSON and of what is
        shown."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        picture, *places = self._index.row(PLACES, index).reshape(-1, 2).tolist()
        texts = ([block, min(size, annotations.MAX_TEXT_BYTES + 1)] for block, size in places[:2])
        return self._paths[shard], picture, *texts, *places[2:]


def _read(shard: AnyPath, *places: Place) -> tuple[str, list[bytes]]:
    """A record's name and the contents at `places`, b"" for one that is nowhere."""
    present = [place for place in places if place[0]]
    blocks = [block for block, _ in present]
    if (max(blocks) - min(blocks)) * BLOCK < _AT_ONE_GO:
        name, found = _read_together(shard, present)
    else:  # A large file of no use lies between them.
        names, found = zip(*(_read_together(shard, [place]) for place in present), strict=True)
        name, found = names[0], [data for (data,) in found]
    contents = iter(found)
    return name, [next(contents) if block else b"" for block, _ in places]


def _read_together(shard: AnyPath, places: Sequence[Place]) -> tuple[str, list[bytes]]:
    """The first one's name, and the contents of all, in one read."""
    starts = [block * BLOCK for block, _ in places]
    first = min(starts) - BLOCK  # There is the header, with a name.
    end = max(start + size for start, (_, size) in zip(starts, places, strict=True))
    data = read_part(shard, first, end - first, shard.name)
    member = data[:100].partition(b"\0")[0].decode("utf-8", "replace")
    name = f"{shard.name}/{member}"
    if len(data) < end - first:
        raise BrokenRecord(name, "shard cut short")
    return name, [
        data[start - first : start - first + size]
        for start, (_, size) in zip(starts, places, strict=True)
    ]
