"""ArrayRecord files of captioned pictures: read in any order, written from any other source.

A record is a MessagePack map:

    image      bytes: an encoded picture
    captions   list of texts, or one
    low_res    bytes: the same picture at a stage's low resolution; may be left out
    and any other name with a number, for filters and classes, or with the bytes of a picture of
    conditions.pictures
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from imagen_jax.config import ConditionsConfig
from imagen_jax.config.conditions import LOW_RES
from imagen_jax.data import annotations
from imagen_jax.data.broken import Tally
from imagen_jax.data.places import files_of
from imagen_jax.data.records import BrokenRecord, ListedCaptions, Metadata, Record
from imagen_jax.errors import UsageError, reason

_TEXT_ALONE = ConditionsConfig()
_OPTIONS = "group_size:1"
"""Every record can be read alone."""
_READ_ERRORS = (ValueError, IndexError, RuntimeError)


class ArrayRecordSource:
    """All records of a set of files, in the order of their names. The files are their own index."""

    def __init__(self, place: str, data_dir: str = "", conditions: ConditionsConfig = _TEXT_ALONE):
        """Opens the files.

        Args:
            place: a directory of `.arrayrecord` files, or a pattern of their paths.
            data_dir: where numbers for filters are kept; empty for beside the files.
            conditions: what the stage is told.

        Raises:
            UsageError: there is no such file, or one that is damaged.
        """
        self.name, self._conditions = f"arrayrecord:{place}", conditions
        found = files_of(self.name, place, "*.arrayrecord", data_dir)
        self.home, self.left_out = found.home, Tally()
        self.fingerprint = hashlib.sha256(repr(found.files).encode()).hexdigest()
        paths = [str(file.path) for file in found.files]
        try:
            "".join(paths).encode()  # No others can be opened.
            self._records = ArrayRecordDataSource(paths)
        except _READ_ERRORS as error:
            raise UsageError(f"{self.name} cannot be read: {reason(error)}.") from error
        if not len(self):
            raise UsageError(f"data.source is {self.name!r}; it holds no record.")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        name, values = self._values(index)
        names = ("image", LOW_RES, *(picture.name for picture in self._conditions.shown))
        pictures = {x: values[x] for x in names if values.get(x) is not None}
        if "image" not in pictures or not all(isinstance(x, bytes) for x in pictures.values()):
            raise BrokenRecord(name, "no picture")
        for picture in pictures.values():
            if len(picture) > annotations.MAX_PICTURE_BYTES:
                raise annotations.too_large(name, len(picture))
        return Record(name, pictures.pop("image"), self._captions(values, name), pictures)

    def metadata(self, index: int) -> Metadata:
        name, values = self._values(index)
        return Metadata(self._captions(values, name), annotations.numbers_of(values))

    def _captions(self, values: dict[str, Any], name: str) -> ListedCaptions | None:
        return annotations.captions_of(values, name) if self._conditions.text else None

    def _values(self, index: int) -> tuple[str, dict[str, Any]]:
        name = f"{self.name}[{index}]"
        try:
            values = msgpack.unpackb(self._records[index])
        except UnicodeDecodeError as error:
            raise BrokenRecord(name, "caption not UTF-8", reason(error)) from error
        except (*_READ_ERRORS, msgpack.UnpackException) as error:
            raise BrokenRecord(name, "record unreadable", reason(error)) from error
        if not isinstance(values, dict):
            raise BrokenRecord(name, "record unreadable", "it must be a map")
        return name, values


def pack(record: Record, metadata: Metadata) -> bytes:
    """A record as it is stored.

    Raises:
        BrokenRecord: a text has half a letter, as JSON may spell one.
    """
    own = {"image": record.image, "captions": list(record.captions.all())}
    try:
        return msgpack.packb({**metadata.numbers, **record.pictures, **own})
    except UnicodeEncodeError as error:
        raise BrokenRecord(record.name, "text is not Unicode", reason(error)) from error


def write_file(path: Path, records: Iterator[bytes]) -> int:
    """Writes one file of packed records, makes its directory, and returns their number.

    Raises:
        OSError: it cannot be written.
    """
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with _writing():
        writer = ArrayRecordWriter(str(path), _OPTIONS)
    for record in records:
        with _writing():
            writer.write(record)
        count += 1
    with _writing():
        writer.close()
    return count


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turns what array_record raises on a full disk into what others do."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(reason(error).partition(";")[0]) from error
