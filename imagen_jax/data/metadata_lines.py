"""`metadata.jsonl`, as Hugging Face has it: pictures and what is said of them, one a line."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imagen_jax.data import annotations
from imagen_jax.data.broken import Tally
from imagen_jax.data.places import read_part
from imagen_jax.data.records import BrokenRecord
from imagen_jax.storage.files import AnyPath

NAME = "metadata.jsonl"
_FILE_NAME = "file_name"
_NOWHERE = (0, 0, 0)


class Lines:
    """Where the lines of all such files below a directory lie; none is kept in memory."""

    def __init__(self, directory: AnyPath, names: Sequence[str], left_out: Tally):
        """Reads them through.

        Args:
            directory: of the source.
            names: of all files below it.
            left_out: gets the lines that cannot be used.
        """
        self._directory = directory
        self._files = [name for name in names if posixpath.basename(name) == NAME]
        self._found: dict[str, tuple[int, int, int]] = {}
        known = set(names) if self._files else set()
        for number, file in enumerate(self._files):
            for start, size, picture in _places(directory, file, left_out):
                said = f"{file}, byte {start}"
                if picture is None:
                    left_out.add("JSON unreadable", said)
                elif not picture:
                    left_out.add(f"no {_FILE_NAME}", said)
                elif picture not in known:
                    left_out.add("file missing", said)
                elif picture in self._found:
                    left_out.add("named in two lines", said)
                else:
                    self._found[picture] = (number, start, size)

    def __contains__(self, picture: str) -> bool:
        return picture in self._found

    def order(self, pictures: Sequence[str]) -> None:
        """Keeps the places in the order of the records alone."""
        places = [self._found.get(picture, _NOWHERE) for picture in pictures]
        self._places = np.array(places, np.uint64) if self._found else None
        self._found = {}

    def read(self, index: int, picture: str) -> Mapping[str, Any]:
        """What the line of a record says; nothing where it has none."""
        if self._places is None:
            return {}
        number, start, size = self._places[index].tolist()
        data = read_part(self._directory / self._files[number], start, size, picture)
        return annotations.read_json(data, picture)


def _places(
    directory: AnyPath, file: str, left_out: Tally
) -> Iterator[tuple[int, int, str | None]]:
    """(start, size, picture) of each line that is not blank; None for one that cannot be read.

    Of a line that is too long to be read only the beginning is.
    """
    start, ended = 0, True
    try:
        with (directory / file).open("rb") as lines:
            while line := lines.readline(annotations.MAX_TEXT_BYTES + 1):
                if ended and line.strip():
                    yield start, len(line), _picture(line, file)
                start, ended = start + len(line), line.endswith(b"\n")
    except OSError:
        left_out.add("file unreadable", file)


def _picture(line: bytes, file: str) -> str | None:
    """The picture that a line names, "" where it names none; None where it cannot be read."""
    try:
        name = annotations.read_json(line, file).get(_FILE_NAME)
    except BrokenRecord:
        return None
    if not isinstance(name, str) or not name:
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), name))
