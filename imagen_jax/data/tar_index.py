"""The index of a set of tar shards: where each record's files lie, 8 bytes a file."""

import array
import concurrent.futures
import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from imagen_jax.data.annotations import NOT_READ, OTHER_PICTURE_SUFFIXES, PICTURE_SUFFIXES
from imagen_jax.data.broken import Tally
from imagen_jax.data.columns import Columns, open_columns, write_columns
from imagen_jax.data.tar_members import BLOCK, DamagedTar, Member, Window, members
from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath, FileState, read_range, threads_for

PLACES = "places"
"""uint32 [records, 6 + 2 shown]: first block and size in bytes of the picture, the caption, the
JSON and what is shown beside the picture, of each record; zeros for a file that it has not."""
CAPTION, JSON = ".txt", ".json"
_OF_PICTURES = (*PICTURE_SUFFIXES, *OTHER_PICTURE_SUFFIXES)
_SUFFIXES = {*_OF_PICTURES, CAPTION, JSON}
_LOCAL_READ_AHEAD, _BUCKET_READ_AHEAD = 2**12, 2**22
"""Bytes; on this machine, jumping from header to header is cheap."""
_GZIP = b"\x1f\x8b"
_NOWHERE = (0, 0)
_NO_PICTURE, _NO_CAPTION = "no picture", "no caption"

Files = dict[str, Member]
"""Suffix -> file, of those of a record that matter."""


class Shard(NamedTuple):
    """What the index says of a shard as a whole."""

    path: str
    size: int
    version: str
    records: int
    left_out: dict[str, Sequence[int | str]]


def open_index(
    path: AnyPath, shards: Sequence[FileState], shown: Sequence[str] = ()
) -> tuple[Columns, list[Shard]]:
    """The index of `shards`, kept at `path`; what is missing or changed there is read anew.

    Args:
        shown: names of pictures that every record has beside its own, as KEY.NAME.png.

    Raises:
        UsageError: a shard is compressed, or the index cannot be written.
    """
    kept = open_columns(path)
    known = {shard[:3]: shard for shard in _shards(kept)} if kept is not None else {}
    wanted = [(str(shard.path), shard.size, shard.version) for shard in shards]
    if list(known) != wanted:
        rows = _rows_by_shard(kept, known)
        fresh = [shard for shard, state in zip(shards, wanted, strict=True) if state not in known]
        read = _read_shards(fresh, path, shown)
        for shard, (places, left_out) in zip(fresh, read, strict=True):
            state = (str(shard.path), shard.size, shard.version)
            known[state] = Shard(*state, len(places), left_out.counts)
            rows[state] = places
        none = np.empty((0, _width(shown)), np.uint32)
        places = np.concatenate([none, *(rows[state] for state in wanted)])
        write_columns(path, {PLACES: places}, [known[state] for state in wanted])
        kept = Columns(path)
    return kept, _shards(kept)


def _shards(kept: Columns) -> list[Shard]:
    return [Shard(*shard) for shard in kept.about]


def _rows_by_shard(kept: Columns | None, known: dict[Any, Shard]) -> dict[Any, np.ndarray]:
    if kept is None:
        return {}
    ends = np.cumsum([shard.records for shard in known.values()])
    return dict(zip(known, np.split(kept.column(PLACES), ends[:-1]), strict=True))


def _read_shards(
    shards: Sequence[FileState], path: AnyPath, shown: Sequence[str]
) -> Iterator[tuple[np.ndarray, Tally]]:
    if not shards:
        return
    with concurrent.futures.ThreadPoolExecutor(threads_for(str(shards[0].path))) as pool:
        read = pool.map(functools.partial(read_shard, shown=shown), shards)
        name = path.parent.parent.name
        yield from tqdm(read, f"indexing {name}", len(shards), unit="shard", delay=2, leave=False)


def _width(shown: Sequence[str]) -> int:
    return 2 * (3 + len(shown))


