"""A folder of pictures, each beside a `.txt` file with one caption a line, or a `.json` file."""

import hashlib
import os
from pathlib import PurePosixPath

import numpy as np

from imagen_jax.data import annotations
from imagen_jax.data.broken import Tally
from imagen_jax.data.places import files_of
from imagen_jax.data.records import BrokenRecord, ListedCaptions, Metadata, Record
from imagen_jax.errors import UsageError
from imagen_jax.files import read_range, to_path

_TEXT, _JSON = 1, 2
"""Which files are beside a picture."""


class FolderSource:
    """All pictures below a directory that have captions, in the order of their paths.

    Only the names are kept in memory: as one string, some tens of bytes a record.
    """

    def __init__(self, place: str, data_dir: str = ""):
        """Lists the directory; reads no file.

        Args:
            place: the directory, here or in a bucket.
            data_dir: where numbers for filters are kept; empty for in the directory.

        Raises:
            UsageError: no such directory, or no picture with a caption.
        """
        self.name = f"folder:{place}"
        if not to_path(place).expanduser().is_dir():
            raise UsageError(f"data.source is {self.name!r}; there is no such directory.")
        found = files_of(self.name, place, "**", data_dir)
        self.home, self._directory = found.home, found.directory
        self.fingerprint = hashlib.sha256(repr(found.files).encode()).hexdigest()
        start = len(str(found.directory)) + 1
        self._take([str(file.path)[start:] for file in found.files])

    def _take(self, names: list[str]) -> None:
        """Of all files, those that are pictures with captions."""
        pictures = [name for name in names if _suffix(name) in annotations.PICTURE_SUFFIXES]
        pictures.sort(key=lambda name: name.split("/"))
        beside = {name for name in names if _suffix(name) in (".txt", ".json")}
        self.left_out, kept, kinds = Tally(), [], []
        for name in pictures:
            kind = _TEXT * (_with_suffix(name, ".txt") in beside)
            kind |= _JSON * (_with_suffix(name, ".json") in beside)
            if kind:
                kept.append(os.fsencode(name))
                kinds.append(kind)
            else:
                self.left_out.add("no caption", name)
        if not kept:
            known = ", ".join(annotations.PICTURE_SUFFIXES)
            raise UsageError(
                f"data.source is {self.name!r}; it holds no picture ({known}) beside a .txt or "
                ".json file of the same name."
            )
        self._names = b"".join(kept)
        self._ends = np.cumsum([len(name) for name in kept])
        self._kinds = np.array(kinds, np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Record:
        name = self._name(index)
        image = self._read(name, annotations.MAX_PICTURE_BYTES)
        if len(image) > annotations.MAX_PICTURE_BYTES:
            raise annotations.too_large(name, len(image))
        has_text = self._kinds[index] & _TEXT
        captions = self._text(name) if has_text else annotations.captions_of(self._json(name), name)
        return Record(name, image, None, captions)

    def metadata(self, index: int) -> Metadata:
        name = self._name(index)
        values = self._json(name) if self._kinds[index] & _JSON else {}
        has_text = self._kinds[index] & _TEXT
        captions = self._text(name) if has_text else annotations.captions_of(values, name)
        return Metadata(captions, annotations.numbers_of(values))

    def _name(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._names[start : self._ends[index]])

    def _read(self, name: str, limit: int) -> bytes:
        try:
            return read_range(self._directory / name, 0, limit + 1)
        except FileNotFoundError:
            raise BrokenRecord(name, "file missing") from None

    def _text(self, picture: str) -> ListedCaptions:
        data = self._read(_with_suffix(picture, ".txt"), annotations.MAX_TEXT_BYTES)
        return annotations.listed(annotations.read_text(data, picture).splitlines(), picture)

    def _json(self, picture: str) -> dict:
        data = self._read(_with_suffix(picture, ".json"), annotations.MAX_TEXT_BYTES)
        return annotations.read_json(data, picture)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _with_suffix(name: str, suffix: str) -> str:
    return str(PurePosixPath(name).with_suffix(suffix))
