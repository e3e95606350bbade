"""A folder of pictures, each beside a `.txt` file with one caption a line, or a `.json` file.

A picture `NAME.sketch.png` belongs to `NAME.png` where the stage is shown a picture "sketch".
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from imagen_jax.config import ConditionsConfig
from imagen_jax.data import annotations
from imagen_jax.data.broken import Tally
from imagen_jax.data.metadata_lines import NAME, Lines
from imagen_jax.data.places import files_below, read_part
from imagen_jax.data.records import ListedCaptions, Metadata, Record
from imagen_jax.errors import UsageError

_TEXT_ALONE = ConditionsConfig()
_TEXT, _JSON = ".txt", ".json"


class FolderSource:
    """All pictures below a directory that have captions, in the order of their paths.

    Only the names are kept in memory: as one string, some tens of bytes a record.
    """

    def __init__(self, place: str, data_dir: str = "", conditions: ConditionsConfig = _TEXT_ALONE):
        """Lists the directory; reads no file but `metadata.jsonl`.

        Args:
            place: the directory, here or in a bucket.
            data_dir: where numbers for filters are kept; empty for in the directory.
            conditions: what the stage is told.

        Raises:
            UsageError: no such directory, or no picture with a caption, where one is needed, and
                with all others that the stage is shown.
        """
        self.name, self._reads_text = f"folder:{place}", conditions.text
        self._shown = tuple(picture.name for picture in conditions.shown)
        found = files_below(self.name, place, data_dir)
        self.home, self._directory = found.home, found.directory
        self.fingerprint = hashlib.sha256(repr(found.files).encode()).hexdigest()
        start = len(str(found.directory)) + 1
        self._take([str(file.path)[start:] for file in found.files])

    def _take(self, names: list[str]) -> None:
        """The files that are pictures with captions."""
        self.left_out = Tally()
        self._lines = Lines(self._directory, names, self.left_out)
        beside = {
            _with_suffix(name, _suffix(name)): PurePosixPath(name).suffix
            for name in names
            if _suffix(name) in (_TEXT, _JSON)
        }
        shown = {_shown_beside(name): name for name in names if self._shows(name)}
        self._count_not_read(names)
        kept, kinds = [], []
        for name in sorted(names, key=lambda name: name.split("/")):
            if _suffix(name) not in annotations.PICTURE_SUFFIXES or self._shows(name):
                continue
            kind = tuple(beside.get(_with_suffix(name, suffix), "") for suffix in (_TEXT, _JSON))
            pictures = [shown.get((_with_suffix(name, ""), x.lower())) for x in self._shown]
            if self._reads_text and not any(kind) and name not in self._lines:
                self.left_out.add("no caption", name)
            elif None in pictures:
                self.left_out.add(f"no {self._shown[pictures.index(None)]}", name)
            else:
                kept.append(name)
                kinds.append((*kind, *("".join(PurePosixPath(x).suffixes[-2:]) for x in pictures)))
        self._keep(kept, kinds)

    def _count_not_read(self, names: list[str]) -> None:
        """Pictures of other formats; a camera's own beside its JPEG is nothing that is lacking."""
        others = annotations.OTHER_PICTURE_SUFFIXES
        lacking = {_with_suffix(name, ""): name for name in names if _suffix(name) in others}
        for name in names if lacking else ():
            if _suffix(name) in annotations.PICTURE_SUFFIXES:
                lacking.pop(_with_suffix(name, ""), None)
        for name in sorted(lacking.values()):
            self.left_out.add(annotations.NOT_READ, name)

    def _shows(self, name: str) -> bool:
        """Whether a file is a picture beside another one."""
        is_picture = _suffix(name) in annotations.PICTURE_SUFFIXES
        return is_picture and _shown_beside(name)[1] in map(str.lower, self._shown)

    def _keep(self, names: list[str], kinds: list[tuple[str, ...]]) -> None:
        """`kinds`: the suffixes of the files beside each picture, as they are spelt."""
        if not names:
            known = ", ".join(annotations.PICTURE_SUFFIXES)
            others = f" ({self.left_out})" if self.left_out.total() else ""
            beside = (
                f" beside a .txt or .json file of the same name, or named in a {NAME}"
                if self._reads_text
                else ""
            )
            raise UsageError(
                f"data.source is {self.name!r}; it holds no picture ({known}){beside}{others}."
            )
        self._lines.order(names)
        encoded = [os.fsencode(name) for name in names]
        self._names, self._ends = b"".join(encoded), np.cumsum([len(name) for name in encoded])
        self._spellings = sorted(set(kinds))
        number = {kind: place for place, kind in enumerate(self._spellings)}
        smallest = np.min_scalar_type(len(number))
        self._kinds = np.array([number[kind] for kind in kinds], smallest)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Record:
        name = self._name(index)
        image = self._read_picture(name)
        captions = self._captions(index, name, None)
        suffixes = self._spellings[self._kinds[index]][2:]
        pictures = {
            shown: self._read_picture(_with_suffix(name, suffix))
            for shown, suffix in zip(self._shown, suffixes, strict=True)
        }
        return Record(name, image, captions, pictures)

    def metadata(self, index: int) -> Metadata:
        name = self._name(index)
        values = self._values(index, name)
        return Metadata(self._captions(index, name, values), annotations.numbers_of(values))

    def _name(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._names[start : self._ends[index]])

    def _read(self, name: str, limit: int) -> bytes:
        return read_part(self._directory / name, 0, limit + 1, name)

    def _read_picture(self, name: str) -> bytes:
        data = self._read(name, annotations.MAX_PICTURE_BYTES)
        if len(data) > annotations.MAX_PICTURE_BYTES:
            raise annotations.too_large(name, len(data))
        return data

    def _captions(
        self, index: int, picture: str, values: Mapping[str, Any] | None
    ) -> ListedCaptions | None:
        """The captions of the text file; without one, of `values`, read where they are None."""
        if not self._reads_text:
            return None
        text = self._spellings[self._kinds[index]][0]
        if not text:
            values = self._values(index, picture) if values is None else values
            return annotations.captions_of(values, picture)
        data = self._read(_with_suffix(picture, text), annotations.MAX_TEXT_BYTES)
        return annotations.listed(annotations.read_text(data, picture).split("\n"), picture)

    def _values(self, index: int, picture: str) -> Mapping[str, Any]:
        """The values of the JSON file; without one, of the picture's line of `metadata.jsonl`."""
        described = self._spellings[self._kinds[index]][1]
        if not described:
            return self._lines.read(index, picture)
        data = self._read(_with_suffix(picture, described), annotations.MAX_TEXT_BYTES)
        return annotations.read_json(data, picture)


def _shown_beside(name: str) -> tuple[str, str]:
    """a/b.Sketch.png -> (a/b, sketch)"""
    named = _with_suffix(name, "")
    return _with_suffix(named, ""), _suffix(named)[1:]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _with_suffix(name: str, suffix: str) -> str:
    return str(PurePosixPath(name).with_suffix(suffix))
