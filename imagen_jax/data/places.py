"""Where the files of a source lie, on this machine or in a bucket."""

import dataclasses
import glob
import itertools
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from imagen_jax.data.records import BrokenRecord
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import (
    AnyPath,
    FileState,
    directories_below,
    list_files,
    read_range,
    state_of,
    to_path,
    with_home,
)

MISSING, UNREADABLE = "file missing", "file unreadable"
"""Reasons that may pass: the file says nothing about its record."""
_MAX_PATTERNS = 10**6
"""That braces may stand for."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a source; at least one."""

    directory: AnyPath
    """That all of them lie below."""
    pattern: str
    """That their paths match."""
    files: list[FileState]
    """In order of their paths."""
    home: AnyPath
    """Where what is worked out about them is kept."""


def files_of(source: str, place: str, name: str, data_dir: str) -> Found:
    """The files at `place`.

    Args:
        source: as the user names it, for the error.
        place: a directory, or a pattern of paths such as `data/0*.tar` or `data/{000..099}.tar`.
        name: pattern of the paths below `place`, where that is a directory.
        data_dir: the home; empty for the directory itself.

    Raises:
        UsageError: there are none, or none for one of the names that braces stand for.
    """
    path = from_root(place)
    if path.is_dir():
        directory, pattern, patterns = path, f"{path}/{name}", [f"{_literal(path)}/{name}"]
    elif path.is_file():
        directory, pattern, patterns = path.parent, str(path), [_literal(path)]
    else:
        pattern, patterns = str(path), expand_braces(str(path), source)
        directory = to_path(re.split(r"[*?\[{]", pattern)[0].rpartition("/")[0])
    files = []
    for one in patterns:
        found = list_files(one)
        if not found:
            raise UsageError(f"data.source is {source!r}; there is no file {one}.")
        files += found
    files = list(dict.fromkeys(sorted(files, key=lambda file: str(file.path))))
    return Found(directory, pattern, files, _home(directory, data_dir))


def from_root(place: str) -> AnyPath:
    """`place`, from the root where it is on this machine; `~` is the home directory."""
    path = to_path(place)
    return with_home(path).absolute() if isinstance(path, Path) else path


def _home(directory: AnyPath, data_dir: str) -> AnyPath:
    return to_path(data_dir) if data_dir else directory


def _literal(path: AnyPath) -> str:
    """A pattern that nothing else matches."""
    return glob.escape(str(path)) if isinstance(path, Path) else str(path)


def expand_braces(pattern: str, source: str) -> list[str]:
    """The patterns that `{a,b}` and `{000..099}` in `pattern` stand for; braces do not nest.

    Numbers are as wide as the wider of the two where one begins with 0. Other braces stay.

    Raises:
        UsageError: there are more than a million.
    """
    choices = [_choices(part) for part in re.split(r"(\{[^{}]*\})", pattern)]
    if math.prod(map(len, choices)) > _MAX_PATTERNS:
        raise UsageError(
            f"data.source is {source!r}; its braces stand for more than {_MAX_PATTERNS:,} names."
        )
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(part: str) -> list[str]:
    """What a part of a pattern stands for; of too many numbers, one too many."""
    braces = _BRACES.fullmatch(part)
    if ends := _RANGE.fullmatch(braces[1]) if braces else None:
        first, last = map(int, ends.groups())
        padded = any(end.startswith("0") and len(end) > 1 for end in ends.groups())
        width = max(map(len, ends.groups())) if padded else 0
        step = 1 if first <= last else -1
        numbers = range(first, last + step, step)[: _MAX_PATTERNS + 1]
        return [f"{number:0{width}}" for number in numbers]
    return braces[1].split(",") if braces and "," in braces[1] else [part]


def files_below(source: str, place: str, data_dir: str) -> Found:
    """All files below a directory but hidden ones, each real directory once.

    A link that leads nowhere is a file too; what is there to be read of it shows later.

    Raises:
        UsageError: there is no such directory, it cannot be read, or it holds no file.
    """
    path = from_root(place)
    if not path.is_dir():
        raise UsageError(f"data.source is {source!r}; there is no such directory.")
    if not isinstance(path, Path):
        return files_of(source, place, "**", data_dir)
    files = filter(None, map(state_of, _walk(path)))
    files = sorted(files, key=lambda file: str(file.path))
    if not files:
        raise UsageError(f"data.source is {source!r}; there is no file {path}/**.")
    return Found(path, f"{path}/**", files, _home(path, data_dir))


def _walk(top: Path) -> Iterator[Path]:
    """Files below `top`; a directory that cannot be read is left out with a warning."""

    def skip(error: OSError) -> None:
        if error.filename == str(top):
            raise error
        warnings.warn(f"{error.filename} is left out: {reason(error)}", stacklevel=2)

    for directory, names in directories_below(top, skip):
        yield from (directory / name for name in names if not name.startswith("."))


def read_part(path: AnyPath, start: int, size: int, name: str) -> bytes:
    """`size` bytes of a file of this machine or a bucket, or fewer where it ends.

    Raises:
        BrokenRecord: `name`, whose file is gone or cannot be read.
    """
    try:
        return read_range(path, start, size)
    except FileNotFoundError:
        raise BrokenRecord(name, MISSING) from None
    except OSError as error:
        if isinstance(path, Path):
            raise BrokenRecord(name, UNREADABLE, reason(error)) from error
        raise  # Of the network: no fault of this record.
