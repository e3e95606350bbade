"""Where the files of a source lie, on this machine or in a bucket."""

import dataclasses
import glob
import re
from pathlib import Path

from imagen_jax.errors import UsageError
from imagen_jax.files import AnyPath, FileState, list_files, to_path


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
        place: a directory, or a pattern of paths such as `data/0*.tar`.
        name: pattern of the paths below `place`, where that is a directory.
        data_dir: the home; empty for the directory itself.

    Raises:
        UsageError: there are none.
    """
    path = to_path(place)
    local = isinstance(path, Path)
    path = path.expanduser().absolute() if local else path
    if path.is_dir():
        directory, pattern = path, f"{glob.escape(str(path)) if local else path}/{name}"
    else:
        pattern = str(path)
        directory = to_path(re.split(r"[*?\[]", pattern)[0].rpartition("/")[0])
    files = list_files(pattern)
    if not files:
        raise UsageError(f"data.source is {source!r}; there is no file {pattern}.")
    return Found(directory, pattern, files, to_path(data_dir) if data_dir else directory)
