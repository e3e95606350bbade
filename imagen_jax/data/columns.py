"""Arrays of one row a record, kept in one file beside the data and read from disk by row."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath, replacing

_DIRECTORY = ".imagen_jax"
_DAMAGED = (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError)
_DESCRIBED = "described"
_PIECE = 2**16
"""Rows."""


def columns_path(home: AnyPath, source: str, kind: str) -> AnyPath:
    """Where the columns of one kind are kept of a source, as it is named."""
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()
    return home / _DIRECTORY / f"{digest[:16]}.{kind}"


def write_columns(path: AnyPath, columns: dict[str, np.ndarray], about: Any) -> None:
    """Writes the columns and `about`, which must fit in JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    described = {"about": about, "sha256": _digest(path.name, about, columns)}
    data = save(columns, {_DESCRIBED: json.dumps(described)})  # One, as their order is random.
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except UsageError as error:
        raise UsageError(f"{error} Name another place for it with data.data_dir.") from error


def _digest(file: str, about: Any, columns: Mapping[str, Any]) -> str:
    """SHA-256 of `about` and of arrays, or slices of a file, by name; read piece by piece.

    The file's own name is part of it: what is whole and has come to another place, such as the
    numbers of filters to that of the index of shards, is not what belongs there.
    """
    digest = hashlib.sha256(json.dumps([file, about]).encode())
    for name in sorted(columns):
        rows = _rows(columns[name])
        digest.update(f"{name} {rows}".encode())
        for start in range(0, rows, _PIECE):
            piece = np.ascontiguousarray(columns[name][start : min(start + _PIECE, rows)])
            digest.update(f"{piece.dtype} {piece.shape}".encode())
            digest.update(piece)
    return digest.hexdigest()


def _rows(column: Any) -> int:
    return (column.shape if isinstance(column, np.ndarray) else column.get_shape())[0]


class Columns:
    """Columns that were written, mapped into memory: the system reads what is asked for.

    They can go to another process of the machine, which maps the same file.
    """

    def __init__(self, path: AnyPath):
        """`path` may lie in a bucket: then a copy is mapped, which lasts as long as this.

        Raises:
            OSError: it cannot be read.
            SafetensorError, KeyError, TypeError, ValueError, RecursionError: it is damaged, be it
                one bit.
        """
        self._copy = None
        if not isinstance(path, Path):
            self._copy = tempfile.NamedTemporaryFile(prefix="imagen_jax-")  # noqa: SIM115
            self._copy.write(path.read_bytes())
            self._copy.flush()
        self._open(os.fspath(path) if self._copy is None else self._copy.name)
        described = json.loads((self._file.metadata() or {})[_DESCRIBED])
        self.about = described["about"]
        if described["sha256"] != _digest(path.name, self.about, self._slices):
            raise ValueError(f"{path} is damaged")

    def _open(self, path: str) -> None:
        self._path = path
        self._file = safetensors.safe_open(path, "np")
        self._slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118

    def __len__(self) -> int:
        """The number of rows."""
        return _rows(next(iter(self._slices.values())))

    def row(self, name: str, index: int) -> np.ndarray:
        return self._slices[name][index]

    def column(self, name: str) -> np.ndarray:
        """All of it, in memory."""
        return self._file.get_tensor(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path, "about": self.about}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._copy, self.about = None, state["about"]
        self._open(state["path"])


def open_columns(path: AnyPath) -> Columns | None:
    """The columns at `path`; None if there are none, or none that are whole."""
    try:
        return Columns(path) if path.is_file() else None  # A pipe would be waited for.
    except _DAMAGED:
        return None