def read_shard(shard: FileState, shown: Sequence[str] = ()) -> tuple[np.ndarray, Tally]:
    """The places of a shard's records, and what is left out of it.

    Args:
        shown: as `open_index` takes it.

    Raises:
        UsageError: it is compressed.
    """
    places, left_out = array.array("Q"), Tally()
    lacking: dict[str, str] = {}
    for name, files in _groups(shard, left_out, shown):
        if reason := _reason(files, shown):
            apart = {lacking.get(name), reason} == {_NO_PICTURE, _NO_CAPTION}
            lacking[name] = "files of a record not one after another" if apart else reason
        else:
            places.extend(itertools.chain(*_files(files, shown)))
    for name, reason in lacking.items():
        left_out.add(reason, name)
    most = np.iinfo(np.uint32).max
    return np.minimum(np.asarray(places).reshape(-1, _width(shown)), most).astype(
        np.uint32
    ), left_out


def _reason(files: Files, shown: Sequence[str]) -> str:
    """Why a record cannot be used; empty for one that can."""
    if problem := next((member.problem for member in files.values() if member.problem), ""):
        return problem
    if not any(suffix in PICTURE_SUFFIXES for suffix in files):
        other = any(suffix in OTHER_PICTURE_SUFFIXES for suffix in files)
        return NOT_READ if other else _NO_PICTURE
    if not (CAPTION in files or JSON in files):
        return _NO_CAPTION
    return next((f"no {name}" for name in shown if _beside(files, name) is None), "")


def _beside(files: Files, name: str) -> str | None:
    """The suffix of the picture that is shown beside the record's own."""
    return next((x for x in _suffixes(name) if x in files), None)


def _suffixes(name: str) -> list[str]:
    """Of a picture of this name; those of files are read in lower case."""
    return [f".{name.lower()}{suffix}" for suffix in PICTURE_SUFFIXES]


def _files(files: Files, shown: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(first block, size in bytes) of picture, caption, JSON and what is shown."""
    picture = next(suffix for suffix in files if suffix in PICTURE_SUFFIXES)
    for suffix in (picture, CAPTION, JSON, *(_beside(files, name) for name in shown)):
        member = files.get(suffix)
        yield (member.start // BLOCK, member.size) if member else _NOWHERE


def _groups(shard: FileState, left_out: Tally, shown: Sequence[str]) -> Iterator[tuple[str, Files]]:
    """The name and the files of each record."""
    known = _SUFFIXES | {suffix for name in shown for suffix in _suffixes(name)}
    found = ((*_split(member.name), member) for member in _whole_members(shard, left_out))
    seen = (named for named in found if not _is_hidden(named[0]))
    for key, group in itertools.groupby(seen, lambda named: named[0]):
        files: Files = {}
        dotted = set()
        for _, suffix, member in group:
            if suffix in known:
                files.setdefault(suffix, member)
            elif suffix.endswith(_OF_PICTURES):
                dotted.add(member.name)
        if files:
            yield f"{shard.path.name}/{key}", files
        for name in sorted(dotted) if not files else ():
            left_out.add("more than one dot in the name", f"{shard.path.name}/{name}")


def _is_hidden(key: str) -> bool:
    """Whether a name, or a directory in it, begins with a dot, as macOS's own files do."""
    return any(part.startswith(".") and part not in (".", "..") for part in key.split("/"))


def _whole_members(shard: FileState, left_out: Tally) -> Iterator[Member]:
    with _opened(shard.path) as window:
        if window.read(0, 2) == _GZIP:
            raise UsageError(
                f"{shard.path} is compressed and cannot be read in any order; unpack it."
            )
        try:
            yield from members(window, shard.size)
        except DamagedTar:
            left_out.add("shard cut short or damaged", str(shard.path.name))


@contextlib.contextmanager
def _opened(path: AnyPath) -> Iterator[Window]:
    if not isinstance(path, Path):
        yield Window(functools.partial(read_range, path), _BUCKET_READ_AHEAD)
        return
    with path.open("rb", buffering=0) as file:
        yield Window(lambda start, size: os.pread(file.fileno(), size, start), _LOCAL_READ_AHEAD)


def _split(name: str) -> tuple[str, str]:
    """(key, suffix): WebDataset's keys end at the first dot of the file's name.

    Not at a dot that it begins with.
    """
    dot = name.find(".", name.rfind("/") + 2)
    return (name[:dot], name[dot:].lower()) if dot >= 0 else (name, "")
